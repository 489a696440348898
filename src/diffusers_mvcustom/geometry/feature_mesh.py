"""The anchor feature mesh: a feature grid unprojected with its depth, cut where the depth is discontinuous."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .rays import camera_rays, pixel_centers

SAME_SURFACE = 0.05
"""Relative depth within which the meshes of two views are taken to be the same surface."""

DEFAULT_DISCONTINUITY = 0.1
"""Relative depth change beyond which neighbouring pixels are taken to lie on different surfaces."""

_OBLIQUE = math.tan(math.radians(65))
"""Slope of a surface that is still plainly seen: how many times its own width a pixel's footprint recedes."""

_PLANE_TOLERANCE = 0.15
"""Relative difference between two successive changes of disparity that still counts as one plane."""

_PLANE_EDGES = 3
"""Successive grid edges of equal change of disparity, at least, that make a steep run a slanted plane."""


@dataclass(frozen=True, eq=False)
class FeatureMesh:
    """Triangles over the pixel centres of a feature grid, seen from its anchor camera.

    Faces are ordered counter-clockwise as the anchor sees them: normals point towards the anchor.

    Args:
        vertices (`torch.Tensor` of shape `(height * width, 3)`):
            World position of every pixel of the grid, row by row. Pixels without a valid depth lie at the anchor's
            centre and belong to no face.
        faces (`torch.Tensor` of shape `(T, 3)`, int64): Vertex indices of the triangles.
        height (`int`): Height of the feature grid.
        width (`int`): Width of the feature grid.
        anchor (`Cameras`): The one camera that the grid was seen from, at the grid's resolution.
    """

    vertices: Tensor  # [height * width, 3]
    faces: Tensor  # [T, 3]
    height: int
    width: int
    anchor: Cameras

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FeatureMesh:
        """The mesh on another device or with vertices (and the anchor) in another floating dtype."""
        return replace(
            self,
            vertices=self.vertices.to(device=device, dtype=dtype),
            faces=self.faces.to(device=device),
            anchor=self.anchor.to(device=device, dtype=dtype),
        )


