"""A rasteriser in plain torch: which triangle of a feature mesh every pixel of every camera sees.

Pixels are tested in homogeneous coordinates. With `q_i = K v_i` the vertices in the camera (so that the pixel of a
vertex is `q.xy / q.z`) and `r_i = q_i.xy - p q_i.z`, the ray through pixel `p` meets the triangle where the three edge
functions `r_1 × r_2, r_2 × r_0, r_0 × r_1` have the sign of `det(q)`. Nothing is divided by a vertex's depth, so a
triangle that reaches behind the camera needs no clipping; the edge functions over their sum are the barycentric
coordinates in space (perspective-correct); and neighbours compute the edge they share with exactly opposite sign, so
no pixel falls between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .feature_mesh import FeatureMesh
from .rays import transform_directions, transform_points

_NOTHING = torch.iinfo(torch.int64).max
_FACE_BITS = 32


@dataclass(frozen=True, eq=False)
class Rasterization:
    """What every pixel of N cameras sees of a mesh.

    Args:
        face_index (`torch.Tensor` of shape `(N, H, W)`, int64): The nearest face, -1 where there is none.
        barycentrics (`torch.Tensor` of shape `(N, H, W, 3)`):
            Weights of the face's vertices at the hit, perspective-correct, at least 0 and with sum 1; 0 where there is
            no face.
        depth (`torch.Tensor` of shape `(N, H, W)`): z-depth of the hit in the camera, infinite where there is none.
        front_facing (`torch.Tensor` of shape `(N, H, W)`, bool): Whether the face's front (the side that the mesh's
            anchor sees) looks at the camera. `False` where there is no face.
    """

    face_index: Tensor  # [N, H, W]
    barycentrics: Tensor  # [N, H, W, 3]
    depth: Tensor  # [N, H, W]
    front_facing: Tensor  # [N, H, W]

    @property
    def visibility(self) -> Tensor:
        """Where the camera sees what the anchor saw, `(N, H, W)` bool.

        The nearest surface counts, also if it is seen from behind: it hides what is further away, but its back was not
        seen by the anchor.
        """
        return self.front_facing


@torch.no_grad()
def rasterize(
    mesh: FeatureMesh,
    cameras: Cameras,
    *,
    near: float = 1e-6,
    chunk_size: int = 1 << 18,
) -> Rasterization:
    """Renders a mesh into cameras: nearest face, barycentric coordinates and depth at every pixel centre.

    Each triangle is tested against the pixels in its bounding box, as lists of (triangle, pixel) pairs in chunks, and
    the nearest is kept by one integer minimum over (depth, face index). So the result is deterministic: of faces at
    one depth (to float32) the one of lowest index is kept. Edges are inclusive, and triangles reach 1e-5 pixels beyond
    them, so that a camera whose pixel centres lie on the mesh's rim (the anchor's own) hits all of it. Triangles that
    are seen edge-on have no area and are not hit.

    Computed in the dtype of the mesh's vertices (float64, as [`feature_mesh_from_depth`] builds it); not
    differentiable.

    Args:
        mesh (`FeatureMesh`): The mesh, in the cameras' world.
        cameras (`Cameras`): N cameras of one image size, which need not be the mesh's. Moved to the mesh's device.
        near (`float`, *optional*, defaults to 1e-6): Smallest z-depth that is seen, in world units.
        chunk_size (`int`, *optional*, defaults to 2^18):
            Most pairs (and triangles of a group of cameras) at once; bounds the memory, to about 500 bytes each, however
            large the triangles appear.

    Raises:
        MVCustomError: if `near` or `chunk_size` is not above 0.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.cameras import Cameras
        >>> from diffusers_mvcustom.geometry import feature_mesh_from_depth, rasterize
        >>> camera = Cameras.from_focal(torch.eye(4)[None], 8.0, height=3, width=4)
        >>> seen = rasterize(feature_mesh_from_depth(torch.full((3, 4), 2.0), camera), camera)
        >>> seen.visibility.all().item(), seen.depth.unique().tolist()
        (True, [2.0])
    """
    if not near > 0:
        raise MVCustomError(f"near: expected a z-depth above 0, got {near!r}.")
    if chunk_size < 1:
        raise MVCustomError(f"chunk_size: expected a number of at least 1, got {chunk_size!r}.")
    vertices = mesh.vertices
    size = (cameras.height, cameras.width)
    out_dtype = cameras.dtype
    cameras = cameras.to(device=vertices.device, dtype=vertices.dtype)
    # A true inverse: transposing a rotation that is orthonormal to float32 only would move the anchor's own view.
    world_to_camera = torch.linalg.inv(cameras.camera_to_world)
    parts = []
    group = max(1, chunk_size // max(1, len(mesh.faces)))
    for start in range(0, len(cameras), group):
        points = transform_points(vertices, world_to_camera[start : start + group])  # [n, V, 3]
        homogeneous = transform_directions(points, cameras.intrinsics[start : start + group])
        parts.append(_rasterize(homogeneous, mesh.faces, size, near, chunk_size))
    face_index, barycentrics, depth, front_facing = (torch.cat(values) for values in zip(*parts))
    return Rasterization(face_index, barycentrics.to(out_dtype), depth.to(out_dtype), front_facing)


def _rasterize(
    homogeneous: Tensor,  # [n, V, 3]
    faces: Tensor,  # [T, 3]
    size: tuple[int, int],
    near: float,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = size
    count = len(homogeneous)
    tolerance = 1e-5 if homogeneous.dtype == torch.float64 else 1e-3
    instances, boxes = _boxes(homogeneous, faces, size, near, tolerance)  # [I] of n * T, [I, 4]
    keys = torch.full((count * height * width,), _NOTHING, device=homogeneous.device)
    if len(instances):
        camera = instances // len(faces)
        face = instances % len(faces)
        triangles = _Triangles.of(homogeneous[camera[:, None], faces[face]], tolerance)
        for instance, x, y in _pairs(boxes, chunk_size):
            inside, _, depth = triangles.hit(instance, x, y)
            inside &= depth > near
            instance, x, y, depth = instance[inside], x[inside], y[inside], depth[inside]
            # The bits of a positive float order as an integer does.
            key = (depth.float().view(torch.int32).long() << _FACE_BITS) | face[instance]
            keys.scatter_reduce_(0, (camera[instance] * height + y) * width + x, key, "amin")
    hit = (keys != _NOTHING).nonzero().squeeze(1)
    face_index = torch.full_like(keys, -1)
    barycentrics = homogeneous.new_zeros(len(keys), 3)
    depth = homogeneous.new_full((len(keys),), torch.inf)
    front_facing = torch.zeros_like(keys, dtype=torch.bool)
    for part in hit.split(chunk_size):
        nearest = keys[part] & ((1 << _FACE_BITS) - 1)
        seen = _Triangles.of(homogeneous[(part // (height * width))[:, None], faces[nearest]], tolerance)
        rows = torch.arange(len(part), device=part.device)
        _, barycentrics[part], depth[part] = seen.hit(rows, part % width, part // width % height)
        face_index[part] = nearest
        front_facing[part] = seen.orientation < 0
    shape = (count, height, width)
    return (
        face_index.reshape(shape),
        barycentrics.reshape(*shape, 3),
        depth.reshape(shape),
        front_facing.reshape(shape),
    )


def _boxes(
    homogeneous: Tensor,  # [n, V, 3]
    faces: Tensor,  # [T, 3]
    size: tuple[int, int],
    near: float,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """The triangles that may cover a pixel centre.

    Returns:
        Instances `(I,)`, counted camera by camera over the faces, and their boxes `(I, 4)`: first column, first row,
        number of columns, number of rows.
    """
    z = homogeneous[..., 2]
    in_front = z > near
    pixels = homogeneous[..., :2] / torch.where(in_front, z, torch.ones_like(z))[..., None]
    corners = pixels[:, faces]  # [n, T, 3, 2]
    low, high = corners.amin(dim=2), corners.amax(dim=2)
    seen = in_front[:, faces]
    partly = seen.any(dim=2) & ~seen.all(dim=2)
    if partly.any():
        camera, face = partly.nonzero(as_tuple=True)
        low[camera, face], high[camera, face] = _clipped_box(homogeneous[camera[:, None], faces[face]], near)
    limit = low.new_tensor([size[1] - 1, size[0] - 1])
    # Clamped to just outside the image while still floating: far-off values do not fit an integer.
    first = torch.minimum((low - 0.5 - tolerance).ceil().clamp(min=0), limit + 1)
    last = torch.minimum((high - 0.5 + tolerance).floor(), limit).clamp(min=-1)
    extent = last - first + 1
    covers = (extent > 0).all(dim=2) & seen.any(dim=2)
    instances = covers.flatten().nonzero().squeeze(1)
    boxes = torch.cat([first.flatten(0, 1)[instances], extent.flatten(0, 1)[instances]], dim=1).long()
    return instances, boxes


def _clipped_box(
    corners: Tensor,  # [I, 3, 3] homogeneous
    near: float,
) -> tuple[Tensor, Tensor]:
    """Pixel bounds of the part in front of the near plane, for triangles that reach through it: low, high `(I, 2)`."""
    following = corners.roll(-1, dims=1)
    z, following_z = corners[..., 2], following[..., 2]
    in_front = z > near
    crosses = in_front != (following_z > near)
    share = (near - z) / torch.where(crosses, following_z - z, torch.ones_like(z))
    cut = torch.lerp(corners[..., :2], following[..., :2], share[..., None]) / near
    kept = corners[..., :2] / torch.where(in_front, z, torch.ones_like(z))[..., None]
    points = torch.cat([kept, cut], dim=1)  # [I, 6, 2]
    counts = torch.cat([in_front, crosses], dim=1)[..., None]
    return (
        points.masked_fill(~counts, torch.inf).amin(dim=1),
        points.masked_fill(~counts, -torch.inf).amax(dim=1),
    )


def _pairs(boxes: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (instance, x, y) with the pixel in the instance's box, in chunks; a large box may span several chunks."""
    columns = boxes[:, 2]
    counts = columns * boxes[:, 3]
    ends = counts.cumsum(0)
    total = int(ends[-1])
    for start in range(0, total, chunk_size):
        stop = min(start + chunk_size, total)
        bounds = ends.new_tensor([start, stop - 1])
        first, last = torch.searchsorted(ends, bounds, right=True).tolist()
        part = slice(first, last + 1)
        length = ends[part].clamp(max=stop) - (ends[part] - counts[part]).clamp(min=start)
        instance = torch.repeat_interleave(
            torch.arange(first, last + 1, device=boxes.device), length, output_size=stop - start
        )
        within = torch.arange(start, stop, device=boxes.device) - (ends - counts)[instance]
        box = boxes[instance]
        row = torch.div(within, box[:, 2], rounding_mode="floor")
        yield instance, box[:, 0] + within - row * box[:, 2], box[:, 1] + row


