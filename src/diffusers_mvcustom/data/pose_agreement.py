"""Which cameras two reconstructions of the same photos agree about: what one got wrong, the other seldom gets wrong alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MAX_ANGLE = 5.0
MAX_OFFSET = 0.15


def agreeing_cameras(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> set[str]:
    """Names of the cameras that two reconstructions, each in a world of its own, place alike.

    The worlds are brought together by the rotation that most cameras support, then by the median scale and shift of
    these; so a minority of wrong cameras in either does not matter.

    Args:
        first (mapping of `str` to `torch.Tensor` of shape `(4, 4)`): Camera-to-world poses by name.
        second (mapping of `str` to `torch.Tensor` of shape `(4, 4)`): The other's.

    Returns:
        set of `str`: Those whose rotations differ by at most 5°, and whose centres by at most 0.15 of the cameras' median
        distance from their middle. Empty if fewer than 3 agree: two fit always.
    """
    names = sorted(set(first) & set(second))
    if len(names) < 3:
        return set()
    one, other = (torch.stack([poses[name].double() for name in names]) for poses in (first, second))
    between = one[:, :3, :3] @ other[:, :3, :3].transpose(1, 2)  # [N, 3, 3]: each camera's idea of world to world
    angles = _angle(between[:, None] @ between.transpose(1, 2)[None])  # [N, N]
    votes = (angles <= MAX_ANGLE).sum(dim=1).double() - angles.clamp(max=MAX_ANGLE).mean(dim=1) / MAX_ANGLE
    chosen = int(votes.argmax())
    alike = (angles[chosen] <= MAX_ANGLE).nonzero().flatten()
    if len(alike) < 3:
        return set()
    centers = one[alike, :3, 3]
    turned = other[alike, :3, 3] @ between[chosen].T
    rows, columns = torch.triu_indices(len(alike), len(alike), 1)
    apart, apart_turned = ((c[rows] - c[columns]).norm(dim=-1) for c in (centers, turned))
    scale = (apart / apart_turned.clamp(min=1e-12)).median()
    shift = (centers - scale * turned).median(dim=0).values
    size = (centers - centers.median(dim=0).values).norm(dim=-1).median()
    offset = (scale * turned + shift - centers).norm(dim=-1)
    kept = alike[offset <= MAX_OFFSET * size]
    return {names[i] for i in kept.tolist()} if len(kept) >= 3 else set()


def _angle(rotation: Tensor) -> Tensor:
    """Angle of rotations `(..., 3, 3)` in degrees."""
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1) / 2
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
