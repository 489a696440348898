"""Fits the scale and shift that bring a depth estimate into the world of the cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MVCustomError

_FEWEST_PIXELS = 16
_HYPOTHESES = 512
_SCORED_PIXELS = 1024
_ITERATIONS = 20
_BACKDROP = 20.0
"""How many median depths away the backdrop stands that disparities at or near 0 are put on."""


@dataclass(frozen=True)
class DepthAlignment:
    """Scale and shift from a depth estimate to z-depth in world units.

    With `value = scale * estimate + shift`, z-depth is `value`, or `1 / value` if the estimate is a disparity.

    Args:
        scale (`float`): Above 0.
        shift (`float`): 0 where only a scale could be fitted.
        inverse (`bool`, *optional*, defaults to `False`): Whether the estimate is a disparity (larger is nearer).
        farthest (`float`, *optional*, defaults to infinity):
            z-depth of the backdrop, for disparities only: what would be further away, or beyond infinity (a relative
            disparity has no reliable zero), stands there.
        residual (`float`, *optional*):
            Weighted median of the relative z-depth error over the fitted pixels; `None` without a fit.
        inlier_share (`float`, *optional*):
            Share of the fitted pixels, by weight, that agree with the fit; `None` without a fit.
    """

    scale: float
    shift: float
    inverse: bool = False
    farthest: float = math.inf
    residual: float | None = None
    inlier_share: float | None = None

    def apply(
        self,
        estimate: Tensor,  # [..., H, W]
    ) -> Tensor:
        """z-depth in world units, of the estimate's shape, always finite and above 0.

        Raises:
            MVCustomError: if the estimate holds NaN or infinity, or values whose z-depth would not be above 0.
        """
        value = self.scale * estimate.float() + self.shift
        if self.inverse:
            value = value.clamp(min=1 / self.farthest).reciprocal()
        bad = ~(value.isfinite() & (value > 0))
        if bad.any():
            raise MVCustomError(
                f"estimate: expected values that give a finite z-depth above 0, got {estimate[bad][0].item()} "
                f"(z-depth {value[bad][0].item()}, {int(bad.sum())} of {bad.numel()} pixels). Another map than the "
                "one that was aligned, or a disparity taken for depth?"
            )
        return value


def align_depth(
    estimate: Tensor,  # [H, W]
    reference: Tensor,  # [H, W]
    *,
    mask: Tensor | None = None,  # [H, W]
    weights: Tensor | None = None,  # [H, W]
    inverse: bool = False,
    robust: bool = True,
) -> DepthAlignment:
    """Fits `scale` and `shift` of a depth estimate to reference z-depth, such as the depth a FeatureNeRF renders.

    The fit is in the estimate's own quantity: `scale * estimate + shift` against z-depth, or against 1/z-depth for
    models of relative disparity. The robust fit takes the best of 512 lines through two random pixels (the same ones
    every time), and refines it by reweighted least squares with Tukey's biweight; up to about 40 % of the pixels may
    be arbitrarily wrong. Only a scale is fitted (`shift` 0, the median ratio) where a shift cannot be told: the
    estimate is constant, does not rise with the reference, fits hardly better with a shift than without (z-depth
    only), or the shift would put a part of the estimate at or behind the camera (z-depth only).

    Args:
        estimate (`torch.Tensor` of shape `(H, W)`): Depth, or disparity if `inverse`, in any unit.
        reference (`torch.Tensor` of shape `(H, W)`): z-depth in world units.
        mask (`torch.Tensor` of shape `(H, W)`, bool, *optional*): Where the reference is to be trusted.
        weights (`torch.Tensor` of shape `(H, W)`, *optional*): How much a pixel counts, 0 or more.
        inverse (`bool`, *optional*, defaults to `False`): Whether the estimate is a disparity (larger is nearer).
        robust (`bool`, *optional*, defaults to `True`): Whether outliers are rejected; plain least squares otherwise.

    Raises:
        MVCustomError: if shapes do not fit, fewer than 16 pixels can be used (finite, positive reference, positive
            estimate unless it is a disparity, inside the mask), or the estimate clearly falls where the reference
            rises.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import align_depth
        >>> estimate = torch.linspace(1.0, 2.0, 64).reshape(8, 8)
        >>> alignment = align_depth(estimate, 0.5 * estimate + 0.25)
        >>> round(alignment.scale, 4), round(alignment.shift, 4)
        (0.5, 0.25)
    """
    x, z, w = _used_pixels(estimate, reference, mask, weights, inverse)
    y = 1 / z if inverse else z
    noise = 1e-3 * y.median()  # a floor: what agrees to 0.1 % agrees
    line = None
    if _spread(x) > 1e-4 * x.abs().median():
        _refuse_reversed(x, y, inverse)
        line = _robust_line(x, y, w, noise) if robust else _least_squares(x, y, w)
    if (
        line is None
        or not _rises(line, x, y, w, noise)
        or (not inverse and _shift_is_idle(line, estimate, x, y, w, noise))
    ):
        line = _scale_only(x, y, w)
        if not line[0] > 0:
            raise MVCustomError(
                "estimate: expected some positive values inside the mask, since only a scale can be fitted to this "
                "map, got none."
            )
    scale, shift = (value.item() for value in line)
    inlier = _inliers((scale * x + shift - y).abs(), w, noise)
    farthest = _BACKDROP * z.median().item() if inverse else math.inf
    value = scale * x + shift
    depth = value.clamp(min=1 / farthest).reciprocal() if inverse else value
    return DepthAlignment(
        scale,
        shift,
        inverse,
        farthest,
        residual=_weighted_median((depth - z).abs() / z, w).item(),
        inlier_share=((w * inlier).sum() / w.sum()).item(),
    )


def align_median_depth(
    estimate: Tensor,  # [H, W]
    distance: float | Tensor,
    *,
    inverse: bool = False,
) -> DepthAlignment:
    """Scales an estimate so that its median z-depth is `distance`: the default without a subject to align to.

    Args:
        estimate (`torch.Tensor` of shape `(H, W)`): Depth, or disparity if `inverse`, in any unit.
        distance (`float`): Such as the camera's distance from the origin, in world units.
        inverse (`bool`, *optional*, defaults to `False`): Whether the estimate is a disparity (larger is nearer).

    Raises:
        MVCustomError: if `distance` or the estimate's median is not finite and above 0.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import align_median_depth
        >>> align_median_depth(torch.tensor([[2.0, 4.0, 8.0]]), 1.0).apply(torch.tensor([[2.0, 4.0, 8.0]])).tolist()
        [[0.5, 1.0, 2.0]]
    """
    distance = float(distance)
    if not (math.isfinite(distance) and distance > 0):
        raise MVCustomError(f"distance: expected a finite distance above 0, got {distance}. A camera at the origin?")
    finite = estimate[estimate.isfinite()].float()
    median = finite.median().item() if finite.numel() else math.nan
    if not median > 0:
        kind = "disparity" if inverse else "depth"
        raise MVCustomError(f"estimate: expected a median {kind} above 0, got {median}.")
    if inverse:
        return DepthAlignment(1 / (distance * median), 0.0, True, farthest=_BACKDROP * distance)
    return DepthAlignment(distance / median, 0.0)


def _used_pixels(
    estimate: Tensor, reference: Tensor, mask: Tensor | None, weights: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate, reference and weight of every pixel that can be used, each `(P,)`, float64 on the CPU."""
    for name, value in (("reference", reference), ("mask", mask), ("weights", weights)):
        if value is not None and value.shape != estimate.shape:
            raise MVCustomError(
                f"{name}: expected the estimate's shape {tuple(estimate.shape)}, got {tuple(value.shape)}."
            )
    if mask is not None and mask.dtype != torch.bool:
        raise MVCustomError(f"mask: expected bool, got {mask.dtype}. Use `weights` for soft masks.")
    # Small data, and medians and random pixels that do not depend on the device.
    x, z = estimate.detach().double().cpu(), reference.detach().double().cpu()
    w = torch.ones_like(x) if weights is None else weights.detach().double().cpu()
    if not (w.isfinite().all() and (w >= 0).all()):
        raise MVCustomError("weights: expected finite values of 0 or more.")
    used = x.isfinite() & z.isfinite() & (z > 0) & (w > 0)
    if not inverse:
        used &= x > 0
    if mask is not None:
        used &= mask.cpu()
    if used.sum() < _FEWEST_PIXELS:
        raise MVCustomError(
            f"estimate, reference: expected at least {_FEWEST_PIXELS} pixels to fit a scale and shift to, got "
            f"{int(used.sum())} of {used.numel()} (finite, reference above 0, inside the mask)."
        )
    return x[used], z[used], w[used]


