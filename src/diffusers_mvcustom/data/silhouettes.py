"""Do masks and cameras fit each other? What the optical axes alone cannot tell, the subject's outlines can.

World-to-camera matrices read as camera-to-world ones may look like a perfect capture: where the world's origin is the
first camera's place (as structure from motion has it), the inverted cameras stand around a common point and look at it.
But the subject's silhouettes then have no solid in common.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras, normalize_cameras
from ..errors import CamerasError

_LONG_SIDE = 48
_GRID = 40
_HALF_EXTENT = 0.6
_AGREEING_SHARE = 0.95
"""Share of the views that have to see a point inside their mask; not all, as one mask in twenty may be wrong."""
_FITTING, _MARGIN = 0.75, 0.3
"""Another convention is only spoken of if it fits this well, and so much better than the one that was read."""


def silhouette_agreement(
    cameras: Cameras,
    masks: Tensor,  # [N, 1, H, W]
) -> float:
    """How much of the masks the largest solid fills that fits into them all (the visual hull), 0 to 1.

    Args:
        cameras ([`Cameras`]): N cameras in the subject frame.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`): 1 where the subject is.
    """
    scale = min(1.0, _LONG_SIDE / max(cameras.height, cameras.width))
    height, width = (max(1, round(side * scale)) for side in (cameras.height, cameras.width))
    small = cameras.to(dtype=torch.float32).resize(height, width)
    inside = F.interpolate(masks.float(), (height, width), mode="area")[:, 0] > 0.5  # [N, h, w]
    line = torch.linspace(-_HALF_EXTENT, _HALF_EXTENT, _GRID)
    points = torch.cartesian_prod(line, line, line)  # [P, 3]
    poses = small.world_to_camera
    local = points @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]  # [N, P, 3]
    depth = local[..., 2]
    pixels = (local @ small.intrinsics.transpose(1, 2))[..., :2] / depth.clamp(min=1e-6)[..., None]
    column, row = pixels.floor().long().unbind(-1)
    seen = (depth > 1e-3) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = torch.where(seen, row * width + column, 0)
    agrees = seen & inside.flatten(1).gather(1, index)
    votes = seen.sum(dim=0)
    hull = (votes >= 0.5 * len(cameras)) & (agrees.sum(dim=0) >= _AGREEING_SHARE * votes)
    covered = torch.zeros(len(cameras), height * width)
    covered.scatter_reduce_(1, index[:, hull], seen[:, hull].float(), "amax")
    covered = F.max_pool2d(covered.view(-1, 1, height, width), 3, stride=1, padding=1)[:, 0] > 0  # points have a size
    return ((covered & inside).sum() / inside.sum().clamp(min=1)).item()


def convention_that_fits(
    cameras: Cameras,
    masks: Tensor,  # [N, 1, H, W]
) -> str | None:
    """The convention in which cameras must have been given, if the masks contradict them and fit that one.

    Args:
        cameras ([`Cameras`]): N cameras in the world of their file, as they were read.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`): 1 where the subject is.

    Returns:
        `str`, *optional*: What to tell the user; `None` if nothing is wrong, or nothing better is known.
    """
    given = _agreement(cameras, masks)
    if given >= 1 - _MARGIN:
        return None
    # A flipped world is the same up to a rotation, so these three stand for every mistake of inversion and of axes.
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).to(cameras.camera_to_world)
    others = {
        "world-to-camera matrices given as camera-to-world": cameras.world_to_camera,
        "OpenGL poses given as OpenCV, or the reverse": cameras.camera_to_world @ flip,
        "world-to-camera matrices with other axes": cameras.world_to_camera @ flip,
    }
    scores = {name: _agreement(replace(cameras, camera_to_world=poses), masks) for name, poses in others.items()}
    best = max(scores, key=scores.__getitem__)
    if scores[best] < max(_FITTING, given + _MARGIN):
        return None
    return f"{best}? So they fit {scores[best]:.0%} of the masks' area, as they were read {given:.0%}"


def _agreement(cameras: Cameras, masks: Tensor) -> float:
    try:
        return silhouette_agreement(normalize_cameras(cameras, up=None)[0], masks)
    except CamerasError:
        return 0.0
