"""Emission and absorption along rays whose density is constant within each bin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LARGEST_GRADIENT_EXPONENT = 15.0
_LARGEST_DENSITY = 1e30
_NO_OPACITY = 1e-6


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exponent: Tensor) -> Tensor:
        ctx.save_for_backward(exponent)
        return exponent.exp().clamp(max=_LARGEST_DENSITY)  # an infinite one would be NaN times a coverage of 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (exponent,) = ctx.saved_tensors
        return gradient * exponent.clamp(max=_LARGEST_GRADIENT_EXPONENT).exp()


def truncated_exp(exponent: Tensor) -> Tensor:
    """`exp(exponent)`, at most 1e30, whose gradient stops growing at an exponent of 15: a dense sample cannot blow up a
    step."""
    return _TruncatedExp.apply(exponent)


def rendering_weights(
    density: Tensor,  # [..., S]
    edges: Tensor,  # [..., S + 1]
) -> Tensor:
    """The share of the light that each bin sends to the eye.

    `w_i = exp(-Σ_{j<i} σ_j δ_j) (1 - exp(-σ_i δ_i))` with `δ_i = edges_{i+1} - edges_i`. Their sum is the ray's opacity,
    `1 - exp(-Σ σ_i δ_i)`.

    Args:
        density (`torch.Tensor` of shape `(..., S)`): σ, not negative, per unit of length.
        edges (`torch.Tensor` of shape `(..., S + 1)`): Distances of the bins' ends along the ray, ascending.

    Returns:
        `torch.Tensor` of shape `(..., S)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.volume_rendering import rendering_weights
        >>> halving = torch.full((3,), 2.0).log()
        >>> rendering_weights(halving, torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
        [0.5, 0.25, 0.125]
    """
    depth = _optical_depth(density, edges)
    before = depth.cumsum(-1)[..., :-1]
    transmittance = torch.cat([torch.ones_like(depth[..., :1]), (-before).exp()], dim=-1)
    return transmittance * -torch.expm1(-depth)


def expected_distance(
    density: Tensor,  # [..., S]
    edges: Tensor,  # [..., S + 1]
    weights: Tensor,  # [..., S]
) -> Tensor:
    """Where along the ray the light that reaches the eye comes from on average, `(...)`.

    Exact for a density that is constant within each bin: a fog's light comes from the bins' middles, a solid's from
    the front edge of its first bin. Where the opacity is 0 it is the far end of the ray (below an opacity of about
    1e-5 it begins to lean there).
    """
    widths = edges.diff(dim=-1)
    inside = edges[..., :-1] + widths * _mean_depth_within_bin(_optical_depth(density, edges))
    nowhere = _NO_OPACITY * edges[..., -1]
    return ((weights * inside).sum(-1) + nowhere) / (weights.sum(-1) + _NO_OPACITY)


def _optical_depth(density: Tensor, edges: Tensor) -> Tensor:
    # The clamp keeps an overflowing density from giving NaN in a bin of no width.
    return density.clamp(max=_LARGEST_DENSITY) * edges.diff(dim=-1)


def _mean_depth_within_bin(depth: Tensor) -> Tensor:
    """Mean place of absorption in a bin of this optical depth x, as a fraction of the bin: `1/x - 1/(exp(x) - 1)`."""
    thin = depth < 0.1
    # Each branch gets arguments that are safe for it: a `where` after it would still pass NaN gradients back.
    small = depth.clamp(max=0.1)
    safe = torch.where(thin, torch.ones_like(depth), depth)
    series = 0.5 - small / 12 + small**3 / 720
    return torch.where(thin, series, 1 / safe - 1 / torch.expm1(safe.clamp(max=80.0)))
