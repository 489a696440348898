"""How the camera has moved between two views, as their surroundings show it.

The ground's plane and the sky's distance are known, so a view can be seen as from a camera that moved in any way. Of a
grid of movements (around the subject, and sideways) the one is taken after which the first view fits the second best,
away from the subject: by the correlation of both pictures, each pixel freed of its neighbourhood's mean and contrast. Its
error is measured in the picture: how far pixels of the surroundings are from where the target camera would have moved
them, as a share of how far it would have moved them. So 0 is right, 1 is a view that did not move (or moved twice as
far), 2 one that moved the opposite way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...geometry import camera_rays, project
from .known_geometry import KnownGeometry

RIGHT_ERROR = 1 / 3
"""Error below which the movement between two views counts as right; half and double the movement are not."""
WORST_ERROR = 2.0
"""What a pair counts as in which no movement is found: moved the opposite way."""

_TURNS = (-60.0, 60.0, 6.0)
_SHIFTS = (-0.48, 0.48, 0.12)
_FINE = (((-4.0, 4.0, 2.0), (-0.08, 0.08, 0.04)), ((-1.0, 1.0, 0.5), (-0.03, 0.03, 0.01)))
_NEIGHBOURHOOD = 9
_CONTRAST_FLOOR = 0.02
_LEAST_OVERLAP = 0.15
_LEAST_CORRELATION = 0.3
_STRIDE = 2


@dataclass(frozen=True)
class Movement:
    """What two views say about the camera's movement between them.

    Args:
        pair (`tuple` of `int`): The views.
        correlation (`float`): Of the surroundings after the best movement, -1 to 1.
        error (`float`): See the module; [`WORST_ERROR`] where nothing is found.
        degrees (`float`): Angle between the found and the target's relative rotation; 180 where nothing is found.
    """

    pair: tuple[int, int]
    correlation: float
    error: float
    degrees: float

    @property
    def is_right(self) -> bool:
        """Whether the movement counts as right."""
        return self.error < RIGHT_ERROR


def movement_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of views with about a quarter of the path between them, at least one step: enough to differ clearly."""
    gap = max(1, round(count / 4))
    return [(i, i + gap) for i in range(count - gap)]


def surroundings_movements(
    images: Tensor,  # [N, 3, H, W]
    known: KnownGeometry,
    pairs: list[tuple[int, int]] | None = None,
) -> list[Movement]:
    """Judges pairs of views, by default those of [`movement_pairs`].

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        known ([`KnownGeometry`]): Of the case.
        pairs (list of pairs of `int`, *optional*): Which views.
    """
    patterns = local_patterns(images.float())
    surroundings = known.surroundings()
    return [
        _movement(patterns, surroundings, known, i, j)
        for i, j in (movement_pairs(len(images)) if pairs is None else pairs)
    ]


