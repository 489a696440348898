"""What backbone training trains, as one module: clips' latents in, losses out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from .losses import denoising_loss, denoising_target, min_snr_weights


@dataclass(eq=False)
class ClipBatch:
    """Clips of one length on the device.

    Args:
        latents (`torch.Tensor` of shape `(B, C, F, h, w)`): Clean latents.
        noise (`torch.Tensor` of shape `(B, C, F, h, w)`): What is added to them.
        timesteps (`torch.Tensor` of shape `(B,)`): How much of it; all frames of a clip have the same.
        text_states (`torch.Tensor` of shape `(B, L, D)`): Their texts.
    """

    latents: Tensor  # [B, C, F, h, w]
    noise: Tensor  # [B, C, F, h, w]
    timesteps: Tensor  # [B]
    text_states: Tensor  # [B, L, D]


class BackboneTrainingModel(nn.Module):
    """A motion U-Net whose motion modules are trained, and the loss.

    Args:
        unet (`UNetMotionModel`): All but its motion modules is frozen.
        scheduler (`SchedulerMixin`): Adds the noise.
        snr_gamma (`float`, *optional*): Min-SNR weighting.
    """

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin, snr_gamma: float | None = None) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler
        self.snr_gamma = snr_gamma

    def forward(self, groups: list[ClipBatch]) -> dict[str, Tensor]:
        """The mean denoising error of all samples, `loss`, and the part of it that single images have, `image`.

        Args:
            groups (list of [`ClipBatch`]): Samples of each length: clips, single images. All in one call, since with data
                parallelism a call is what gradients are exchanged after.
        """
        errors = [self.errors(group) for group in groups]
        images = [error.detach() for error, group in zip(errors, groups) if group.latents.shape[2] == 1]
        count = sum(len(error) for error in errors)
        zero = errors[0].new_zeros(1)
        return {"loss": torch.cat(errors).mean(), "image": torch.cat([zero, *images]).sum() / count}

    def errors(self, batch: ClipBatch) -> Tensor:
        """The (weighted) denoising error of each sample, `(B,)`."""
        frames = batch.latents.shape[2]
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        prediction = self.unet(
            noisy,
            batch.timesteps,
            encoder_hidden_states=batch.text_states.repeat_interleave(frames, dim=0),
            return_dict=False,
        )[0]
        target = denoising_target(self.scheduler, batch.latents, batch.noise, batch.timesteps)
        error = denoising_loss(prediction.flatten(2, 3), target.flatten(2, 3))  # frames as rows of one image
        if self.snr_gamma is not None:
            error = error * min_snr_weights(self.scheduler, batch.timesteps, self.snr_gamma)
        return error
