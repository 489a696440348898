"""Bilinear sampling of feature maps at many points, channels last, with zeros outside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class BilinearSampler:
    """The four pixels around each of N points of V maps, and how much of each a sample takes.

    Built once for a set of points, it samples any number of maps there.

    Args:
        indices (`torch.Tensor` of shape `(V, N, 4)`): Flattened pixel positions.
        weights (`torch.Tensor` of shape `(V, N, 4)`): 0 for pixels outside of the map.
    """

    indices: Tensor  # [V, N, 4]
    weights: Tensor  # [V, N, 4]

    @classmethod
    def at(
        cls,
        pixels: Tensor,  # [V, N, 2]
        height: int,
        width: int,
    ) -> BilinearSampler:
        """For positions (x, y) on `height` × `width` maps; the centre of the first pixel is (0.5, 0.5)."""
        size = pixels.new_tensor([width, height])
        # Beyond one pixel outside nothing is seen; the clamp keeps far projections within an integer's range.
        position = (pixels - 0.5).clamp(min=torch.full_like(size, -2.0), max=size + 1.0)
        corner = position.floor()
        fraction = position - corner
        columns = corner[..., :1] + corner.new_tensor([0.0, 1.0, 0.0, 1.0])  # [V, N, 4]
        rows = corner[..., 1:] + corner.new_tensor([0.0, 0.0, 1.0, 1.0])
        x, y = fraction[..., :1], fraction[..., 1:]
        weights = torch.cat([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=-1)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        indices = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
        return cls(indices, weights * inside)

    @property
    def coverage(self) -> Tensor:
        """What each sample takes from within the map, `(V, N)`: 1 inside, falling to 0 half a pixel outside."""
        return self.weights.sum(-1)

    def sample(
        self,
        view: int,
        features: Tensor,  # [h * w, C]
    ) -> Tensor:
        """Samples one view's map, `(N, C)`. Differentiable with respect to the map."""
        # One fused weighted gather: no copy of the four corners.
        return F.embedding_bag(
            self.indices[view], features, per_sample_weights=self.weights[view].to(features.dtype), mode="sum"
        )