def feature_mesh_from_depth(
    depth: Tensor,  # [h, w]
    camera: Cameras,
    *,
    discontinuity: float = DEFAULT_DISCONTINUITY,
    valid: Tensor | None = None,  # [h, w]
) -> FeatureMesh:
    """Builds the anchor feature mesh of MVCustom's depth-aware feature rendering (the paper's `P_a` and `T_a`).

    Every pixel centre is unprojected with its z-depth; every cell between four pixel centres gives two triangles,
    split along the diagonal that crosses the smaller depth change. Triangles that bridge a depth discontinuity are
    left out.

    An edge between neighbouring pixels is continuous if either holds:

    1. its relative depth change `|z1 - z2| / min(z1, z2)` is at most `discontinuity`;
    2. it is that of a surface seen at most 65° from its normal (`tan(65°) / focal` in pixels of the grid; this counts
       on coarse grids, where a pixel is wide enough for any surface to change by more than `discontinuity`);
    3. it belongs to a slanted plane: over a plane, disparity 1/z is an affine function of the pixel position, however
       grazing the view is. So at least three successive edges whose disparity changes are alike (15 %) are a plane and
       not a step, and the edge where such a plane meets another surface may change as much as the plane itself does.

    The third rule is what keeps a ground plane whole up to the horizon. A step has no run of equal changes, so it is
    cut. What is narrower than two pixels has no triangle of its own.

    Vertices are computed in float64 where the device has it, so that the anchor's own view hits its pixel centres.

    Args:
        depth (`torch.Tensor` of shape `(h, w)`): z-depth at the pixel centres, in world units.
        camera (`Cameras`): One camera, of image size `h` × `w`.
        discontinuity (`float`, *optional*, defaults to 0.1):
            Largest relative depth change between neighbouring pixels that is taken for one surface without further
            evidence.
        valid (`torch.Tensor` of shape `(h, w)`, bool, *optional*): Pixels that have a depth. Others get no triangle.

    Raises:
        MVCustomError: if shapes do not fit, `discontinuity` is not above 0, or a depth that should be valid is not
            finite or not positive.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.cameras import Cameras
        >>> from diffusers_mvcustom.geometry import feature_mesh_from_depth
        >>> camera = Cameras.from_focal(torch.eye(4)[None], 8.0, height=3, width=4)
        >>> mesh = feature_mesh_from_depth(torch.ones(3, 4), camera)
        >>> mesh.vertices.shape, mesh.faces.shape
        (torch.Size([12, 3]), torch.Size([12, 3]))
    """
    depth, valid = _checked(depth, camera, discontinuity, valid)
    height, width = depth.shape
    dtype = working_dtype(depth.device)
    depth = depth.to(dtype)
    camera = camera.to(device=depth.device, dtype=dtype)
    pixels = pixel_centers(height, width, device=depth.device, dtype=dtype).flatten(0, 1)
    origins, directions = camera_rays(camera.camera_to_world[0], camera.intrinsics[0], pixels, normalize=False)
    safe_depth = torch.where(valid, depth, torch.zeros_like(depth))
    vertices = origins + safe_depth.flatten()[:, None] * directions
    across, down = (max(discontinuity, _OBLIQUE / focal) for focal in camera.focal[0].tolist())
    faces = _faces(torch.where(valid, depth, torch.ones_like(depth)), valid, across, down)
    return FeatureMesh(vertices, faces, height, width, camera)


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype that geometry is computed in: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _checked(depth: Tensor, camera: Cameras, discontinuity: float, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    if depth.ndim != 2 or min(depth.shape) < 2 or not depth.is_floating_point():
        raise MVCustomError(
            f"depth: expected floating point z-depth of shape (h, w), both at least 2, got {depth.dtype} of shape "
            f"{tuple(depth.shape)}."
        )
    if len(camera) != 1 or (camera.height, camera.width) != tuple(depth.shape):
        raise MVCustomError(
            f"camera: expected one camera of the depth map's size {tuple(depth.shape)}, got {len(camera)} of size "
            f"({camera.height}, {camera.width}). Resize the cameras first: `cameras.resize(height, width)`."
        )
    if not discontinuity > 0:
        raise MVCustomError(f"discontinuity: expected a relative depth change above 0, got {discontinuity!r}.")
    if valid is None:
        valid = torch.ones_like(depth, dtype=torch.bool)
    elif valid.dtype != torch.bool or valid.shape != depth.shape:
        raise MVCustomError(
            f"valid: expected bool of shape {tuple(depth.shape)} like depth, got {valid.dtype} of shape "
            f"{tuple(valid.shape)}."
        )
    valid = valid.to(depth.device)
    bad = valid & ~(depth.isfinite() & (depth > 0))
    if bad.any():
        raise MVCustomError(
            f"depth: expected finite z-depth above 0, got {depth[bad][0].item()} (and {int(bad.sum())} bad of "
            f"{bad.numel()} pixels). Disparity, or a map with holes? Mark holes with `valid`."
        )
    return depth, valid


def _faces(depth: Tensor, valid: Tensor, limit_across: float, limit_down: float) -> Tensor:
    """Triangles of the grid without those that hold a discontinuous edge or an invalid pixel, `(T, 3)`."""
    height, width = depth.shape
    across = _continuous(depth, valid, limit_across)  # [h, w-1], edge to the right neighbour
    down = _continuous(depth.T, valid.T, limit_down).T  # [h-1, w], edge to the lower neighbour
    top, bottom, left, right = across[:-1], across[1:], down[:, :-1], down[:, 1:]
    # The cell's corners: a b above c d. Split along a-d or b-c; each triangle needs its two grid edges.
    upper_ad, lower_ad = top & right, left & bottom
    upper_bc, lower_bc = top & left, right & bottom
    log_depth = depth.log()
    change_ad = (log_depth[:-1, :-1] - log_depth[1:, 1:]).abs()
    change_bc = (log_depth[:-1, 1:] - log_depth[1:, :-1]).abs()
    kept_ad = upper_ad.int() + lower_ad.int()
    kept_bc = upper_bc.int() + lower_bc.int()
    split_ad = (kept_ad > kept_bc) | ((kept_ad == kept_bc) & (change_ad <= change_bc))
    index = torch.arange(height * width, device=depth.device).reshape(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    triangles = torch.stack(  # counter-clockwise as seen with y down
        [
            torch.stack([a, torch.where(split_ad, d, c), b], dim=-1),
            torch.stack([torch.where(split_ad, a, b), c, d], dim=-1),
        ],
        dim=2,
    )  # [h-1, w-1, 2, 3]
    kept = torch.stack([torch.where(split_ad, upper_ad, upper_bc), torch.where(split_ad, lower_ad, lower_bc)], dim=2)
    return triangles[kept]


def _continuous(depth: Tensor, valid: Tensor, limit: float) -> Tensor:
    """Whether the edge from each pixel to its right neighbour stays on one surface, `(h, w - 1)` bool."""
    nearer = torch.minimum(depth[:, :-1], depth[:, 1:])
    gentle = (depth[:, 1:] - depth[:, :-1]).abs() <= limit * nearer
    present = valid[:, :-1] & valid[:, 1:]
    change = 1 / depth[:, 1:] - 1 / depth[:, :-1]
    size = change.abs()
    # Runs of edges with alike changes of disparity: slanted planes.
    alike = (change[:, 1:] - change[:, :-1]).abs() <= _PLANE_TOLERANCE * torch.maximum(size[:, 1:], size[:, :-1])
    alike = alike & present[:, 1:] & present[:, :-1]
    plane = torch.zeros_like(gentle)
    starts = change.shape[1] - _PLANE_EDGES + 1
    if starts > 0:
        run = torch.ones_like(alike[:, :starts])
        for step in range(_PLANE_EDGES - 1):
            run = run & alike[:, step : step + starts]
        for step in range(_PLANE_EDGES):
            plane[:, step : step + starts] |= run
    # The edge over a crease changes by something between what the planes on its two sides do.
    steepest = (1 + _PLANE_TOLERANCE) * size
    crease = torch.zeros_like(gentle)
    for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        crease[:, here] |= (
            plane[:, there] & (size[:, here] <= steepest[:, there]) & (change[:, here] * change[:, there] >= 0)
        )
    return present & (gentle | plane | crease)
