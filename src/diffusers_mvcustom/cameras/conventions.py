"""Converters at the border: other camera conventions in and out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CamerasError
from .cameras import Cameras
from .checks import as_float_tensor, check_kind

CONVENTIONS = {
    "opencv": "camera-to-world; x right, y down, z forward (this package)",
    "opencv_w2c": "world-to-camera; x right, y down, z forward (OpenCV, gsplat, VGGT)",
    "colmap": "world-to-camera; x right, y down, z forward",
    "opengl": "camera-to-world; x right, y up, z backward",
    "blender": "as opengl",
    "nerfstudio": "as opengl",
    "pytorch3d": "world-to-view as row vectors; x left, y up, z forward (`[R | 0; T | 1]`)",
}
"""Names of conventions for `(N, 4, 4)` poses, and what they mean."""


def cameras_from_convention(
    poses: Tensor,  # [N, 4, 4]
    intrinsics: Tensor,  # [N, 3, 3] or [3, 3]
    height: int,
    width: int,
    *,
    convention: str,
) -> Cameras:
    """Cameras from poses of a named convention.

    Args:
        poses (`torch.Tensor` of shape `(N, 4, 4)`): Poses.
        intrinsics (`torch.Tensor` of shape `(N, 3, 3)` or `(3, 3)`): In pixels, first pixel's centre at (0.5, 0.5).
        height (`int`), width (`int`): Image size in pixels.
        convention (`str`): A name of `CONVENTIONS`.
    """
    return Cameras(camera_to_world_from(poses, convention), intrinsics, height, width)


def camera_to_world_from(
    poses: Tensor,  # [N, 4, 4]
    convention: str,
) -> Tensor:
    """Camera-to-world matrices with OpenCV axes, `(N, 4, 4)`, from poses of a named convention; not checked yet.

    Raises:
        CamerasError: for another shape, numbers that are not finite, or matrices that have no inverse where one is needed.
    """
    poses = as_float_tensor("cameras", poses)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise CamerasError(f"cameras: expected poses of shape (N, 4, 4), got {tuple(poses.shape)}.")
    if not poses.isfinite().all():
        raise CamerasError("cameras: expected finite poses, got NaN or infinity.")
    _check_convention(convention)
    if convention == "pytorch3d":
        poses = torch.diag(poses.new_tensor([-1.0, -1.0, 1.0, 1.0])) @ poses.transpose(1, 2)
    if convention in ("opencv_w2c", "colmap", "pytorch3d"):
        if (torch.linalg.det(poses[:, :3, :3]).abs() < 1e-8).any():
            raise CamerasError("cameras: expected invertible world-to-camera matrices, got a singular one.")
        poses = torch.linalg.inv(poses)
    elif convention in ("opengl", "blender", "nerfstudio"):
        poses = poses * poses.new_tensor([1.0, -1.0, -1.0, 1.0])
    return poses


def camera_to_world_in(cameras: Cameras, convention: str) -> Tensor:
    """Poses `(N, 4, 4)` in a named convention (world-to-camera ones where that is what it stores)."""
    check_kind("cameras", cameras, Cameras)
    _check_convention(convention)
    if convention == "opencv":
        return cameras.camera_to_world
    if convention in ("opengl", "blender", "nerfstudio"):
        return cameras.camera_to_world * cameras.camera_to_world.new_tensor([1.0, -1.0, -1.0, 1.0])
    poses = cameras.world_to_camera
    if convention == "pytorch3d":
        poses = (torch.diag(poses.new_tensor([-1.0, -1.0, 1.0, 1.0])) @ poses).transpose(1, 2)
    return poses


def cameras_from_pytorch3d(
    rotation: Tensor,  # [N, 3, 3]
    translation: Tensor,  # [N, 3]
    focal_length: Tensor,  # [N, 2]
    principal_point: Tensor,  # [N, 2]
    height: int,
    width: int,
    *,
    intrinsics_in: str = "ndc_isotropic",
) -> Cameras:
    """Cameras from PyTorch3D's tensors: `X_view = X_world @ R + T`, axes left, up, forward.

    Args:
        rotation (`torch.Tensor` of shape `(N, 3, 3)`): R.
        translation (`torch.Tensor` of shape `(N, 3)`): T.
        focal_length (`torch.Tensor` of shape `(N, 2)`), principal_point (`torch.Tensor` of shape `(N, 2)`):
            In the units of `intrinsics_in`.
        height (`int`), width (`int`): Image size in pixels.
        intrinsics_in (`str`): `"ndc_isotropic"` (the shorter side spans [-1, 1]), `"ndc_norm_image_bounds"` (each side
            spans [-1, 1]; older CO3D) or `"screen"` (pixels).
    """
    rotation, translation = as_float_tensor("rotation", rotation), as_float_tensor("translation", translation)
    if rotation.ndim != 3 or rotation.shape[1:] != (3, 3) or translation.shape != (len(rotation), 3):
        raise CamerasError(
            f"rotation, translation: expected shapes (N, 3, 3) and (N, 3), got {tuple(rotation.shape)} and "
            f"{tuple(translation.shape)}."
        )
    poses = torch.eye(4, dtype=rotation.dtype).repeat(len(rotation), 1, 1)
    poses[:, :3, :3] = rotation
    poses[:, 3, :3] = translation
    focal_length, principal_point = (
        torch.as_tensor(value, dtype=rotation.dtype) for value in (focal_length, principal_point)
    )
    if focal_length.shape != (len(rotation), 2) or principal_point.shape != (len(rotation), 2):
        raise CamerasError(
            f"focal_length, principal_point: expected shape ({len(rotation)}, 2), got {tuple(focal_length.shape)} and "
            f"{tuple(principal_point.shape)}."
        )
    scale, center = _ndc(height, width, intrinsics_in, rotation.dtype)
    intrinsics = torch.eye(3, dtype=rotation.dtype).repeat(len(rotation), 1, 1)
    intrinsics[:, [0, 1], [0, 1]] = focal_length * scale.abs()
    intrinsics[:, :2, 2] = center + principal_point * scale
    return cameras_from_convention(poses, intrinsics, height, width, convention="pytorch3d")


def cameras_to_pytorch3d(
    cameras: Cameras, *, intrinsics_in: str = "ndc_isotropic"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PyTorch3D's `(R, T, focal_length, principal_point)`, of shapes `(N, 3, 3)`, `(N, 3)`, `(N, 2)`, `(N, 2)`."""
    poses = camera_to_world_in(cameras, "pytorch3d")
    scale, center = _ndc(cameras.height, cameras.width, intrinsics_in, cameras.dtype)
    principal_point = (cameras.intrinsics[:, :2, 2] - center) / scale
    return poses[:, :3, :3], poses[:, 3, :3], cameras.focal / scale.abs(), principal_point


def _ndc(height: int, width: int, intrinsics_in: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pixels in one unit along x and y (NDC axes point left and up), and the pixel at the unit's origin."""
    if intrinsics_in == "screen":
        return torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype)
    center = torch.tensor([width / 2, height / 2], dtype=dtype)
    if intrinsics_in == "ndc_isotropic":
        return -torch.full((2,), min(height, width) / 2, dtype=dtype), center
    if intrinsics_in == "ndc_norm_image_bounds":
        return -center, center
    raise CamerasError(
        f"intrinsics_in: expected 'ndc_isotropic', 'ndc_norm_image_bounds' or 'screen', got {intrinsics_in!r}."
    )


def _check_convention(convention: str) -> None:
    if not isinstance(convention, str) or convention not in CONVENTIONS:
        raise CamerasError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}.")
