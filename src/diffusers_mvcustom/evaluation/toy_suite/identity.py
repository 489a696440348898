"""Whether the subject is the true one: its pixels against the true subject rendered from the target camera."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...toy import AttributeReader

_BRIGHTNESS = (0.6, 1.6)
_TINT = 1.25
_WINDOW = 7
_BEST_PSNR = 40.0
_BINS = 10


def identity_scores(
    images: Tensor,  # [N, 3, H, W]
    lit: Tensor,  # [L, N, 3, H, W]
    masks: Tensor,  # [N, 1, H, W]
    reader: AttributeReader | None = None,
) -> dict[str, float]:
    """Similarity inside the true subject's mask at the target camera, mean over views.

    Light is not identity: the truth is taken in the one of L lights that fits all views best, and in each view one gain for
    each channel is fitted, within what light can do (0.6 to 1.6 in brightness, a quarter in tint).

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        lit (`torch.Tensor` of shape `(L, N, 3, H, W)`): The true subject from the same cameras in L lights.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`): Where it is.
        reader ([`AttributeReader`], *optional*): A trained one.

    Returns:
        `dict`: `ssim` (structural similarity, windows of 7 pixels, -1 to 1), `psnr` (dB), `colors` (overlap of the colour
        histograms, 0 to 1: says nothing of the camera) and, with a reader, `features` (cosine of the reader's features of
        the subject alone on grey). A view whose mask is empty is left out of the means; there has to be one that is not.
    """
    return max((_scores(images, truth, masks, reader) for truth in lit), key=lambda scores: scores["ssim"])


def _scores(images: Tensor, truth: Tensor, masks: Tensor, reader: AttributeReader | None) -> dict[str, float]:
    """Scores in one light."""
    kept = masks.flatten(1).sum(dim=1) >= 16
    images, truth, masks = (value.float()[kept] for value in (images, truth, masks))
    fitted = images / _gains(images, truth, masks)
    fitted = fitted.clamp(0, 1)
    grey = torch.full_like(truth, 0.5)
    cut, cut_truth = torch.where(masks > 0.5, fitted, grey), torch.where(masks > 0.5, truth, grey)
    squared = ((cut - cut_truth).square() * masks).sum(dim=(1, 2, 3)) / (3 * masks.sum(dim=(1, 2, 3)))
    psnr = (-10 * squared.clamp(min=10 ** (-_BEST_PSNR / 10)).log10()).mean().item()
    similarity = structural_similarity(cut, cut_truth)
    ssim = ((similarity * masks).sum(dim=(1, 2, 3)) / masks.sum(dim=(1, 2, 3))).mean().item()
    overlaps = [
        torch.minimum(_histogram(one, mask), _histogram(other, mask)).sum().item()
        for one, other, mask in zip(fitted, truth, masks)
    ]
    scores = {"ssim": ssim, "psnr": psnr, "colors": sum(overlaps) / len(overlaps)}
    if reader is not None:
        scores["features"] = reader_similarity(reader, cut, cut_truth)
    if not all(math.isfinite(value) for value in scores.values()):
        raise ArithmeticError(f"identity scores are not finite: {scores}")
    return scores


@torch.no_grad()
def reader_similarity(reader: AttributeReader, images: Tensor, truth: Tensor) -> float:
    """Mean cosine similarity of the reader's pooled features, of images `(N, 3, H, W)` in [0, 1]."""
    both = reader.features(2 * torch.cat([images, truth]).to(reader.device, reader.dtype) - 1).flatten(2)
    pooled = torch.cat([both.mean(-1), both.amax(-1)], dim=-1).float()
    one, other = pooled.chunk(2)
    return F.cosine_similarity(one, other).mean().item()


def structural_similarity(
    images: Tensor,  # [N, 3, H, W]
    others: Tensor,  # [N, 3, H, W]
) -> Tensor:
    """SSIM at every pixel, mean over the channels: `(N, 1, H, W)` (Wang et al., 2004; flat windows)."""
    images, others = images.double(), others.double()  # variances are small differences of squares
    mean_around = partial(F.avg_pool2d, kernel_size=_WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)
    mean, mean_other = mean_around(images), mean_around(others)
    variance = mean_around(images.square()) - mean.square()
    variance_other = mean_around(others.square()) - mean_other.square()
    covariance = mean_around(images * others) - mean * mean_other
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean * mean_other + c1) * (2 * covariance + c2)
    denominator = (mean.square() + mean_other.square() + c1) * (variance + variance_other + c2)
    return (numerator / denominator).mean(dim=1, keepdim=True).float()


def _gains(images: Tensor, truth: Tensor, masks: Tensor) -> Tensor:
    seen, shown = ((value * masks).sum(dim=(2, 3)) for value in (images, truth))
    gain = seen / shown.clamp(min=1e-3)
    brightness = gain.mean(dim=1, keepdim=True).clamp(*_BRIGHTNESS)
    return (brightness * (gain / brightness).clamp(1 / _TINT, _TINT))[:, :, None, None]


def _histogram(image: Tensor, mask: Tensor) -> Tensor:
    cells = (image * _BINS).long().clamp(0, _BINS - 1)
    flat = ((cells[0] * _BINS + cells[1]) * _BINS + cells[2])[mask[0] > 0.5]
    counts = torch.bincount(flat, minlength=_BINS**3).float()
    smooth = F.avg_pool3d(counts.view(1, 1, _BINS, _BINS, _BINS), 3, stride=1, padding=1).flatten()
    return smooth / smooth.sum().clamp(min=1e-6)