def _spread(values: Tensor) -> Tensor:
    """Half the distance between the 5th and 95th percentile: 0 for a map that is constant but for some pixels."""
    ordered = values.sort().values
    last = len(ordered) - 1
    return (ordered[round(0.95 * last)] - ordered[round(0.05 * last)]) / 2


def _refuse_reversed(x: Tensor, y: Tensor, inverse: bool) -> None:
    ranks = torch.stack([values.argsort().argsort().double() for values in (x, y)])
    correlation = torch.corrcoef(ranks)[0, 1].item()
    if correlation < -0.5:
        taken, other = ("disparity", "depth") if inverse else ("depth", "disparity")
        raise MVCustomError(
            f"estimate: expected {taken} that rises with the reference's, got a rank correlation of "
            f"{correlation:.2f}. Is it {other}? Then pass `inverse={not inverse}`."
        )


def _rises(line: Tensor, x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> bool:
    """Whether the line rises, and its inliers with it: a flat line through noise would flatten the whole scene."""
    inlier = w * _inliers((line[0] * x + line[1] - y).abs(), w, noise)
    total = inlier.sum()
    x, y = (values - (inlier * values).sum() / total for values in (x, y))
    covariance = (inlier * x * y).sum()
    return bool((line[0] > 0) & (covariance > 0.5 * ((inlier * x * x).sum() * (inlier * y * y).sum()).sqrt()))


def _shift_is_idle(line: Tensor, estimate: Tensor, x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> bool:
    """Whether z-depth is better aligned without a shift: it gains under 10 %, or puts pixels behind the camera."""
    error = _weighted_median((line[0] * x + line[1] - y).abs(), w)
    error_without = _weighted_median((_scale_only(x, y, w)[0] * x - y).abs(), w)
    nearest = estimate[estimate.isfinite() & (estimate > 0)].min().item()
    return bool(0.9 * error_without <= torch.maximum(error, noise)) or line[0].item() * nearest + line[1].item() <= 0


def _weighted_median(values: Tensor, w: Tensor) -> Tensor:
    """The smallest value that half of the weight does not exceed."""
    ordered, order = values.sort()
    mass = w[order].cumsum(0)
    return ordered[torch.searchsorted(mass, mass[-1] / 2).clamp(max=len(ordered) - 1)]


def _inliers(error: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Where the error is within 2.5 robust standard deviations, or the noise that is granted to any fit."""
    return error <= 2.5 * torch.maximum(1.4826 * _weighted_median(error, w), noise)


def _scale_only(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The weighted median ratio, as (scale, 0)."""
    positive = x > 0
    if not positive.any():
        return x.new_zeros(2)
    ratio = _weighted_median(y[positive] / x[positive], w[positive])
    return torch.stack([ratio, ratio.new_zeros(())])


def _least_squares(x: Tensor, y: Tensor, w: Tensor) -> Tensor | None:
    """Weighted least squares line (scale, shift); `None` if the weighted pixels have one x only."""
    total = w.sum()
    x_mean, y_mean = (w * x).sum() / total, (w * y).sum() / total
    variance = (w * (x - x_mean).square()).sum()
    if not variance > 0:
        return None
    scale = (w * (x - x_mean) * (y - y_mean)).sum() / variance
    return torch.stack([scale, y_mean - scale * x_mean])


def _robust_line(x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> Tensor | None:
    """The line (scale, shift) with a positive scale that most pixels agree on; `None` if there is none."""
    generator = torch.Generator().manual_seed(0)
    mass = w.cumsum(0)
    draw = torch.rand(2 * _HYPOTHESES + _SCORED_PIXELS, generator=generator, dtype=torch.float64)
    pixel = torch.searchsorted(mass, draw * mass[-1], right=True).clamp(max=len(x) - 1)
    first, second, scored = pixel.split([_HYPOTHESES, _HYPOTHESES, _SCORED_PIXELS])
    scale = (y[second] - y[first]) / (x[second] - x[first])
    rising = scale.isfinite() & (scale > 0)
    if not rising.any():
        return None
    scale, first = scale[rising], first[rising]
    shift = y[first] - scale * x[first]
    error = (scale[:, None] * x[scored] + shift[:, None] - y[scored]).abs()
    # Least median of squares tells the noise, a truncated sum of squares the line: the median alone would take any
    # line through a flat half of the image.
    limit = 2.5 * torch.maximum(1.4826 * error.median(dim=1).values.min(), noise)
    best = error.clamp(max=limit).square().sum(dim=1).argmin()
    line = torch.stack([scale[best], shift[best]])
    cut = 4.685 / 2.5 * limit
    for _ in range(_ITERATIONS):
        error = line[0] * x + line[1] - y
        refined = _least_squares(x, y, w * (1 - (error / cut).square()).clamp(min=0).square())
        if refined is None or not refined[0] > 0:
            break
        if torch.allclose(refined, line, rtol=1e-9, atol=0.0):
            break
        line = refined
    return line
