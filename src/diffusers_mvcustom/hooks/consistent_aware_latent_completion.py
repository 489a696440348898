"""Consistent-aware latent completion (CLC): new, coherent content where the anchor saw nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .denoising_hook import DenoisingHook, DenoisingRun, DenoisingStep


@dataclass
class ConsistentAwareLatentCompletion(DenoisingHook):
    """Keeps the disoccluded regions open to new content in the early steps.

    Without it, what the anchor frame did not see tends to repeat what it saw. For the first steps, the latents there
    are replaced by the current prediction of the clean latents, noised again with fresh noise:
    `x_t ← M ⊙ x_t + (1 − M) ⊙ (alpha_t x̂_0 + sigma_t noise)`, M the anchor's visibility at latent resolution.

    x̂_0 is the one that the step has just predicted and t is the level that the step arrives at, so no further U-Net
    call is needed. The last step that acts is never the last of the schedule, which would leave noise in the views.

    Source: MVCustom (arXiv 2510.13702), consistent-aware latent completion.

    Args:
        start (`float`, defaults to 0.0): Share of the steps after which it begins to act.
        end (`float`, defaults to 0.2): Share of the steps after which it ends (τ of the paper: 10 of 50 steps).
    """

    start: float = 0.0
    end: float = 0.2

    name: ClassVar[str] = "consistent_aware_latent_completion"
    needs_several_frames: ClassVar[bool] = True
    needs_geometry: ClassVar[bool] = True

    def prepare(self, run: DenoisingRun) -> None:
        """Takes the anchor's visibility at the latents' size."""
        height, width = run.latents.shape[-2:]
        run.state[id(self)] = run.anchor_geometry().visibility(height, width)[:, None]  # [B, 1, F, h, w]

    def after_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Opens what the anchor did not see to new content."""
        arrived = step.index + 1
        if not run.covers(self, step.index) or arrived >= len(run.timesteps):
            return
        noise = run.randn(tuple(run.latents.shape))
        assert step.predicted_original is not None  # known after the scheduler's step
        imagined = run.noise_levels.add_noise(step.predicted_original, noise, arrived)
        run.latents = torch.where(run.state[id(self)], run.latents, imagined)
