"""Points of the scene from the anchors' depth, and which views see them.

Nothing is triangulated: a point is where depth-aware feature rendering puts an anchor's pixel, and the views that see it
are those in which the anchor's mesh is in front there. What the views really show at these pixels is as consistent as the
model made it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..cameras.colmap_model import Observations
from ..geometry import (
    DEFAULT_DISCONTINUITY,
    SAME_SURFACE,
    FeatureMesh,
    Rasterization,
    feature_mesh_from_depth,
    project,
    rasterize,
)

_SAME_POINT = 0.02
"""Relative depth within which a view's nearest surface of an anchor is the point itself."""


@dataclass(frozen=True)
class AnchorDepth:
    """What a call's hooks took for the geometry of one set of views.

    Args:
        frames (`tuple` of `int`): The anchors among the views.
        depth (`torch.Tensor` of shape `(anchors, H, W)`): Their z-depth in world units, of any size.
        discontinuity (`float`, *optional*): See [`feature_mesh_from_depth`]; `None` takes its default.
    """

    frames: tuple[int, ...]
    depth: Tensor  # [A, H, W]
    discontinuity: float | None = None


@dataclass(frozen=True, eq=False)
class ScenePoints:
    """Coloured points in the cameras' world, and where views see them.

    Args:
        positions (`torch.Tensor` of shape `(P, 3)`, float64): World points.
        colors (`torch.Tensor` of shape `(P, 3)`, uint8): As the anchor view shows them.
        observations ([`Observations`]): In pixels of the views.
    """

    positions: Tensor  # [P, 3]
    colors: Tensor  # [P, 3]
    observations: Observations


def dense_points(anchors: AnchorDepth, cameras: Cameras, views: Sequence[PIL.Image.Image]) -> tuple[Tensor, Tensor]:
    """Every pixel of the anchor views at its depth.

    Pixels that belong to no triangle of the anchor's mesh, such as those smeared across an edge, are left out.

    Args:
        anchors ([`AnchorDepth`]): The anchors and their depth.
        cameras ([`Cameras`]): Of all views, at their size.
        views (sequence of `PIL.Image.Image`): All views.

    Returns:
        Positions `(P, 3)`, float64, and colours `(P, 3)`, uint8.
    """
    size = (cameras.height, cameras.width)
    exact = cameras.to("cpu", torch.float64)
    positions, colors = [], []
    for frame, mesh in zip(anchors.frames, _meshes(anchors, exact, size)):
        used = mesh.faces.unique()
        positions.append(mesh.vertices[used])
        colors.append(_pixels(views[frame], size)[used])
    return torch.cat(positions), torch.cat(colors)


def observed_points(
    anchors: AnchorDepth,
    cameras: Cameras,
    views: Sequence[PIL.Image.Image],
    most: int = 20_000,
) -> ScenePoints:
    """Points of the anchors on a grid, with the views that see each: what a sparse model holds.

    A view sees a point if the anchor's mesh, rendered into the view, is seen from the front at the four pixels around the
    point's projection and has the point's depth there (between pixels inverse depth is interpolated, which is exact on
    planes), and no other anchor's surface is in front. Points that fewer than two views see are left out, and so are those
    of an anchor's pixels that an earlier anchor has points for.

    Args:
        anchors ([`AnchorDepth`]): The anchors and their depth.
        cameras ([`Cameras`]): Of all views, at their size.
        views (sequence of `PIL.Image.Image`): All views.
        most (`int`, defaults to 20,000): Points of an anchor at most; a view of more pixels is sampled on a coarser grid.

    Returns:
        [`ScenePoints`], whose observations are the exact projections.
    """
    size = _grid(cameras.height, cameras.width, most)
    grid = cameras.to("cpu", torch.float64).resize(*size)
    meshes = _meshes(anchors, grid, size)
    seen = [rasterize(mesh, grid) for mesh in meshes]
    to_view = grid.intrinsics.new_tensor([cameras.width / size[1], cameras.height / size[0]])
    positions, colors, photo, point, pixel = [], [], [], [], []
    count = 0
    for a, (frame, mesh) in enumerate(zip(anchors.frames, meshes)):
        used = mesh.faces.unique()
        used = used[~_told_by(seen[:a], frame, seen[a].depth[frame]).flatten()[used]]
        at, depth = project(mesh.vertices[used], torch.linalg.inv(grid.camera_to_world), grid.intrinsics)
        sees = _shows(seen[a], at, depth) & ~_hidden([other for b, other in enumerate(seen) if b != a], at, depth)
        sees[frame] = True
        tracked = sees.sum(dim=0) >= 2
        sees, at, used = sees[:, tracked], at[:, tracked], used[tracked]
        views_of_points, points_of_views = sees.nonzero(as_tuple=True)
        positions.append(mesh.vertices[used])
        colors.append(_pixels(views[frame], size)[used])
        photo.append(views_of_points)
        point.append(points_of_views + count)
        pixel.append(at[sees] * to_view)
        count += len(used)
    return ScenePoints(
        torch.cat(positions), torch.cat(colors), Observations(torch.cat(photo), torch.cat(point), torch.cat(pixel))
    )


