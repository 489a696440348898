"""How much of the anchor's content comes back where the anchor saw nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...geometry import camera_rays, pixel_centers, project
from .known_geometry import KnownGeometry
from .surroundings_cameras import local_patterns

_WINDOW = 17
_STRIDE = 4
_LEAST_UNSEEN = 0.9
_LEAST_CONTRAST = 0.3
_SAME_DEPTH = 0.05
WORST_REPETITION = 1.0


def repetition(
    images: Tensor,  # [N, 3, H, W]
    known: KnownGeometry,
    anchor: int,
) -> float:
    """How much better the anchor's own picture explains what the anchor did not see than its mirror image does.

    Each window of 17 × 17 pixels in such a region is compared with every window of the anchor's picture, by the correlation
    of their local patterns (see [`surroundings_cameras`]). Grounds and horizons are alike by nature, in a mirror too, so
    what counts is `(a - m) / (1 - m)`: `a` the mean of the best correlations with the anchor, `m` with its mirror image.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        known ([`KnownGeometry`]): Of the case. It says what the anchor does not see.
        anchor (`int`): The anchor's index.

    Returns:
        `float` from 0 (new content) to 1 (the anchor's, moved); 1 if no window there has any contrast, as when all views
        are blank.
    """
    patterns = local_patterns(images.float())
    unseen = unseen_by(known, anchor) & (known.surroundings()[:, 0] > 0.5)
    mine = torch.cat([_unseen_windows(patterns[view], unseen[view]) for view in range(len(images)) if view != anchor])
    if len(mine) == 0:
        return WORST_REPETITION
    alike, by_nature = (
        (mine @ windows.T).amax(dim=1).mean().item()
        for windows in (_windows(patterns[anchor])[0], _windows(patterns[anchor].flip(-1))[0])
    )
    return max(0.0, alike - by_nature) / max(1 - by_nature, 1e-6)


def unseen_by(known: KnownGeometry, anchor: int) -> Tensor:
    """Where each view sees what the anchor does not: `(N, H, W)`, bool.

    A point is seen where its inverse depth is the anchor's, up to 5 %. Inverse depth, unlike depth, is linear on a plane, so
    the ground counts up to the horizon.
    """
    cameras, count, height, width = known.cameras, *known.depth.shape
    pixels = pixel_centers(height, width).view(1, -1, 2)
    origins, directions = camera_rays(cameras.camera_to_world, cameras.intrinsics, pixels, normalize=False)
    points = origins + directions * known.depth.view(count, -1, 1)
    places, z = project(points, cameras.world_to_camera[anchor], cameras.intrinsics[anchor])
    grid = 2 * places / torch.tensor([width, height]) - 1  # [N, H * W, 2]
    inverse = (1 / known.depth[anchor]).expand(count, 1, height, width)
    there = F.grid_sample(inverse, grid[:, None], padding_mode="border", align_corners=False)[:, 0, 0]
    seen = (grid.abs() < 1).all(dim=-1) & ((there * z - 1).abs() < _SAME_DEPTH)
    return ~seen.view(count, height, width)


def _unseen_windows(patterns: Tensor, unseen: Tensor) -> Tensor:
    """Windows with contrast that lie in the unseen region `(H, W)`: `(P, 3 * 17 * 17)`."""
    windows, contrast = _windows(patterns, _STRIDE)
    share = F.avg_pool2d(unseen[None].float(), _WINDOW, stride=_STRIDE).flatten()
    return windows[(share >= _LEAST_UNSEEN) & (contrast > _LEAST_CONTRAST)]


def _windows(patterns: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Windows of patterns `(3, H, W)`, of length 1 `(P, 3 * 17 * 17)`, and their contrast `(P,)`."""
    windows = F.unfold(patterns[None], _WINDOW, stride=stride)[0].T
    return F.normalize(windows, dim=1), windows.square().mean(dim=1).sqrt()
