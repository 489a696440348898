"""`MVCustomPipeline`: a prompt, a subject and target cameras become consistent views."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, cast, overload

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
from ..hooks import AnchorSettings, DenoisingHook, NoiseLevels
from .anchor_images import AnchorImages
from .anchors import known_views
from .attention_window import AttentionWindowMixin, TrainedAttention, trained_attention
from .call_checks import CallChecksMixin
from .denoising import DenoisingMixin
from .guidance import Conditions
from .hook_settings import HookSettingsMixin, acting_hooks, listed_hooks
from .initial_noise import InitialNoiseMixin
from .inputs import resolve_cameras
from .persistence import PersistenceMixin
from .pipeline_output import MVCustomPipelineOutput, ViewFrames
from .prompt_encoding import PromptEncodingMixin
from .step_callback import StepCallback, StepEndCallback
from .subject_features import SubjectOfWindows
from .view_generation import ViewGeneration

if TYPE_CHECKING:
    from ..models.attention_windows import WindowSetting


class MVCustomPipeline(
    AttentionWindowMixin,
    HookSettingsMixin,
    PersistenceMixin,
    CallChecksMixin,
    PromptEncodingMixin,
    InitialNoiseMixin,
    DenoisingMixin,
    AnimateDiffPipeline,
):
    r"""Pipeline for multi-view customization: your own object, seen from any camera, in any scene you can describe.

    Stock diffusers components with dense spatio-temporal attention in the motion modules, a subject adapter
    ([`SubjectAdapter`]) and denoising hooks. A saved pipeline holds stock components only, so it also loads as an
    [`AnimateDiffPipeline`]. With `attention_window=1`, no subject and `hooks=[]` it *is* that pipeline, to the bit (of
    what is decoded together: `decode_chunk_size`).

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
        temporal_heads (`int`, defaults to `"auto"`): How many of the motion modules' heads attend along time alone
            whatever the window is; 0 is the paper's attention. `"auto"` as with the window, else 0.
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
        attention_window: int | str | dict | None = "auto",  # diffusers checks values by these, and knows no Literal
        temporal_heads: int | str = "auto",
        denoising_hooks: dict | None = None,
        anchor: dict | None = None,
        subject_folder: str | None = None,
    ):
        if isinstance(unet, UNet2DConditionModel) and motion_adapter is None:
            raise MVCustomError(
                "motion_adapter: expected a MotionAdapter to go with the 2-D U-Net, got None. Pass "
                "motion_adapter=MotionAdapter.from_pretrained(...)."
            )
        saved = TrainedAttention(
            1 if isinstance(attention_window, str) else attention_window,
            0 if isinstance(temporal_heads, str) else temporal_heads,
        )
        trained = trained_attention(unet, motion_adapter, saved)  # before the two are joined
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
        if depth_estimator is not None and not hasattr(depth_estimator, "device"):
            raise MVCustomError(
                "depth_estimator: expected a depth model of transformers, or one of yours that is a PreTrainedModel, got "
                f"{type(depth_estimator).__name__}, which does not say on which device it is."
            )
        self.register_modules(depth_estimator=depth_estimator, depth_image_processor=depth_image_processor)
        self.register_to_config(subject_folder=subject_folder)
        self._init_subjects()
        self._init_hooks(denoising_hooks, anchor)
        self._trained_attention = trained
        if self.unet is not None:
            window = cast('WindowSetting | Literal["auto"]', attention_window)
            self.set_attention_window(window, cast('int | Literal["auto"]', temporal_heads))  # checks them
        else:
            self.register_to_config(attention_window=attention_window, temporal_heads=temporal_heads)

    @overload
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: Cameras | str | PathLike[str] | Tensor | None = None,
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
        return_dict: Literal[True] = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ...,
        decode_chunk_size: int = 4,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        anchor_image: AnchorImages | None = None,
        views_at_a_time: int | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> MVCustomPipelineOutput: ...

    @overload
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: Cameras | str | PathLike[str] | Tensor | None = None,
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
        *,
        return_dict: Literal[False],
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ...,
        decode_chunk_size: int = 4,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        anchor_image: AnchorImages | None = None,
        views_at_a_time: int | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> tuple[ViewFrames]: ...

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: Cameras | str | PathLike[str] | Tensor | None = None,
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
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (diffusers' own form)
        decode_chunk_size: int = 4,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        anchor_image: AnchorImages | None = None,
        views_at_a_time: int | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> MVCustomPipelineOutput | tuple[ViewFrames]:
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
            cross_attention_kwargs (`dict`, *optional*): For the attention processors; `{"scale": s}` scales all LoRA, the
                subject's among them.
            clip_skip (`int`, *optional*): Layers of the text encoder to skip.
            callback_on_step_end (`Callable`, *optional*): `callback(pipe, step, timestep, kwargs) -> dict`.
            callback_on_step_end_tensor_inputs (`list[str]`): Tensors given to the callback.
            decode_chunk_size (`int`, defaults to 4): Views decoded at a time. 16, as in AnimateDiffPipeline, takes more
                memory at 512 × 512 than everything else, and the last bit can differ.
            pose_guidance_start (`float`, defaults to 0.0), pose_guidance_end (`float`, defaults to 1.0): Share of the
                steps between which the subject's pose-conditioned blocks act. `start=0.25` lets the prompt change
                the shape more; from 0.5 on the viewpoint goes, from 0.75 on the subject.
            num_references (`int`, *optional*): Reference views used, by default the subject's setting.
            hooks (sequence of [`DenoisingHook`], *optional*): By default the pipeline's own (`pipe.hooks`); `[]` for
                none.
            anchor (`int`, sequence of `int` or [`AnchorSettings`], *optional*): Anchor frame(s) of the geometry.
            anchor_depth (`torch.Tensor` of shape `(H, W)`, `(A, H, W)` or `(batch, A, H, W)`, *optional*): z-depth of
                the anchor frame(s) in world units. With it there is no preview pass and no depth estimate.
            anchor_image (`PIL.Image.Image`, path, `torch.Tensor` of shape `(3, H, W)` in [0, 1], or lists, *optional*):
                What the anchor frame shows; one per anchor frame, or per prompt, see [`resolve_anchor_images`]. The
                other views are generated around it, its own view is its reconstruction by the autoencoder, depth is
                estimated on it, and there is no preview pass.
            views_at_a_time (`int`, *optional*): Generates a path of more views than this window by window, each next
                window around the nearest view that is there already: as many views as you like in the memory of this
                many (16 is what AnimateDiff was trained with). By default all views go through the U-Net together.
            camera_convention (`str`, *optional*), camera_intrinsics (`torch.Tensor`, *optional*): For poses given as a
                tensor; the convention also for a JSON file with other axes than its format's.
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
        height, width = cameras.height, cameras.width
        hooks = acting_hooks(listed_hooks(self.hooks if hooks is None else hooks), len(cameras))
        looked_at = anchor_image is not None or anchor_depth is not None or views_at_a_time is not None
        if (
            anchor is not None
            and len(cameras) > 1
            and not looked_at
            and not any(hook.needs_geometry for hook in hooks)
        ):
            raise MVCustomError(
                "anchor: none of the hooks looks at it, and there is no anchor_image or anchor_depth; leave it out."
            )
        anchor = self.anchor.with_frames(anchor)
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        latents_shape = self.check_call(
            cameras,
            hooks,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            anchor_depth=anchor_depth,
            views_at_a_time=views_at_a_time,
            output_type=output_type,
            cross_attention_kwargs=cross_attention_kwargs,
            clip_skip=clip_skip,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            counts={
                "num_inference_steps": num_inference_steps,
                "decode_chunk_size": decode_chunk_size,
                "num_references": num_references,
            },
            scales={"guidance_scale": guidance_scale, "reference_guidance_scale": reference_guidance_scale},
            pose_guidance=(pose_guidance_start, pose_guidance_end),
        )
        batch_size, channels, num_frames, *_ = latents_shape
        plan, anchor_image, anchor_depth = self.plan_views(
            cameras, hooks, anchor, views_at_a_time, anchor_image, anchor_depth, batch_size, num_images_per_prompt
        )
        self._guidance_scale = guidance_scale
        self._reference_guidance_scale = reference_guidance_scale
        self._clip_skip = clip_skip
        self._cross_attention_kwargs = cross_attention_kwargs
        self._split_guidance = split_guidance
        self._num_inference_steps = num_inference_steps
        self._interrupt = False
        device = self._execution_device
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if hooks:
            NoiseLevels.of(self.scheduler, self.scheduler.timesteps)  # raises for schedulers that hooks cannot follow

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

        # 3. The subject, looked at once, to be rendered once per target camera
        subject = None
        if self.subject is not None and pose_guidance_start < pose_guidance_end:
            texts = [prompt_embeds] if negative_prompt_embeds is None else [negative_prompt_embeds, prompt_embeds]
            render = self.subject_renderer(
                torch.cat(texts), (height, width), num_references, generator, conditions.image_embeds
            )
            subject = SubjectOfWindows(render, cameras)

        # 4. Latents, and what is known of the views
        latents = self.prepare_latents(
            batch_size, channels, num_frames, height, width, prompt_embeds.dtype, device, generator, latents
        )
        known = known_views(self, plan.anchors, anchor_image, anchor_depth, latents)

        # 5. Denoise, window by window
        generation = ViewGeneration(
            pipe=self,
            windows=plan.windows,
            cameras=cameras,
            noise=latents,
            conditions=conditions,
            subject=subject,
            hooks=hooks,
            anchor=anchor,
            known=known,
            generator=generator,
            extra_step_kwargs=self.prepare_extra_step_kwargs(generator, eta),
            pose_guidance=(pose_guidance_start, pose_guidance_end),
        )
        if callback_on_step_end is not None:
            generation.make_callback = partial(
                StepCallback, self, callback_on_step_end, callback_on_step_end_tensor_inputs
            )
        latents = generation.run()

        # 6. Decode
        if output_type == "latent":
            frames = latents
        else:
            frames = self.video_processor.postprocess_video(
                video=self.decode_latents(latents, decode_chunk_size), output_type=output_type
            )
        anchors = tuple(known.used)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (frames,)
        return MVCustomPipelineOutput(
            frames=frames,
            cameras=cameras,
            subject_frame=None if self.subject is None else self.subject.config.subject_frame,
            anchors=anchors or None,
            anchor_depth=known.stacked_depth(anchors, (height, width)).to(device) if anchors else None,
            anchor_discontinuity=anchor.discontinuity if anchors else None,
        )