def _grid(height: int, width: int, most: int) -> tuple[int, int]:
    """The largest grid of at most `most` points with the views' aspect ratio, no finer than they are."""
    share = min(1.0, math.sqrt(most / (height * width)))
    return max(2, int(height * share)), max(2, int(width * share))


def _meshes(anchors: AnchorDepth, cameras: Cameras, size: tuple[int, int]) -> list[FeatureMesh]:
    """The anchors' meshes over a grid of `size`, made from the depth as `AnchorGeometry` makes them."""
    discontinuity = DEFAULT_DISCONTINUITY if anchors.discontinuity is None else anchors.discontinuity
    depth = anchors.depth.detach().cpu().double()
    if tuple(depth.shape[-2:]) != size:
        depth = F.interpolate(depth[None], size=size, mode="nearest-exact")[0]
    return [
        feature_mesh_from_depth(of_frame, cameras[frame], discontinuity=discontinuity)
        for frame, of_frame in zip(anchors.frames, depth)
    ]


def _pixels(view: PIL.Image.Image, size: tuple[int, int]) -> Tensor:
    """Colours `(h * w, 3)` of a view, each pixel of a coarser grid the mean of what it covers."""
    height, width = size
    if view.size != (width, height):
        view = view.resize((width, height), PIL.Image.Resampling.BOX)
    return torch.from_numpy(np.array(view.convert("RGB"))).flatten(0, 1)


def _told_by(earlier: Sequence[Rasterization], frame: int, depth: Tensor) -> Tensor:
    """`(h, w)` bool: where the surface of an anchor frame is one that an earlier anchor saw."""
    told = torch.zeros_like(depth, dtype=torch.bool)
    for other in earlier:
        told |= other.visibility[frame] & ((other.depth[frame] / depth - 1).abs() <= SAME_SURFACE)
    return told


def _shows(
    surface: Rasterization,
    at: Tensor,  # [N, P, 2]
    depth: Tensor,  # [N, P]
) -> Tensor:
    """`(N, P)` bool: whether the rendered mesh has the points' depth where they project to."""
    visible = surface.visibility
    inverse = torch.where(visible, 1 / surface.depth, torch.zeros_like(surface.depth))
    inverse, share = _sample(torch.stack([inverse, visible.to(inverse)], dim=1), at).unbind(1)
    return (share > 1 - 1e-6) & ((inverse * depth - 1).abs() <= _SAME_POINT)


def _hidden(
    others: Sequence[Rasterization],
    at: Tensor,  # [N, P, 2]
    depth: Tensor,  # [N, P]
) -> Tensor:
    """`(N, P)` bool: whether another anchor's surface is in front of the points."""
    hidden = torch.zeros_like(depth, dtype=torch.bool)
    for other in others:
        inverse = _sample((1 / other.depth)[:, None], at, mode="nearest")[:, 0]
        hidden |= inverse * depth > 1 + SAME_SURFACE
    return hidden


def _sample(
    maps: Tensor,  # [N, C, h, w]
    at: Tensor,  # [N, P, 2]
    mode: str = "bilinear",
) -> Tensor:
    """Maps at pixel positions, zero outside, `(N, C, P)`."""
    normalized = 2 * at / at.new_tensor([maps.shape[-1], maps.shape[-2]]) - 1
    return F.grid_sample(maps, normalized[:, None], mode=mode, padding_mode="zeros", align_corners=False)[:, :, 0]