def _movement(patterns: Tensor, surroundings: Tensor, known: KnownGeometry, i: int, j: int) -> Movement:
    height, width = patterns.shape[-2:]
    cameras = known.cameras.to("cpu", torch.float32)
    rows, columns = (torch.arange(_STRIDE // 2, side, _STRIDE) for side in (height, width))
    row, column = (grid.flatten() for grid in torch.meshgrid(rows, columns, indexing="ij"))
    used = surroundings[i, 0, row, column] > 0.5
    row, column = row[used], column[used]
    pixels = torch.stack([column + 0.5, row + 0.5], dim=-1)
    origins, directions = camera_rays(cameras.camera_to_world[i], cameras.intrinsics[i], pixels, normalize=False)
    points = origins + directions * known.depth[i, row, column].float()[:, None]  # [P, 3]
    source = patterns[i][:, row, column]  # [3, P]

    def compared(poses: Tensor) -> tuple[Tensor, Tensor]:
        """Correlations `(M,)` and pixels `(M, P, 2)` for poses `(M, 4, 4)` of the second camera."""
        moved, _ = project(points, torch.linalg.inv(poses), cameras.intrinsics[j])
        return _correlations(source, patterns[j], surroundings[j], moved), moved

    def search(turns: Tensor, shifts: Tensor) -> tuple[float, Tensor, Tensor]:
        turn, shift = (grid.flatten() for grid in torch.meshgrid(turns, shifts, indexing="ij"))
        poses = moved_poses(cameras.camera_to_world[i], turn, shift)
        values, moved = compared(poses)
        best = int(values.argmax())
        return values[best].item(), torch.stack([turn[best], shift[best]]), moved[best]

    correlation, (turn, shift), moved = search(_steps(*_TURNS), _steps(*_SHIFTS))
    for turns, shifts in _FINE:
        correlation, (turn, shift), moved = search(turn + _steps(*turns), shift + _steps(*shifts))
    if not correlation >= _LEAST_CORRELATION:
        return Movement((i, j), correlation, WORST_ERROR, 180.0)
    target, _ = project(points, cameras.world_to_camera[j], cameras.intrinsics[j])
    # What no camera sees has no place; both movements are compared where the target's keeps it in the picture.
    inside = ((target > 0) & (target < torch.tensor([width, height]))).all(dim=-1)
    far = (target - pixels)[inside].norm(dim=-1).clamp(max=width).mean()
    off = (target - moved)[inside].norm(dim=-1).clamp(max=width).mean()
    wanted = cameras.camera_to_world[j, :3, :3].T @ cameras.camera_to_world[i, :3, :3]
    had = moved_poses(cameras.camera_to_world[i], turn[None], torch.zeros(1))[0, :3, :3].T
    had = had @ cameras.camera_to_world[i, :3, :3]
    cosine = (((wanted.T @ had).diagonal().sum() - 1) / 2).clamp(-1, 1)
    error = min((off / far.clamp(min=1e-6)).item(), WORST_ERROR)
    return Movement((i, j), correlation, error, math.degrees(math.acos(cosine)))


def moved_poses(
    pose: Tensor,  # [4, 4]
    turns: Tensor,  # [M]
    shifts: Tensor,  # [M]
) -> Tensor:
    """A camera turned about the world's vertical axis by degrees, then moved along its own x axis: `(M, 4, 4)`."""
    angle = torch.deg2rad(turns)
    rotation = torch.eye(4).repeat(len(turns), 1, 1)
    rotation[:, 0, 0] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 0, 2], rotation[:, 2, 0] = angle.sin(), -angle.sin()
    poses = rotation @ pose
    poses[:, :3, 3] += shifts[:, None] * poses[:, :3, 0]
    return poses


def _correlations(source: Tensor, target: Tensor, allowed: Tensor, moved: Tensor) -> Tensor:
    """Correlation `(M,)` of source values `(3, P)` with those of a view `(3, H, W)` at pixels `(M, P, 2)`."""
    height, width = target.shape[-2:]
    grid = 2 * moved / torch.tensor([width, height]) - 1
    both = torch.cat([target, allowed])[None]
    sampled = F.grid_sample(both, grid[None], padding_mode="zeros", align_corners=False)[0]  # [4, M, P]
    inside = (grid.abs() < 1).all(dim=-1) & (sampled[3] > 0.99)
    values, weights = sampled[:3], inside.float()
    product = (values * source[:, None] * weights).sum(dim=(0, 2))
    norms = (values.square() * weights).sum(dim=(0, 2)) * (source.square()[:, None] * weights).sum(dim=(0, 2))
    correlation = product / norms.sqrt().clamp(min=1e-6)
    return torch.where(weights.mean(dim=1) >= _LEAST_OVERLAP, correlation, -1.0)


def local_patterns(images: Tensor) -> Tensor:
    """Images `(N, 3, H, W)` without each pixel's neighbourhood mean, divided by its contrast."""
    mean_around = partial(
        F.avg_pool2d, kernel_size=_NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2, count_include_pad=False
    )
    mean = mean_around(images)
    centered = images - mean
    contrast = mean_around(centered.square().mean(dim=1, keepdim=True)).sqrt()
    return centered / (contrast + _CONTRAST_FLOOR)


def _steps(first: float, last: float, step: float) -> Tensor:
    return torch.linspace(first, last, round((last - first) / step) + 1)
