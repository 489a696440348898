"""The noise that a call starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.noise import draw_noise
from .pipeline_part import PipelinePart


class InitialNoiseMixin(PipelinePart):
    """Initial latents of [`MVCustomPipeline`]."""

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        num_frames: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """As `AnimateDiffPipeline`'s, with noise drawn in float32 and rounded: one seed, one picture in every dtype."""
        shape = (batch_size, num_channels_latents, num_frames, height, width)
        if latents is None:
            if self.free_noise_enabled:
                latents = self._prepare_latents_free_noise(*shape, torch.float32, device, generator).to(dtype)
            else:
                factor = self.vae_scale_factor
                latents = draw_noise(
                    (*shape[:3], height // factor, width // factor), generator=generator, device=device, dtype=dtype
                )
        return super().prepare_latents(*shape, dtype, device, generator, latents.to(dtype))
