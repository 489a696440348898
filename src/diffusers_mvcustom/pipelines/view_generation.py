"""From noise to the latents of all views, window by window: a plain call has one window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cameras import Cameras
from ..hooks import AnchorSettings, DenoisingHook, DenoisingRun, KnownViews, NoiseLevels, PlainRun
from ..models.noise import draw_noise
from .anchors import AnchorPreparation, AnchorViews
from .guidance import Conditions
from .hook_settings import acting_hooks
from .subject_features import SubjectOfWindows
from .view_windows import ViewWindow

if TYPE_CHECKING:
    from .pipeline_mvcustom import MVCustomPipeline
    from .step_callback import StepCallback


@dataclass
class ViewGeneration:
    """The part of a call that runs once per window. Every window starts from the call's own conditions and settings.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        windows (sequence of [`ViewWindow`]): In the order in which they are generated.
        cameras ([`Cameras`]): All target cameras at the size of the views.
        noise (`torch.Tensor` of shape `(batch, channels, N, h, w)`): The initial latents of all views.
        conditions ([`Conditions`]): Text and image conditions.
        subject ([`SubjectOfWindows`], *optional*): Renders the subject, if there is one.
        hooks (sequence of [`DenoisingHook`]): What acts in every window.
        anchor ([`AnchorSettings`]): Preview and alignment.
        known ([`AnchorViews`]): Latents, images and depth that are given; grows with every window.
        generator (`torch.Generator` or list of them, *optional*): Source of fresh noise.
        extra_step_kwargs (`dict`): For the scheduler's step.
        pose_guidance (`tuple[float, float]`): Share of the steps between which the subject acts.
        make_callback (`Callable`, *optional*): `make_callback(conditions) -> StepCallback`, for one window.
    """

    pipe: MVCustomPipeline
    windows: Sequence[ViewWindow]
    cameras: Cameras
    noise: Tensor  # [B, C, N, h, w]
    conditions: Conditions
    subject: SubjectOfWindows | None
    hooks: Sequence[DenoisingHook]
    anchor: AnchorSettings
    known: AnchorViews
    generator: torch.Generator | list[torch.Generator] | None
    extra_step_kwargs: dict[str, Any]
    pose_guidance: tuple[float, float]
    make_callback: Callable[[Conditions], StepCallback] | None = None

    _latents: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def run(self) -> Tensor:
        """Generates all windows; returns the final latents `(batch, channels, N, h, w)`."""
        pipe, scale = self.pipe, self.pipe._guidance_scale
        for index, window in enumerate(self.windows):
            if pipe.interrupt and index > 0:
                break
            pipe._guidance_scale = scale  # callbacks may change it for the rest of a run
            later = {frame for other in self.windows[index + 1 :] for frame in other.known}
            latents = self._window(index, window, later)
            for frame in window.new:
                self._latents[frame] = latents[:, :, window.frames.index(frame)]
            self.known.latents.update({frame: self._latents[frame] for frame in later & set(window.new)})
        if len(self.windows) == 1 and not self.windows[0].known:
            return latents
        final = self._latents | self.known.latents
        return torch.stack([final.get(i, self.noise[:, :, i]) for i in range(len(self.cameras))], dim=2)

    def _window(self, index: int, window: ViewWindow, later: set[int]) -> Tensor:
        """The latents of one window's frames. Nothing else of it outlives this call but what is `later` needed."""
        pipe, frames = self.pipe, list(window.frames)
        conditions = Conditions(
            self.conditions.prompt_embeds,
            self.conditions.negative_prompt_embeds,
            image_embeds=self.conditions.image_embeds,
        )
        subject = None
        if self.subject is not None:
            subject = self.subject.of_window(frames, later, last=index == len(self.windows) - 1)
            conditions.features = subject.features
        everything = len(self.windows) == 1
        cameras = self.cameras if everything else self.cameras[frames]
        noise = self.noise if everything else self.noise[:, :, frames]
        hooks = self._hooks_of(window)
        preparation = AnchorPreparation(
            pipe,
            self.anchor,
            self._with_depth(window),
            cameras.to(noise.device, torch.float32),
            noise,
            conditions,
            subject,
            self.known,
            self.extra_step_kwargs,
        )
        on_step_end = None if self.make_callback is None else self.make_callback(conditions)
        latents = self._denoise(noise, cameras, conditions, hooks, preparation, on_step_end, index)
        preparation.hand_over(later & set(window.new))
        return latents

    def _denoise(
        self,
        latents: Tensor,
        cameras: Cameras,
        conditions: Conditions,
        hooks: Sequence[DenoisingHook],
        preparation: AnchorPreparation,
        on_step_end: StepCallback | None,
        index: int,
    ) -> Tensor:
        pipe, device = self.pipe, latents.device
        count = len(self.windows)
        description = "denoise" if count == 1 else f"denoise, window {index + 1} of {count}"
        pipe.scheduler.set_timesteps(pipe._num_inference_steps, device=device)
        timesteps = pipe.scheduler.timesteps
        for iteration in range(pipe._free_init_num_iters if pipe.free_init_enabled else 1):
            if pipe.free_init_enabled:
                latents, timesteps = pipe._apply_free_init(
                    latents, iteration, pipe._num_inference_steps, device, latents.dtype, self.generator
                )
            pipe._num_timesteps = len(timesteps)
            run = PlainRun(latents=latents, scheduler=pipe.scheduler, timesteps=timesteps)
            if hooks:
                run = seen = DenoisingRun(
                    latents=latents,
                    scheduler=pipe.scheduler,
                    timesteps=timesteps,
                    cameras=cameras,
                    unet=pipe.unet,
                    noise_levels=NoiseLevels.of(pipe.scheduler, timesteps),
                    generator=self.generator,
                    randn=partial(draw_noise, generator=self.generator, device=device, dtype=latents.dtype),
                    anchor_geometry=preparation.geometry,
                )
                for hook in hooks:
                    hook.prepare(seen)
            latents = pipe.denoise(
                run, conditions, hooks, self.extra_step_kwargs, self.pose_guidance, on_step_end, description
            )
        return latents

    def _hooks_of(self, window: ViewWindow) -> list[DenoisingHook]:
        """The call's hooks as far as they can act in this window, and last what holds the known views."""
        depth = bool(self._with_depth(window).anchors)
        hooks = [hook for hook in acting_hooks(self.hooks, len(window.frames)) if depth or not hook.needs_geometry]
        if window.known:
            places = tuple(window.frames.index(frame) for frame in window.known)
            latents = torch.stack([self.known.latents[frame] for frame in window.known], dim=2)
            hooks.append(KnownViews(frames=places, latents=latents))
        return hooks

    def _with_depth(self, window: ViewWindow) -> ViewWindow:
        """The window with those of its anchors whose depth is given or can be estimated."""
        if self.pipe._can_estimate_depth:
            return window
        anchors = tuple(frame for frame in window.anchors if frame in self.known.depth)
        return replace(window, anchors=anchors)
