"""Rays and projections of pinhole cameras, in the package's one camera convention.

OpenCV axes (x right, y down, z forward), intrinsics in pixels, the centre of the first pixel at (0.5, 0.5). Matrices
and points broadcast over any leading dimensions. Sums are written out instead of calling `matmul`, so that mixed
precision (`torch.autocast`) never rounds a coordinate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MVCustomError

OUTSIDE_EVERY_IMAGE = -1e4
"""Both pixel coordinates that [`project`] gives a point which the camera cannot see because it is not in front."""


def pixel_centers(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Centres (x, y) of all pixels of a `height` × `width` image.

    Returns:
        `torch.Tensor` of shape `(height, width, 2)`.

    Example:

        >>> from diffusers_mvcustom.geometry import pixel_centers
        >>> pixel_centers(1, 3).tolist()
        [[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]]]
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype) + 0.5,
        torch.arange(width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def transform_directions(
    directions: Tensor,  # [..., P, 3]
    matrix: Tensor,  # [..., 4, 4] or [..., 3, 3]
) -> Tensor:
    """Rotates directions: the linear part of `matrix` applied to each of P vectors, leading dimensions broadcast.

    Returns:
        `torch.Tensor` of shape `(..., P, 3)`.
    """
    _check_shape("directions", directions, (None, 3))
    columns = matrix[..., None, :3, :3]  # [..., 1, 3, 3]
    x, y, z = directions.split(1, dim=-1)
    return x * columns[..., 0] + y * columns[..., 1] + z * columns[..., 2]


def transform_points(
    points: Tensor,  # [..., P, 3]
    matrix: Tensor,  # [..., 4, 4]
) -> Tensor:
    """Maps points by an affine `matrix`: `R p + t` for each of P points, leading dimensions broadcast.

    Returns:
        `torch.Tensor` of shape `(..., P, 3)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import transform_points
        >>> shift = torch.eye(4)
        >>> shift[0, 3] = 2.0
        >>> transform_points(torch.tensor([[1.0, 1.0, 1.0]]), shift).tolist()
        [[3.0, 1.0, 1.0]]
    """
    _check_shape("points", points, (None, 3))
    _check_shape("matrix", matrix, (4, 4))
    return transform_directions(points, matrix) + matrix[..., None, :3, 3]


def camera_rays(
    camera_to_world: Tensor,  # [..., 4, 4]
    intrinsics: Tensor,  # [..., 3, 3]
    pixels: Tensor,  # [..., P, 2]
    *,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """World rays through the given pixel positions.

    Args:
        camera_to_world (`torch.Tensor` of shape `(..., 4, 4)`): Camera poses, OpenCV axes.
        intrinsics (`torch.Tensor` of shape `(..., 3, 3)`): In the pixels that `pixels` counts.
        pixels (`torch.Tensor` of shape `(..., P, 2)`): Positions (x, y), see [`pixel_centers`].
        normalize (`bool`, *optional*, defaults to `True`):
            Whether directions have unit length. Otherwise their z in the camera is 1, so that
            `origin + z_depth * direction` is the point at that z-depth.

    Returns:
        `tuple` of `origins` and `directions`, each `(..., P, 3)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import camera_rays
        >>> intrinsics = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
        >>> origins, directions = camera_rays(torch.eye(4), intrinsics, torch.tensor([[2.0, 1.0]]), normalize=False)
        >>> directions.tolist()
        [[0.5, 0.0, 1.0]]
    """
    _check_shape("camera_to_world", camera_to_world, (4, 4))
    _check_shape("intrinsics", intrinsics, (3, 3))
    _check_shape("pixels", pixels, (None, 2))
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    xy = (pixels - intrinsics[..., None, :2, 2]) / focal
    directions = transform_directions(torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1), camera_to_world)
    if normalize:
        directions = directions / directions.norm(dim=-1, keepdim=True)
    origins = camera_to_world[..., None, :3, 3].expand_as(directions)
    return origins, directions


def project(
    points: Tensor,  # [..., P, 3]
    world_to_camera: Tensor,  # [..., 4, 4]
    intrinsics: Tensor,  # [..., 3, 3]
    *,
    near: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Projects world points to pixel positions, leading dimensions broadcast.

    A point whose z-depth is not above `near` has no image. Its pixel is the constant
    `OUTSIDE_EVERY_IMAGE` in x and y, with zero gradient: sampling with zeros outside
    gives zeros, and no infinity reaches a loss. Its depth is returned as it is (zero or negative), with its gradient.

    Args:
        points (`torch.Tensor` of shape `(..., P, 3)`): World points.
        world_to_camera (`torch.Tensor` of shape `(..., 4, 4)`): Inverse camera poses, OpenCV axes.
        intrinsics (`torch.Tensor` of shape `(..., 3, 3)`): In pixels.
        near (`float`, *optional*, defaults to 1e-4): Smallest z-depth that has an image, in world units.

    Returns:
        `tuple` of `pixels` `(..., P, 2)` and z-`depth` `(..., P)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import project
        >>> intrinsics = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
        >>> pixels, depth = project(torch.tensor([[1.0, 0.0, 4.0], [0.0, 0.0, -4.0]]), torch.eye(4), intrinsics)
        >>> pixels.tolist(), depth.tolist()
        ([[1.5, 1.0], [-10000.0, -10000.0]], [4.0, -4.0])
    """
    _check_shape("points", points, (None, 3))
    _check_shape("world_to_camera", world_to_camera, (4, 4))
    _check_shape("intrinsics", intrinsics, (3, 3))
    in_camera = transform_points(points, world_to_camera)
    depth = in_camera[..., 2]
    in_front = depth > near
    # A safe divisor *before* dividing: a `where` after it would still pass NaN gradients back.
    divisor = torch.where(in_front, depth, torch.ones_like(depth))[..., None]
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    pixels = focal * in_camera[..., :2] / divisor + intrinsics[..., None, :2, 2]
    pixels = torch.where(in_front[..., None], pixels, torch.full_like(pixels, OUTSIDE_EVERY_IMAGE))
    return pixels, depth.expand(pixels.shape[:-1])


def plucker_coordinates(
    origins: Tensor,  # [..., 3]
    directions: Tensor,  # [..., 3]
) -> Tensor:
    """Plücker coordinates of rays, ordered (direction, origin × direction); leading dimensions broadcast.

    They are the same for every origin on the ray, and scale with the direction's length.

    Returns:
        `torch.Tensor` of shape `(..., 6)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import plucker_coordinates
        >>> plucker_coordinates(torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.0, 0.0, 1.0])).tolist()
        [0.0, 0.0, 1.0, 0.0, -1.0, 0.0]
    """
    _check_shape("origins", origins, (3,))
    _check_shape("directions", directions, (3,))
    origins, directions = torch.broadcast_tensors(origins, directions)
    return torch.cat([directions, torch.cross(origins, directions, dim=-1)], dim=-1)


def _check_shape(name: str, value: Tensor, tail: tuple[int | None, ...]) -> None:
    fits = value.ndim >= len(tail) and all(
        want is None or have == want for have, want in zip(value.shape[-len(tail) :], tail)
    )
    if not fits:
        wanted = ", ".join(["..."] + ["P" if want is None else str(want) for want in tail])
        raise MVCustomError(f"{name}: expected shape ({wanted}), got {tuple(value.shape)}.")
