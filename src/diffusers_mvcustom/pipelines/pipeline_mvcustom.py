"""`MVCustomPipeline`: a prompt, a subject and target cameras become consistent views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    MotionAdapter,
    SchedulerMixin,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)

from ..cameras import Cameras
from ..errors import MVCustomError
from ..hooks import AnchorGeometry, AnchorSettings, DenoisingHook, DenoisingRun, NoiseLevels
from ..models import AttentionWindows, enable_spatio_temporal_attention
from .anchors import AnchorPreparation, resolve_anchor_depth
from .denoising import DenoisingMixin
from .guidance import Conditions
from .hook_settings import HookSettingsMixin
from .inputs import (
    CamerasInput,
    check_count,
    check_num_frames,
    check_prompts,
    check_scale,
    check_share,
    check_view_size,
    resolve_cameras,
)
from .persistence import PersistenceMixin
from .pipeline_output import MVCustomPipelineOutput
from .subject_loading import SubjectLoadingMixin, SubjectRendering


class MVCustomPipeline(SubjectLoadingMixin, HookSettingsMixin, PersistenceMixin, DenoisingMixin, AnimateDiffPipeline):
    r"""Pipeline for multi-view customization: your own object, seen from any camera, in any scene you can describe.

    Stock diffusers components with dense spatio-temporal attention in the motion modules, a subject adapter
    ([`SubjectAdapter`]) and denoising hooks. A saved pipeline holds stock components only, so it also loads as an
    [`AnimateDiffPipeline`]. With `attention_window=1`, no subject and `hooks=[]` it *is* that pipeline, to the bit.

    It inherits diffusers' loaders for LoRA, textual inversion and IP-Adapter, and FreeInit. Source: MVCustom
    (arXiv 2510.13702).

    Args:
        vae ([`AutoencoderKL`]): Encodes reference photos and decodes views.
        text_encoder ([`CLIPTextModel`]), tokenizer (`CLIPTokenizer`): Encode prompts.
        unet ([`UNet2DConditionModel`] or [`UNetMotionModel`]): The denoiser. A 2-D U-Net is joined with
            `motion_adapter`.
        scheduler ([`SchedulerMixin`]): DDIM as in the paper; also Euler, DPM++ and LCM.
        motion_adapter ([`MotionAdapter`], *optional*): Needed with a 2-D U-Net only.
        depth_estimator (`transformers.PreTrainedModel`, *optional*): Any depth model of transformers,
            `ZoeDepthForDepthEstimation` as in the paper. Without one the anchor's depth must be given in the call.
        depth_image_processor (`transformers.BaseImageProcessor`, *optional*): The depth model's image processor.
        feature_extractor (`CLIPImageProcessor`, *optional*), image_encoder (`CLIPVisionModelWithProjection`,
            *optional*): For IP-Adapter.
        attention_window (`int`, `None` or `dict`, defaults to `"auto"`): Spatial window of the motion modules'
            attention: 1 is AnimateDiff, odd k a k × k window, `None` the whole map, a dict a setting per feature map
            size such as `{"64": 7, "32": None}`. `"auto"` takes what the motion adapter (or U-Net) was trained with
            as its configuration says, else 1.
        denoising_hooks (`dict`, *optional*): Settings of the built-in hooks by name, as saved. `None`: both built-in
            hooks with their defaults where there is a depth model, else none.
        anchor (`dict`, *optional*): [`AnchorSettings`] as saved.
        subject_folder (`str`, *optional*): Folder of the saved subject inside the repository.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae->depth_estimator"
    _optional_components = [  # noqa: RUF012  (diffusers' own form)
        "feature_extractor",
        "image_encoder",
        "motion_adapter",
        "depth_estimator",
        "depth_image_processor",
    ]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel | UNetMotionModel,
        scheduler: SchedulerMixin,
        motion_adapter: MotionAdapter | None = None,
        depth_estimator: PreTrainedModel | None = None,
        depth_image_processor: BaseImageProcessor | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        attention_window: int | str | dict | None = "auto",
        denoising_hooks: dict | None = None,
        anchor: dict | None = None,
        subject_folder: str | None = None,
    ):
        if isinstance(unet, UNet2DConditionModel) and motion_adapter is None:
            raise MVCustomError(
                "motion_adapter: expected a MotionAdapter to go with the 2-D U-Net, got None. Pass "
                "motion_adapter=MotionAdapter.from_pretrained(...)."
            )
        trained_window = _trained_window(unet, motion_adapter)
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            motion_adapter=motion_adapter,
            scheduler=scheduler,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_modules(depth_estimator=depth_estimator, depth_image_processor=depth_image_processor)
        self.register_to_config(subject_folder=subject_folder)
        self._init_subjects()
        self._init_hooks(denoising_hooks, anchor)
        self._trained_window = trained_window
        if self.unet is not None:
            self.set_attention_window(attention_window)
        else:
            self.register_to_config(attention_window=attention_window)

    def set_attention_window(self, window: int | str | dict | None) -> None:
        """Sets the spatial window of the motion modules' attention; the values are those of `attention_window`."""
        resolved = self._trained_window if window == "auto" else window
        enable_spatio_temporal_attention(self.unet, AttentionWindows(resolved))
        self.register_to_config(attention_window=resolved)

    def enable_free_noise(self, *args, **kwargs) -> None:
        """Not supported: FreeNoise rebuilds the motion modules with one-dimensional attention.

        Raises:
            MVCustomError: always.
        """
        raise MVCustomError(
            "enable_free_noise: FreeNoise replaces the dense spatio-temporal attention that keeps the surroundings "
            "consistent. Generate long camera paths in several calls, or take AnimateDiffPipeline."
        )

    @property
    def reference_guidance_scale(self) -> float | None:
        return self._reference_guidance_scale

    # --- the lifecycle of a call, in order ---

    def check_call(
        self,
        cameras: Cameras,
        hooks: Sequence[DenoisingHook],
        anchor_depth: Tensor | None,
        latents: Tensor | None,
        latents_shape: tuple[int, ...],
    ) -> None:
        """Everything that can be refused before anything expensive happens, beyond diffusers' own `check_inputs`."""
        check_num_frames(len(cameras), self.unet.config.motion_max_seq_length)
        if latents is not None and tuple(latents.shape) != latents_shape:
            raise MVCustomError(f"latents: expected shape {latents_shape}, got {tuple(latents.shape)}.")
        if self.subject is not None:
            self.subject.check_cameras(cameras)
        if self.subject is None and self.reference_guidance_scale is not None:
            raise MVCustomError(
                "reference_guidance_scale: there are no references to guide by; call load_subject first."
            )
        has_depth = self.depth_estimator is not None and self.depth_image_processor is not None
        if any(hook.needs_geometry for hook in hooks) and anchor_depth is None and not has_depth:
            raise MVCustomError(
                "hooks: depth-aware rendering and completion need the anchor's depth, and this pipeline has no "
                "depth_estimator and depth_image_processor. Load it with them, pass anchor_depth=, or hooks=[]."
            )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: CamerasInput | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        reference_guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (diffusers' own form)
        decode_chunk_size: int = 16,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> MVCustomPipelineOutput | tuple:
        r"""Generates one view per camera.

        Args:
            prompt (`str` or `list[str]`, *optional*): What to generate. With a subject it names the subject's token.
            cameras (`Cameras`, path or `torch.Tensor` of shape `(N, 4, 4)`): Target cameras in the subject frame; a
                camera file; or poses in the named `camera_convention` with `camera_intrinsics`.
            height (`int`, *optional*), width (`int`, *optional*): Size of the views in pixels, by default the cameras'.
                Cameras of another aspect ratio are cropped at the centre.
            num_inference_steps (`int`, defaults to 50): Denoising steps.
            guidance_scale (`float`, defaults to 5.0): Text guidance; 3 flickers less but blurs, 8 is sharp but flickers.
            reference_guidance_scale (`float`, *optional*): Guidance by the references as a third branch.
            negative_prompt (`str` or `list[str]`, *optional*): What to keep away from.
            num_images_per_prompt (`int`, defaults to 1): Sets of views per prompt.
            eta (`float`, defaults to 0.0): η of DDIM.
            generator (`torch.Generator` or a list of them, *optional*): Makes the result reproducible.
            latents (`torch.Tensor` of shape `(batch, channels, N, h, w)`, *optional*): Initial noise.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor` of shape `(batch, L, D)`, *optional*): Instead of
                texts.
            ip_adapter_image, ip_adapter_image_embeds (*optional*): See [`IPAdapterMixin`].
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, defaults to `True`): Whether to return [`MVCustomPipelineOutput`] or a tuple.
            cross_attention_kwargs (`dict`, *optional*): For the attention processors; `{"scale": s}` scales LoRA.
            clip_skip (`int`, *optional*): Layers of the text encoder to skip.
            callback_on_step_end (`Callable`, *optional*): `callback(pipe, step, timestep, kwargs) -> dict`.
            callback_on_step_end_tensor_inputs (`list[str]`): Tensors given to the callback.
            decode_chunk_size (`int`, defaults to 16): Views decoded at a time.
            pose_guidance_start (`float`, defaults to 0.0), pose_guidance_end (`float`, defaults to 1.0): Share of the
                steps between which the subject's pose-conditioned blocks act. `start=0.25` lets the prompt change
                the shape more; from 0.5 on the viewpoint goes, from 0.75 on the subject.
            num_references (`int`, *optional*): Reference views used, by default the subject's setting.
            hooks (sequence of [`DenoisingHook`], *optional*): By default the pipeline's own (`pipe.hooks`); `[]` for
                none.
            anchor (`int`, sequence of `int` or [`AnchorSettings`], *optional*): Anchor frame(s) of the geometry.
            anchor_depth (`torch.Tensor` of shape `(H, W)`, `(A, H, W)` or `(batch, A, H, W)`, *optional*): z-depth of
                the anchor frame(s) in world units. With it there is no preview pass and no depth estimate.
            camera_convention (`str`, *optional*), camera_intrinsics (`torch.Tensor`, *optional*): For poses given as a
                tensor.
            split_guidance (`bool`, defaults to `False`): Whether the branches of guidance go through the U-Net one
                after the other: about half the memory, a little slower.

        Returns:
            [`MVCustomPipelineOutput`], or a tuple whose first element are the frames.

        Raises:
            MVCustomError: before any model runs, naming the argument that cannot be used.

        Examples:

        ```py
        >>> from diffusers_mvcustom import Cameras, MVCustomPipeline
        >>> from diffusers_mvcustom.toy import random_components
        >>> pipe = MVCustomPipeline(**random_components("tiny"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> out = pipe("a mug by a lake", Cameras.orbit(4, height=64, width=64), num_inference_steps=2)
        >>> len(out.frames[0]), out.frames[0][0].size
        (4, (64, 64))

        ```
        """
        # 1. Inputs
        self._restore_saved_subject()
        cameras = resolve_cameras(
            cameras, convention=camera_convention, intrinsics=camera_intrinsics, height=height, width=width
        )
        height, width, num_frames = cameras.height, cameras.width, len(cameras)
        check_view_size(height, width, max(8, self.vae_scale_factor))
        hooks = list(self.hooks if hooks is None else hooks)
        if num_frames == 1:
            hooks = [hook for hook in hooks if not hook.needs_several_frames]
        anchor = self.anchor.with_frames(anchor)
        for name, value in (
            ("num_inference_steps", num_inference_steps),
            ("num_images_per_prompt", num_images_per_prompt),
            ("decode_chunk_size", decode_chunk_size),
        ):
            check_count(name, value)
        for name, value in (
            ("guidance_scale", guidance_scale),
            ("reference_guidance_scale", reference_guidance_scale),
        ):
            check_scale(name, value)
        check_share("pose_guidance", pose_guidance_start, pose_guidance_end)
        self._guidance_scale = guidance_scale
        self._reference_guidance_scale = reference_guidance_scale
        self._clip_skip = clip_skip
        self._cross_attention_kwargs = cross_attention_kwargs
        self._split_guidance = split_guidance
        self._num_inference_steps = num_inference_steps
        self._interrupt = False
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        check_prompts(prompt, None if self.subject is None else self.subject.config.token)
        self.check_inputs(
            prompt,
            height,
            width,
            None,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            ip_adapter_image,
            ip_adapter_image_embeds,
            callback_on_step_end_tensor_inputs,
        )
        num_prompts = 1 if isinstance(prompt, str) else len(prompt if prompt is not None else prompt_embeds)
        batch_size = num_prompts * num_images_per_prompt
        latents_shape = (
            batch_size,
            self.unet.config.in_channels,
            num_frames,
            height // self.vae_scale_factor,
            width // self.vae_scale_factor,
        )
        self.check_call(cameras, hooks, anchor_depth, latents, latents_shape)
        if anchor_depth is not None:
            anchor_depth = resolve_anchor_depth(anchor_depth, batch_size, len(anchor.resolve(num_frames)))
        if any(hook.needs_geometry for hook in hooks):
            anchor.resolve(num_frames)
        device = self._execution_device

        # 2. Text and image conditions
        lora_scale = None if cross_attention_kwargs is None else cross_attention_kwargs.get("scale")
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            self.do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=lora_scale,
            clip_skip=clip_skip,
        )
        if not self.do_classifier_free_guidance:
            negative_prompt_embeds = None
        conditions = Conditions(prompt_embeds, negative_prompt_embeds)
        if ip_adapter_image is not None or ip_adapter_image_embeds is not None:
            conditions.image_embeds = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image, ip_adapter_image_embeds, device, batch_size, self.do_classifier_free_guidance
            )

        # 3. The subject from the target cameras, once for all steps
        rendering: SubjectRendering | None = None
        if self.subject is not None and pose_guidance_start < pose_guidance_end:
            texts = [prompt_embeds] if negative_prompt_embeds is None else [negative_prompt_embeds, prompt_embeds]
            rendering = self.render_subject(
                torch.cat(texts), cameras, num_references, generator, conditions.image_embeds
            )
            conditions.features = rendering.features

        # 4. Schedule and latents
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        latents = self.prepare_latents(
            *latents_shape[:3],
            height,
            width,
            prompt_embeds.dtype,
            device,
            generator,
            latents,
        )
        extra_step_kwargs = self.prepare_extra_step_kwargs(generator, eta)

        # 5. Geometry from the anchor(s): made when the first hook asks for it
        preparation = AnchorPreparation(
            self,
            anchor,
            cameras.to(device, torch.float32),
            latents,
            conditions,
            rendering,
            anchor_depth,
            extra_step_kwargs,
        )

        def on_step_end(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback_on_step_end is None:
                return latents
            negative = conditions.negative_prompt_embeds
            embeds = [conditions.prompt_embeds] if negative is None else [negative, conditions.prompt_embeds]
            offered = {
                "latents": latents,
                "prompt_embeds": torch.cat(embeds),
                "negative_prompt_embeds": negative,
            }
            given = {name: offered[name] for name in callback_on_step_end_tensor_inputs}
            returned = callback_on_step_end(self, index, timestep, given) or {}
            changed = returned.get("prompt_embeds", offered["prompt_embeds"])
            changed_negative = returned.get("negative_prompt_embeds", negative)
            if changed is not offered["prompt_embeds"]:  # negative prompts first, as offered
                changed_negative = changed[:batch_size] if len(changed) > batch_size else changed_negative
                conditions.replace_text(changed[-batch_size:], changed_negative)
            elif changed_negative is not negative:
                conditions.replace_text(conditions.prompt_embeds, changed_negative)
            return returned.get("latents", latents)

        # 6. Denoise, by FreeInit's iterations if it is enabled
        for iteration in range(self._free_init_num_iters if self.free_init_enabled else 1):
            if self.free_init_enabled:
                latents, timesteps = self._apply_free_init(
                    latents, iteration, num_inference_steps, device, latents.dtype, generator
                )
            self._num_timesteps = len(timesteps)
            run = DenoisingRun(
                latents=latents,
                cameras=cameras,
                unet=self.unet,
                scheduler=self.scheduler,
                timesteps=timesteps,
                noise_levels=NoiseLevels.of(self.scheduler, timesteps) if hooks else None,
                generator=generator,
                randn=partial(randn_tensor, generator=generator, device=device, dtype=prompt_embeds.dtype),
                anchor_geometry=preparation.geometry,
            )
            for hook in hooks:
                hook.prepare(run)
            latents = self.denoise(
                run, conditions, hooks, extra_step_kwargs, (pose_guidance_start, pose_guidance_end), on_step_end
            )

        # 7. Decode
        if output_type == "latent":
            frames = latents
        else:
            frames = self.video_processor.postprocess_video(
                video=self.decode_latents(latents, decode_chunk_size), output_type=output_type
            )
        geometry: AnchorGeometry | None = preparation.prepared
        self.maybe_free_model_hooks()
        if not return_dict:
            return (frames,)
        return MVCustomPipelineOutput(
            frames=frames,
            cameras=cameras,
            subject_frame=None if self.subject is None else self.subject.config.subject_frame,
            anchors=None if geometry is None else geometry.anchors,
            anchor_depth=None if geometry is None else geometry.depth,
        )


def _trained_window(unet: torch.nn.Module | None, motion_adapter: MotionAdapter | None) -> int | dict | None:
    """The attention window that the motion modules were trained with, as their configuration says; else 1."""
    for component in (motion_adapter, unet):
        if component is not None and "attention_window" in component.config:
            return component.config["attention_window"]
    return 1
