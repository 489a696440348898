"""The denoising loop: guided prediction, scheduler, hooks; the preview pass; decoding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ..hooks import DenoisingHook, DenoisingRun, DenoisingStep, PlainRun
from .guidance import Conditions, combine, guidance_branches
from .subject_loading import SubjectLoadingMixin


class DenoisingMixin(SubjectLoadingMixin):
    """The steps of [`MVCustomPipeline`] in which its models run over and over."""

    _reference_guidance_scale: float | None
    _split_guidance: bool
    _num_inference_steps: int

    @property
    def reference_guidance_scale(self) -> float | None:
        """The running call's guidance by the references."""
        return self._reference_guidance_scale

    def predict_noise(
        self,
        latents: Tensor,  # [B, C, F, h, w]
        timestep: Tensor,
        scheduler: SchedulerMixin,
        conditions: Conditions,
        references: bool,
    ) -> Tensor:
        """The guided prediction of the U-Net at one timestep, of the shape of `latents`."""
        num_frames = latents.shape[2]
        references = references and conditions.features is not None
        branches, scales = guidance_branches(self.guidance_scale, self.reference_guidance_scale, references)
        groups = [[branch] for branch in branches] if self._split_guidance else [branches]
        predictions = []
        for group in groups:
            model_input = torch.cat([latents] * len(group)) if len(group) > 1 else latents
            conditioning: AbstractContextManager[Any] = nullcontext()
            if references:
                assert self.subject is not None  # whose features they are
                conditioning = self.subject.conditioning.rendered(conditions.subject_features(group))
            with conditioning:
                output = self.unet(
                    scheduler.scale_model_input(model_input, timestep),
                    timestep,
                    encoder_hidden_states=conditions.text_states(group, num_frames),
                    cross_attention_kwargs=self.cross_attention_kwargs,
                    added_cond_kwargs=conditions.image_states(group),
                ).sample
            predictions.extend(output.chunk(len(group)))
        return combine(predictions, scales)

    def denoise(
        self,
        run: PlainRun,
        conditions: Conditions,
        hooks: Sequence[DenoisingHook] = (),
        extra_step_kwargs: dict[str, Any] | None = None,
        pose_guidance: tuple[float, float] = (0.0, 1.0),
        on_step_end: Callable[[int, Tensor, Tensor], Tensor] | None = None,
        description: str = "denoise",
    ) -> Tensor:
        """Runs the schedule from `run.latents`; returns the final latents `(batch, channels, frames, h, w)`.

        Hooks act in a [`DenoisingRun`]; a [`PlainRun`] has nothing for them to see.
        `on_step_end(index, timestep, latents)` is called after each step and returns the latents to go on with.
        """
        seen = run if isinstance(run, DenoisingRun) else None  # by hooks
        steps = len(run.timesteps)
        begin, end = (share * steps for share in pose_guidance)
        warm_up = steps - self._num_inference_steps * run.scheduler.order
        with self.progress_bar(total=steps) as progress:
            progress.set_description(description)
            for index, timestep in enumerate(run.timesteps):
                if self.interrupt:
                    continue
                with ExitStack() as during_unet_call:
                    step = DenoisingStep(index, timestep, during_unet_call)
                    if seen is not None:
                        for hook in hooks:
                            hook.before_step(seen, step)
                    prediction = self.predict_noise(
                        run.latents, timestep, run.scheduler, conditions, references=begin <= index < end
                    )
                if hooks and seen is not None:
                    step.predicted_original = seen.noise_levels.predict_original(prediction, run.latents, index)
                run.latents = run.scheduler.step(
                    prediction, timestep, run.latents, **(extra_step_kwargs or {})
                ).prev_sample
                if seen is not None:
                    for hook in hooks:
                        hook.after_step(seen, step)
                if on_step_end is not None:
                    run.latents = on_step_end(index, timestep, run.latents)
                if index == steps - 1 or ((index + 1) > warm_up and (index + 1) % run.scheduler.order == 0):
                    progress.update()
        return run.latents

    def decode_latents(self, latents: Tensor, decode_chunk_size: int = 4) -> Tensor:
        """Decodes `(batch, channels, frames, h, w)` to `(batch, 3, frames, H, W)` in [-1, 1], in chunks of frames."""
        frames = latents.transpose(1, 2).flatten(0, 1)
        chunks = frames.split(decode_chunk_size)
        with self.progress_bar(total=len(chunks)) as progress:
            progress.set_description("decode")
            decoded = []
            for chunk in chunks:
                # The order of operations is AnimateDiffPipeline's, so that results agree to the last bit.
                decoded.append(self.vae.decode(1 / self.vae.config.scaling_factor * chunk).sample)
                progress.update()
        return torch.cat(decoded).unflatten(0, (latents.shape[0], latents.shape[2])).transpose(1, 2).float()

    def preview(
        self,
        num_steps: int,
        latents: Tensor,  # [B, C, F, h, w]
        conditions: Conditions,
        extra_step_kwargs: dict[str, Any],
    ) -> Tensor:
        """A short pass from the same noise without hooks, on a copy of the scheduler; returns final latents."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(num_steps, device=latents.device)
        run = PlainRun(latents=latents, scheduler=scheduler, timesteps=scheduler.timesteps)
        return self.denoise(run, conditions, extra_step_kwargs=extra_step_kwargs, description="preview")
