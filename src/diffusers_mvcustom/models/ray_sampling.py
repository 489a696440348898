"""Where on its ray a sample is taken: in even bins, or in bins that follow what an earlier pass found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MVCustomError


@dataclass(frozen=True, eq=False)
class RayDistribution:
    """What a pass over the rays of B × M target maps found: how much of the light comes from which bin.

    Args:
        edges (`torch.Tensor` of shape `(B, M, h, w, S + 1)`): Ends of the bins as distances along the ray, ascending.
        weights (`torch.Tensor` of shape `(B, M, h, w, S)`): Rendering weights; their sum is the ray's opacity.
    """

    edges: Tensor  # [B, M, h, w, S + 1]
    weights: Tensor  # [B, M, h, w, S]

    def __post_init__(self) -> None:
        expected = (*self.weights.shape[:-1], self.weights.shape[-1] + 1)
        if self.weights.ndim != 5 or self.edges.shape != expected:
            raise MVCustomError(
                "edges, weights: expected shapes (B, M, h, w, S + 1) and (B, M, h, w, S), got "
                f"{tuple(self.edges.shape)} and {tuple(self.weights.shape)}."
            )

    def resize(self, height: int, width: int) -> RayDistribution:
        """The distribution for another size of the same maps; each ray takes over that of the nearest ray.

        Bins differ from ray to ray, and a mean of two rays' bins would lie in the air between two surfaces.
        """
        if self.weights.shape[2:4] == (height, width):
            return self
        rows, columns = (
            ((torch.arange(new, device=self.weights.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
            for new, old in zip((height, width), self.weights.shape[2:4])
        )
        return RayDistribution(self.edges[:, :, rows][:, :, :, columns], self.weights[:, :, rows][:, :, :, columns])


@dataclass(frozen=True, eq=False)
class RaySamples:
    """Samples on rays, one in each of S adjoining bins.

    Args:
        edges (`torch.Tensor` of shape `(..., S + 1)`): Ends of the bins, as distances along the ray.
        positions (`torch.Tensor` of shape `(..., S)`): Where in its bin each sample is taken.
    """

    edges: Tensor  # [..., S + 1]
    positions: Tensor  # [..., S]


def even_distribution(near: float, far: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """One bin from `near` to `far` of which nothing is known, as edges `(1, 1, 1, 1, 2)` and weights `(1, 1, 1, 1, 1)`."""
    return like.new_tensor([near, far]).view(1, 1, 1, 1, 2), like.new_zeros(1, 1, 1, 1, 1)


def spread_weights(
    edges: Tensor,  # [..., K + 1]
    weights: Tensor,  # [..., K]
) -> tuple[Tensor, Tensor]:
    """Spreads each bin's weight evenly over its two halves and the adjoining half of each neighbour.

    A surface that shows in one bin was met somewhere between the sample before it and its own, so half of the time in
    the bin before, where there is no weight. Sampled without this, that bin becomes a wide one and the surface moves
    to its front.

    Returns:
        `tuple` of the halves' edges `(..., 2 * K + 1)` and weights `(..., 2 * K)`, whose sum is that of `weights`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.ray_sampling import spread_weights
        >>> edges, weights = spread_weights(torch.tensor([0.0, 2.0, 4.0, 6.0]), torch.tensor([0.0, 1.0, 0.0]))
        >>> edges.tolist(), weights.tolist()
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0, 0.25, 0.25, 0.25, 0.25, 0.0])
    """
    middles = (edges[..., :-1] + edges[..., 1:]) / 2
    halves = torch.cat([torch.stack([edges[..., :-1], middles], dim=-1).flatten(-2), edges[..., -1:]], dim=-1)
    quarters = weights / 4
    from_before = torch.cat([quarters[..., :1], quarters[..., :-1]], dim=-1)  # at the ends of the ray it stays
    from_behind = torch.cat([quarters[..., 1:], quarters[..., -1:]], dim=-1)
    spread = torch.stack([quarters + from_before, quarters + from_behind], dim=-1).flatten(-2)
    return halves, spread


def sample_rays(
    edges: Tensor,  # [..., K + 1]
    weights: Tensor,  # [..., K]
    num_samples: int,
    *,
    importance_share: float = 0.75,
    jitter: Tensor | None = None,  # [..., S]
) -> RaySamples:
    """Divides rays into bins that are narrow where an earlier pass found something, and takes a sample in each.

    The probability of a place is `importance_share` times the earlier weights, and for the rest uniform over the ray.
    Weights sum to the opacity, so an empty ray is sampled evenly, and a solid one for `importance_share` at its
    surface. The bins are the S quantiles of that probability, so they cover the ray without gaps.

    Args:
        edges (`torch.Tensor` of shape `(..., K + 1)`): Bins of the earlier pass.
        weights (`torch.Tensor` of shape `(..., K)`): Its rendering weights. They get no gradient.
        num_samples (`int`): S.
        importance_share (`float`, *optional*, defaults to 0.75): In [0, 1).
        jitter (`torch.Tensor` of shape `(..., S)`, *optional*):
            Uniform random numbers in [0, 1): where in its bin, in probability, each sample lies (so that over many
            draws the samples follow the probability exactly). By default they lie at the middle, 0.5.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.ray_sampling import sample_rays
        >>> samples = sample_rays(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0]), 4, importance_share=0.5)
        >>> [round(edge, 3) for edge in samples.edges.tolist()]
        [1.0, 2.0, 2.333, 2.667, 3.0]
        >>> [round(position, 3) for position in samples.positions.tolist()]
        [1.5, 2.167, 2.5, 2.833]
    """
    edges, weights = edges.detach(), weights.detach()
    share = importance_share * weights
    widths = edges.diff(dim=-1)
    length = edges[..., -1:] - edges[..., :1]
    probability = share + (1 - share.sum(-1, keepdim=True)) * widths / length
    steps = torch.arange(num_samples + 1, device=edges.device, dtype=edges.dtype)
    within = steps[:-1] + (0.5 if jitter is None else jitter.to(edges))
    ends = (steps / num_samples).expand(*within.shape[:-1], -1)
    quantiles = _inverse_cdf(edges, probability, torch.cat([ends, within / num_samples], dim=-1))
    inner = quantiles[..., 1:num_samples]
    first, last = (end.expand(*inner.shape[:-1], 1) for end in (edges[..., :1], edges[..., -1:]))
    bins = torch.cat([first, inner, last], dim=-1)
    positions = quantiles[..., num_samples + 1 :].clamp(min=bins[..., :-1], max=bins[..., 1:])
    return RaySamples(bins, positions)


def _inverse_cdf(edges: Tensor, probability: Tensor, levels: Tensor) -> Tensor:
    """Where the piecewise linear cumulative distribution over `edges` `(..., K + 1)` reaches `levels` `(..., Q)`."""
    shape = torch.broadcast_shapes(edges.shape[:-1], levels.shape[:-1])
    edges, probability, levels = (x.expand(*shape, x.shape[-1]) for x in (edges, probability, levels))
    cumulative = probability.cumsum(-1)
    cumulative = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative / cumulative[..., -1:]], dim=-1)
    upper = torch.searchsorted(cumulative.contiguous(), levels.contiguous(), right=True)
    upper = upper.clamp(1, edges.shape[-1] - 1)
    low, high = cumulative.gather(-1, upper - 1), cumulative.gather(-1, upper)
    start, end = edges.gather(-1, upper - 1), edges.gather(-1, upper)
    fraction = ((levels - low) / (high - low).clamp(min=torch.finfo(edges.dtype).tiny)).clamp(0, 1)
    return start + fraction * (end - start)
