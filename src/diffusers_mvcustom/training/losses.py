"""The losses of subject training (MVCustom and CustomDiffusion360), each a value per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from diffusers.training_utils import compute_snr
from torch import Tensor

from ..errors import MVCustomError

_LEAST_AREA = 1e-4


def denoising_target(
    scheduler: SchedulerMixin,
    latents: Tensor,  # [B, C, h, w]
    noise: Tensor,  # [B, C, h, w]
    timesteps: Tensor,  # [B]
) -> Tensor:
    """What the U-Net should predict, by the scheduler's prediction type: noise, velocity or the clean latents."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise MVCustomError(f"scheduler: expected epsilon, v_prediction or sample prediction, got {kind!r}.")


def denoising_loss(
    prediction: Tensor,  # [B, C, h, w]
    target: Tensor,  # [B, C, h, w]
    mask: Tensor | None = None,  # [B, 1, h, w]
) -> Tensor:
    """Mean squared error of each sample, inside its mask, `(B,)`. An empty mask gives 0."""
    error = (prediction.float() - target.float()).square().mean(dim=1, keepdim=True)
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    mask = mask.to(error)
    return _masked_mean(error, mask, dim=(1, 2, 3))


def min_snr_weights(scheduler: SchedulerMixin, timesteps: Tensor, gamma: float) -> Tensor:
    """Weights of Min-SNR (arXiv 2303.09556) for the error in the scheduler's own prediction, `(B,)`."""
    snr = compute_snr(scheduler, timesteps)
    clamped = snr.clamp(max=gamma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return clamped / snr.clamp(min=1e-8)
    if kind == "v_prediction":
        return clamped / (snr + 1)
    return clamped


def rgb_loss(
    rgb: Tensor,  # [M, h, w, 3]
    photos: Tensor,  # [M, 3, H, W]
    masks: Tensor | None = None,  # [M, 1, H, W]
) -> Tensor:
    """Mean squared error of rendered colours inside the mask, `(M,)`.

    Rendered colours are those of the subject before black. So photos are blackened outside the mask and then brought to the
    map's size: at the subject's rim, where a pixel of the map holds some of both, the two are the same thing.
    """
    target, weights = subject_before_black(photos.to(rgb), masks, (rgb.shape[1], rgb.shape[2]))
    return _masked_mean((rgb - target).square().mean(dim=-1), weights, dim=(1, 2))


def subject_before_black(
    photos: Tensor,  # [M, 3, H, W]
    masks: Tensor | None,  # [M, 1, H, W]
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """What a rendering of the subject alone should show at a map's size, `(M, h, w, 3)`, and its mask `(M, h, w)`."""
    masks = torch.ones_like(photos[:, :1]) if masks is None else masks.to(photos)
    target = F.interpolate(photos * masks, size, mode="area").permute(0, 2, 3, 1)
    return target, F.interpolate(masks, size, mode="area")[:, 0]


def opacity_loss(
    opacity: Tensor,  # [M, h, w]
    masks: Tensor,  # [M, 1, H, W]
) -> Tensor:
    """Mean squared difference of opacity and mask, `(M,)`."""
    masks = F.interpolate(masks.to(opacity), opacity.shape[1:], mode="area")[:, 0]
    return (opacity - masks).square().mean(dim=(1, 2))


def background_loss(
    density: Tensor,  # [M, h * w, S]
    size: tuple[int, int],
    masks: Tensor,  # [M, 1, H, W]
    threshold: float,
) -> Tensor:
    """Density of the samples on rays outside the mask, `(M,)`.

    Mean over those rays and their samples of `1 - exp(-density)`: pulls every sample of an empty ray to 0, also those
    behind others, which the opacity does not see; bounded, so that a few dense samples do not outweigh all the rest.
    """
    masks = F.interpolate(masks.to(density), size, mode="area").flatten(1)
    outside = (masks < threshold).to(density)
    return _masked_mean(1 - torch.exp(-density), outside[..., None].expand_as(density), dim=(1, 2))


def _masked_mean(error: Tensor, mask: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Mean weighted by the mask; 0 where the mask is (nearly) empty."""
    area = mask.sum(dim=dim)
    total = (error * mask).sum(dim=dim)
    return total / area.clamp(min=_LEAST_AREA * mask[0].numel())
