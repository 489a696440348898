"""The horizontal plane that an object stands on: how high it lies, and how far away it is in every pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .rays import camera_rays, pixel_centers

_OBJECT = 0.3
"""Opacity above which a pixel is the object's. Less than a half: in a coarse map nothing else is left of thin legs."""

_LOWEST = 0.005
"""Share of the object's pixels in a view that may be below what counts as its lowest point."""

_AT_ITS_END = 0.1
"""Share of the object's extent, from its lowest point up, in which it must not touch a view's border."""


def ground_height(
    depth: Tensor,  # [N, h, w]
    opacity: Tensor,  # [N, h, w]
    cameras: Cameras,
) -> float | None:
    """Height (world y, which points up) of the plane under an object, from what cameras see of the object.

    Of every view the object's lowest point is taken, of all views the median of those: a speck in one of them does not
    count. A pixel reaches down to its lowest edge, as coarse maps, like those of FeatureNeRF, would have the plane too high
    otherwise. Views in which the object's lower end touches the border are passed over: it may go on outside.

    Args:
        depth (`torch.Tensor` of shape `(N, h, w)`): z-depth of the object in world units.
        opacity (`torch.Tensor` of shape `(N, h, w)`): 0 to 1; above 0.3 a pixel is the object's.
        cameras ([`Cameras`]): The N cameras, at any resolution.

    Returns:
        `float`, or `None` if no view shows the object's lower end.

    Raises:
        MVCustomError: if shapes do not fit.
    """
    if depth.ndim != 3 or depth.shape != opacity.shape or len(depth) != len(cameras):
        raise MVCustomError(
            f"depth, opacity: expected shape ({len(cameras)}, h, w), one map per camera, got {tuple(depth.shape)} and "
            f"{tuple(opacity.shape)}."
        )
    height, width = depth.shape[-2:]
    depth, opacity = depth.float().cpu(), opacity.float().cpu()
    cameras = cameras.resize(height, width).to("cpu", torch.float32)
    centers = pixel_centers(height, width).view(1, -1, 2)
    edges = torch.tensor([(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
    reached = torch.stack([_heights(cameras, centers + edge, depth) for edge in edges]).amin(dim=0)
    border = torch.ones(height, width, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    lowest = []
    for heights, mine in zip(reached, (opacity > _OBJECT) & depth.isfinite()):
        if not mine.any():
            continue
        ordered = heights[mine].sort().values
        low = ordered[round(_LOWEST * (len(ordered) - 1))]
        end = low + _AT_ITS_END * (ordered[-1] - low)
        if not (border & mine & (heights <= end)).any():
            lowest.append(low)
    return torch.stack(lowest).median().item() if lowest else None


def plane_depth(cameras: Cameras, height: float) -> Tensor:
    """z-depth of the horizontal plane at a height in every pixel: `(N, H, W)`, infinite where it is not seen from above.

    Args:
        cameras ([`Cameras`]): N cameras of H × W pixels; depth is that of pixel centres.
        height (`float`): World y of the plane, which points up, in world units.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.geometry import plane_depth
        >>> camera = Cameras.orbit(1, elevation=90.0, radius=2.0, height=2, width=2)  # looks straight down
        >>> plane_depth(camera, -0.5).round(decimals=3).tolist()
        [[[2.5, 2.5], [2.5, 2.5]]]
    """
    pixels = pixel_centers(cameras.height, cameras.width, device=cameras.camera_to_world.device).view(1, -1, 2)
    origins, directions = camera_rays(
        cameras.camera_to_world.float(), cameras.intrinsics.float(), pixels, normalize=False
    )
    above = origins[..., 1] - height
    depth = above / -directions[..., 1]
    seen = (above > 0) & (depth > 0) & depth.isfinite()
    return torch.where(seen, depth, torch.inf).view(len(cameras), cameras.height, cameras.width)


def _heights(cameras: Cameras, pixels: Tensor, depth: Tensor) -> Tensor:
    """World y `(N, h, w)` of the points at z-depths `(N, h, w)` behind pixel positions `(1, h * w, 2)`."""
    origins, directions = camera_rays(cameras.camera_to_world, cameras.intrinsics, pixels, normalize=False)
    return (origins[..., 1] + directions[..., 1] * depth.flatten(1)).view(depth.shape)
