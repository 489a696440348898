"""Rotations from vectors, and rotations between rotations."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_matrices(vectors: Tensor) -> Tensor:
    """Rotation matrices `(N, 3, 3)` of rotation vectors `(N, 3)`, whose length is the angle in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=-1) for row in ([zero, -z, y], [z, zero, -x], [-y, x, zero])]
    return torch.linalg.matrix_exp(torch.stack(rows, dim=-2))


def slerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Rotations `(N, 3, 3)` at `share` of the way from `first` to `second`, on the shortest way."""
    turn = first.transpose(1, 2) @ second
    skew = torch.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], dim=-1
    )  # 2 sin(angle) along the axis
    sine, cosine = skew.norm(dim=-1), turn.diagonal(dim1=1, dim2=2).sum(-1) - 1  # twice of each
    angle = torch.atan2(sine, cosine)  # the arc cosine would make 5e-4 of a rounding error
    # Beyond a quarter turn the axis is the eigenvector of 1 of the symmetric part: well defined at half turns too.
    axis = torch.linalg.eigh((turn + turn.transpose(1, 2)) / 2).eigenvectors[..., -1]
    axis = torch.where((skew * axis).sum(-1, keepdim=True) < 0, -axis, axis)
    small = skew / sine.clamp(min=torch.finfo(skew.dtype).tiny)[:, None]
    axis = torch.where((cosine > 0)[:, None], small, axis)
    return first @ rotation_matrices(axis * (angle * share)[:, None])