@dataclass(frozen=True, eq=False)
class _Triangles:
    corners: Tensor  # [I, 3, 3] homogeneous pixel coordinates
    orientation: Tensor  # [I] -1 seen from the front, +1 from the back, 0 edge-on
    slack: Tensor  # [I, 3] how far below 0 an oriented edge function may be

    @classmethod
    def of(cls, corners: Tensor, tolerance: float) -> _Triangles:
        a, b, c = corners.unbind(dim=1)
        volume = (a * torch.cross(b - a, c - a, dim=-1)).sum(dim=-1)
        # volume / (z z z) is twice the area in pixels.
        edge_on = volume.abs() <= tolerance**2 * corners[..., 2].prod(dim=1).abs()
        orientation = torch.where(edge_on, torch.zeros_like(volume), volume.sign())
        following, last = corners.roll(-1, dims=1), corners.roll(-2, dims=1)
        # An edge function is the distance from the edge in pixels, times this.
        length = (following[..., :2] * last[..., 2:] - last[..., :2] * following[..., 2:]).norm(dim=-1)
        return cls(corners, orientation, tolerance * length)

    def hit(self, instance: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether the pixel's ray hits the triangle `(P,)`, barycentric coordinates `(P, 3)` and z-depth `(P,)`."""
        corner_x, corner_y, z = self.corners[instance].unbind(dim=-1)  # [P, 3] each
        right = corner_x - (x[:, None] + 0.5) * z
        below = corner_y - (y[:, None] + 0.5) * z
        following, last = [1, 2, 0], [2, 0, 1]
        orientation = self.orientation[instance]
        edge = right[:, following] * below[:, last] - right[:, last] * below[:, following]
        edge = edge * orientation[:, None]
        inside = (edge >= -self.slack[instance]).all(dim=1) & (orientation != 0)
        barycentrics = edge.clamp(min=0)
        total = barycentrics.sum(dim=1)
        inside &= total > 0
        barycentrics = barycentrics / torch.where(inside, total, torch.ones_like(total))[:, None]
        return inside, barycentrics, (barycentrics * z).sum(dim=1)
