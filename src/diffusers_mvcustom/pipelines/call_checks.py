"""Everything about a call that can be refused before a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..hooks import AnchorSettings, DenoisingHook, KnownViews
from .anchor_images import AnchorImages, resolve_anchor_images
from .anchors import resolve_anchor_depth
from .inputs import (
    check_attention_kwargs,
    check_count,
    check_generator,
    check_latents,
    check_num_frames,
    check_prompts,
    check_scale,
    check_share,
    check_view_size,
)
from .subject_loading import SubjectLoadingMixin
from .view_windows import ViewPlan, plan_windows

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class CallChecksMixin(SubjectLoadingMixin):
    """The checks of [`MVCustomPipeline`]'s call, beyond diffusers' own `check_inputs`."""

    def check_call(
        self,
        cameras: Cameras,
        hooks: Sequence[DenoisingHook],
        *,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        ip_adapter_image: Any,
        ip_adapter_image_embeds: list[Tensor] | None,
        num_images_per_prompt: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
        anchor_depth: Tensor | None,
        views_at_a_time: int | None,
        output_type: str,
        cross_attention_kwargs: dict[str, Any] | None,
        clip_skip: int | None,
        callback_on_step_end_tensor_inputs: list[str],
        counts: dict[str, int | None],
        scales: dict[str, float | None],
        pose_guidance: tuple[float, float],
    ) -> tuple[int, ...]:
        """Refuses what cannot be used before anything expensive happens.

        Returns:
            `tuple[int, ...]`: The shape of the latents, `(batch, channels, frames, h, w)`.

        Raises:
            MVCustomError: naming the argument.
        """
        check_view_size(cameras.height, cameras.width, max(8, self.vae_scale_factor))
        counts = {"num_images_per_prompt": num_images_per_prompt, "views_at_a_time": views_at_a_time, **counts}
        for name, count in counts.items():
            check_count(name, count)
        check_num_frames(len(cameras), self.unet.config.motion_max_seq_length, views_at_a_time)
        for name, scale in scales.items():
            check_scale(name, scale)
        check_share("pose_guidance", *pose_guidance)
        check_attention_kwargs(cross_attention_kwargs)
        self._check_clip_skip(clip_skip)
        self._check_scheduler(counts["num_inference_steps"])
        if output_type not in OUTPUT_TYPES:
            raise MVCustomError(f"output_type: expected one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        check_prompts(prompt, negative_prompt, None if self.subject is None else self.subject.config.token)
        self.check_inputs(
            prompt,
            cameras.height,
            cameras.width,
            None,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            ip_adapter_image,
            ip_adapter_image_embeds,
            callback_on_step_end_tensor_inputs,
        )
        self._check_embeds(prompt_embeds, negative_prompt_embeds)
        self._check_ip_adapter(ip_adapter_image, ip_adapter_image_embeds)
        prompts = prompt if prompt is not None else prompt_embeds
        assert prompts is not None  # check_inputs wants one of them
        num_prompts = 1 if isinstance(prompts, str) else len(prompts)
        batch_size = num_prompts * num_images_per_prompt
        factor = self.vae_scale_factor
        shape = (
            batch_size,
            self.unet.config.in_channels,
            len(cameras),
            cameras.height // factor,
            cameras.width // factor,
        )
        check_latents(latents, shape)
        check_generator(generator, batch_size)
        self._check_subject(cameras, prompt, scales.get("reference_guidance_scale"), counts.get("num_references"))
        self._check_hooks(hooks, len(cameras), anchor_depth, views_at_a_time)
        return shape

    def plan_views(
        self,
        cameras: Cameras,
        hooks: Sequence[DenoisingHook],
        anchor: AnchorSettings,
        views_at_a_time: int | None,
        anchor_image: AnchorImages | None,
        anchor_depth: Tensor | None,
        batch_size: int,
        num_images_per_prompt: int,
    ) -> tuple[ViewPlan, Tensor | None, Tensor | None]:
        """The windows of a call, the anchors' images `(batch, A, 3, H, W)` and their depth `(batch, A, H, W)`, if given.

        Raises:
            MVCustomError: naming the argument, see [`plan_windows`], [`resolve_anchor_images`] and
                [`resolve_anchor_depth`].
        """
        needs_geometry = any(hook.needs_geometry for hook in hooks)
        plan = plan_windows(
            cameras,
            views_at_a_time,
            self.unet.config.motion_max_seq_length,
            anchor,
            anchors_wanted=needs_geometry or anchor_image is not None or anchor_depth is not None,
            anchors_are_given=anchor_image is not None,
            # Where depth cannot be estimated only the call's anchors have one, so the first goes through every window.
            keep_first=anchor.keep_first or (needs_geometry and not self._can_estimate_depth),
        )
        if anchor_image is not None:
            anchor_image = resolve_anchor_images(
                anchor_image,
                num_prompts=batch_size // num_images_per_prompt,
                num_images_per_prompt=num_images_per_prompt,
                num_anchors=len(plan.anchors),
                height=cameras.height,
                width=cameras.width,
            )
        if anchor_depth is not None:
            anchor_depth = resolve_anchor_depth(anchor_depth, batch_size, len(plan.anchors))
        return plan, anchor_image, anchor_depth

    @property
    def _can_estimate_depth(self) -> bool:
        return self.depth_estimator is not None and self.depth_image_processor is not None

    def _check_embeds(self, prompt_embeds: Tensor | None, negative_prompt_embeds: Tensor | None) -> None:
        width = self.unet.config.cross_attention_dim
        for name, embeds in (
            ("prompt_embeds", prompt_embeds),
            ("negative_prompt_embeds", negative_prompt_embeds),
        ):
            if embeds is None:
                continue
            if embeds.ndim != 3 or embeds.shape[-1] != width or 0 in embeds.shape:
                raise MVCustomError(
                    f"{name}: expected shape (batch, length, {width}) as the U-Net takes them, got {tuple(embeds.shape)}."
                )
            if not embeds.isfinite().all():
                raise MVCustomError(f"{name}: expected finite numbers, got NaN or infinity among them.")

    def _check_clip_skip(self, clip_skip: int | None) -> None:
        if clip_skip is None or self.text_encoder is None:  # without one texts come encoded
            return
        layers = getattr(self.text_encoder.config, "num_hidden_layers", None)
        whole = isinstance(clip_skip, int) and not isinstance(clip_skip, bool)
        if not (whole and 0 <= clip_skip <= (layers or clip_skip)):
            raise MVCustomError(f"clip_skip: expected a number of layers from 0 to {layers}, got {clip_skip!r}.")

    def _check_scheduler(self, num_inference_steps: int | None) -> None:
        name = type(self.scheduler).__name__
        if not hasattr(self.scheduler, "init_noise_sigma"):
            raise MVCustomError(
                f"scheduler: expected one that starts from scaled noise, such as DDIM, Euler, DPM++ or LCM, got {name}. "
                "Flow-matching schedulers do not fit this model."
            )
        trained = self.scheduler.config.get("num_train_timesteps")
        if trained is not None and num_inference_steps is not None and num_inference_steps > trained:
            raise MVCustomError(
                f"num_inference_steps: expected at most the {trained} steps that {name} was trained with, got "
                f"{num_inference_steps}."
            )

    def _check_ip_adapter(self, image: Any, embeds: list[Tensor] | None) -> None:
        given = image is not None or embeds is not None
        loaded = self.unet.config.encoder_hid_dim_type == "ip_image_proj"
        if given and not loaded:
            raise MVCustomError("ip_adapter_image: there is no IP-Adapter to see it; call load_ip_adapter first.")
        if loaded and not given:
            raise MVCustomError(
                "ip_adapter_image: an IP-Adapter is loaded and needs an image (or ip_adapter_image_embeds); or call "
                "unload_ip_adapter."
            )

    def _check_subject(
        self,
        cameras: Cameras,
        prompt: str | list[str] | None,
        reference_guidance_scale: float | None,
        num_references: int | None,
    ) -> None:
        if self.subject is None:
            if reference_guidance_scale is not None:
                raise MVCustomError(
                    "reference_guidance_scale: there are no references to guide by; call load_subject first."
                )
            return
        self.subject.check_cameras(cameras)
        there = len(self.subject.references)
        if num_references is not None and num_references > there:
            raise MVCustomError(
                f"num_references: expected at most the subject's {there} photos, got {num_references}."
            )
        if prompt is not None and self.subject.learned_embeddings:
            self._check_token(self.subject.config.token, [prompt] if isinstance(prompt, str) else prompt)

    def _check_token(self, token: str, prompts: Sequence[str]) -> None:
        """Raises unless the text encoder will see the subject's word in every prompt."""
        number = self.tokenizer.added_tokens_encoder.get(token)
        if number is None:
            raise MVCustomError(
                f"prompt: the tokenizer does not know the subject's token {token!r} any more (unload_textual_inversion?); "
                "set_subject with the subject's name brings it back."
            )
        length = self.tokenizer.model_max_length
        for i, text in enumerate(prompts):
            if number not in self.tokenizer(text, truncation=True, max_length=length).input_ids:
                raise MVCustomError(
                    f"prompt: expected the subject's token {token!r} among the first {length} tokens, which are all that the "
                    f"text encoder reads, got it later at index {i}. Name the subject earlier."
                )

    def _check_hooks(
        self,
        hooks: Sequence[DenoisingHook],
        num_frames: int,
        anchor_depth: Tensor | None,
        views_at_a_time: int | None,
    ) -> None:
        if anchor_depth is not None and num_frames > 1 and not any(hook.needs_geometry for hook in hooks):
            raise MVCustomError(
                "anchor_depth: none of the hooks looks at it; leave it out, or pass DepthAwareFeatureRendering or "
                "ConsistentAwareLatentCompletion."
            )
        for hook in hooks:
            if isinstance(hook, KnownViews) and num_frames > (views_at_a_time or num_frames):
                raise MVCustomError(
                    "hooks: KnownViews names frames of one window, and this path is generated in several "
                    "(views_at_a_time). Pass anchor= and anchor_image= instead."
                )
        if not any(hook.needs_geometry for hook in hooks):
            return
        if anchor_depth is None and not self._can_estimate_depth:
            raise MVCustomError(
                "hooks: depth-aware rendering and completion need the anchor's depth, and this pipeline has no "
                "depth_estimator and depth_image_processor. Load it with them, pass anchor_depth=, or hooks=[]."
            )
