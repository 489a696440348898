"""Views that are known before a run: they stay as they are, and the others are generated around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import MVCustomError
from .denoising_hook import DenoisingHook, DenoisingRun, DenoisingStep


@dataclass(kw_only=True, eq=False)
class KnownViews(DenoisingHook):
    """Keeps the latents of known views at the noise level of every step, and at the known latents at the end.

    `x_t[f] ← alpha_t x_0[f] + sigma_t noise[f]` for every known frame f, the noise being the one that the run starts
    from, so that a known view moves along one path as the others do. What the U-Net sees in these frames is right at
    every step, and attention and depth-aware rendering carry it into the other views. With `end` below 1 the views
    are let go after that share of the steps, and may change from there.

    `pipe(..., anchor_image=...)` and the windows of `views_at_a_time` use it. It holds latents of a call, not settings,
    so it is not saved with a pipeline.

    Args:
        frames (`tuple` of `int`): Which frames of the run are known.
        latents (`torch.Tensor` of shape `(batch, channels, len(frames), h, w)`): Their clean latents, scaled as the U-Net
            takes them; a batch of 1 serves all of the run's batch.

    Raises:
        MVCustomError: for frames named twice, or latents that are not one map per frame.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.hooks import KnownViews
        >>> KnownViews(frames=(0, 3), latents=torch.zeros(1, 4, 2, 16, 16)).frames
        (0, 3)
    """

    frames: tuple[int, ...]
    latents: Tensor  # [1 or B, C, K, h, w]

    name: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.frames = tuple(self.frames)
        if not self.frames or len(set(self.frames)) != len(self.frames):
            raise MVCustomError(f"KnownViews.frames: expected one or more different frames, got {list(self.frames)}.")
        if self.latents.ndim != 5 or self.latents.shape[2] != len(self.frames):
            raise MVCustomError(
                f"KnownViews.latents: expected shape (batch, channels, {len(self.frames)}, h, w), one map per frame, got "
                f"{tuple(self.latents.shape)}."
            )
        if not self.latents.isfinite().all():
            raise MVCustomError("KnownViews.latents: expected finite numbers, got NaN or infinity.")

    def prepare(self, run: DenoisingRun) -> None:
        """Puts the known views' noisy latents in their places."""
        batch, channels, count, height, width = run.latents.shape
        outside = [frame for frame in self.frames if not 0 <= frame < count]
        if outside:
            raise MVCustomError(f"KnownViews.frames: expected frames from 0 to {count - 1}, got {outside}.")
        expected = (batch, channels, len(self.frames), height, width)
        if self.latents.shape[0] not in (1, batch) or self.latents.shape[1:] != expected[1:]:
            raise MVCustomError(
                f"KnownViews.latents: expected shape {expected} (or a batch of 1), got {tuple(self.latents.shape)}."
            )
        noise = run.latents[:, :, list(self.frames)] / run.scheduler.init_noise_sigma
        run.state[id(self)] = (self.latents.to(run.latents).expand(expected), noise)
        self._put(run, 0)

    def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Puts them back, at the level the step starts from."""
        self._put(run, step.index)  # whatever else changed the latents since the last step

    def after_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Puts them back, at the level the step arrives at."""
        if run.covers(self, step.index):
            self._put(run, step.index + 1)

    def to_dict(self) -> dict[str, Any]:
        """Not supported: there are no settings to be written down."""
        raise MVCustomError("KnownViews holds the latents of a call, which are no settings.")

    def _put(self, run: DenoisingRun, index: int) -> None:
        """Sets the known frames to the level at which step `index` starts; past the last one, to the clean latents."""
        known, noise = run.state[id(self)]
        if index < len(run.timesteps):
            if not run.covers(self, index):
                return
            known = run.noise_levels.add_noise(known, noise, index)
        latents = run.latents.clone()
        latents[:, :, list(self.frames)] = known
        run.latents = latents
