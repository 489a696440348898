"""The subject frame: origin at the subject, +Y up, farthest camera at distance 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CamerasError, MVCustomError
from .cameras import Cameras
from .checks import check_kind

Up = str | Sequence[float] | Tensor | None
"""World up: `"auto"`, a vector, or `None` for that of the cameras' own world."""


@dataclass(frozen=True, eq=False)
class SubjectFrame:
    """The similarity that maps subject coordinates to the user's world: `x_user = scale * rotation @ x + translation`.

    Args:
        scale (`float`): User units in one unit of the subject frame.
        rotation (`torch.Tensor` of shape `(3, 3)`): From subject to user axes.
        translation (`torch.Tensor` of shape `(3,)`): The subject's origin in the user's world.
    """

    scale: float
    rotation: Tensor  # [3, 3]
    translation: Tensor  # [3]

    def __post_init__(self) -> None:
        try:
            rotation = torch.as_tensor(self.rotation, dtype=torch.float64)
            translation = torch.as_tensor(self.translation, dtype=torch.float64)
            scale = float(self.scale)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise MVCustomError(f"subject_frame: expected numbers that a float can hold: {error}") from error
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise MVCustomError(
                "subject_frame: expected a rotation of shape (3, 3) and a translation of shape (3,), got "
                f"{tuple(rotation.shape)} and {tuple(translation.shape)}."
            )
        finite = rotation.isfinite().all() and translation.isfinite().all() and math.isfinite(scale)
        if not (finite and scale > 0):
            raise MVCustomError(f"subject_frame: expected finite numbers and a scale above 0, got scale {scale}.")
        skew = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
        if not skew <= 1e-4 or torch.det(rotation) < 0:  # NaN of an overflow too
            raise MVCustomError(f"subject_frame: expected a rotation matrix, got {rotation.tolist()}.")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def identity(cls) -> SubjectFrame:
        """The frame of cameras that need no change."""
        return cls(1.0, torch.eye(3), torch.zeros(3))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubjectFrame) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.scale, *self.translation.tolist()))

    def to_user(self, cameras: Cameras) -> Cameras:
        """Cameras of the subject frame in the user's world."""
        check_kind("cameras", cameras, Cameras)
        rotation, translation = self.rotation.to(cameras.camera_to_world), self.translation.to(cameras.camera_to_world)
        poses = cameras.camera_to_world.clone()
        poses[:, :3, :3] = rotation @ cameras.camera_to_world[:, :3, :3]
        poses[:, :3, 3] = self.scale * cameras.centers @ rotation.T + translation
        return replace(cameras, camera_to_world=poses)

    def points_to_user(
        self,
        points: Tensor,  # [..., 3]
    ) -> Tensor:
        """Points of the subject frame in the user's world, `(..., 3)`."""
        return self.scale * points @ self.rotation.to(points).T + self.translation.to(points)

    def to_subject(self, cameras: Cameras) -> Cameras:
        """Cameras of the user's world in the subject frame."""
        check_kind("cameras", cameras, Cameras)
        rotation, translation = self.rotation.to(cameras.camera_to_world), self.translation.to(cameras.camera_to_world)
        poses = cameras.camera_to_world.clone()
        poses[:, :3, :3] = rotation.T @ cameras.camera_to_world[:, :3, :3]
        poses[:, :3, 3] = (cameras.centers - translation) @ rotation / self.scale
        return replace(cameras, camera_to_world=poses)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; exact."""
        return {
            "scale": self.scale,
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SubjectFrame:
        """The inverse of [`~SubjectFrame.to_dict`]."""
        if not isinstance(values, Mapping) or set(values) != {"scale", "rotation", "translation"}:
            raise MVCustomError(f"subject_frame: expected scale, rotation and translation, got {values!r}.")
        return cls(**values)


def normalize_cameras(
    cameras: Cameras,
    *,
    up: Up = "auto",
) -> tuple[Cameras, SubjectFrame]:
    """Brings cameras into the subject frame.

    The origin is the optical axes' nearest common point, world up becomes +Y, and the farthest camera stands at distance
    1. The horizontal axes are those nearest to the user's own.

    Args:
        cameras ([`Cameras`]): At least two cameras that look at the subject from different directions.
        up (`str`, vector or `None`, defaults to `"auto"`): World up; `"auto"` estimates it, see [`estimate_up`]; `None`
            keeps the orientation.

    Returns:
        The cameras in the subject frame, and the [`SubjectFrame`] that maps them back.

    Raises:
        CamerasError: if the optical axes have no common point (all parallel, or a single camera).
    """
    check_kind("cameras", cameras, Cameras)
    exact = cameras.to(dtype=torch.float64)
    center = nearest_point_to_axes(exact)
    if up is None:
        rotation = torch.eye(3, dtype=torch.float64)
    else:
        vertical = estimate_up(exact) if isinstance(up, str) and up == "auto" else _checked_up(up)
        rotation = _rotation_to_up(vertical.to(exact.device))
    scale = (exact.centers - center).norm(dim=-1).max().item()
    if not scale > 0:
        raise CamerasError("cameras: expected cameras at a distance from the subject, got all at one point.")
    frame = SubjectFrame(scale, rotation.cpu(), center.cpu())
    return frame.to_subject(exact).to(dtype=cameras.dtype), frame


def nearest_point_to_axes(cameras: Cameras) -> Tensor:
    """The point with the least sum of squared distances to all optical axes, `(3,)`.

    Raises:
        CamerasError: if the axes are too parallel to fix one.
    """
    axes = cameras.optical_axes
    across = torch.eye(3).to(axes) - axes[:, :, None] * axes[:, None, :]  # projections off each axis
    system = across.sum(dim=0)
    if torch.linalg.eigvalsh(system)[0] < 1e-4 * len(cameras):
        raise CamerasError(
            f"cameras: expected optical axes that meet near the subject, got {len(cameras)} (nearly) parallel one(s). "
            "One photo, or a camera that only moved sideways? Take photos from around the subject."
        )
    return torch.linalg.solve(system, (across @ cameras.centers[:, :, None]).sum(dim=0)).squeeze(-1)


def estimate_up(cameras: Cameras) -> Tensor:
    """World up from the cameras alone, a unit vector `(3,)`, also if some were held turned by 90° or 180°.

    Three habits of people with a camera decide. They hold it level or turned by a quarter, so up, seen in the image, lies
    near one of the four image axes (the mean of the cameras' own "up" says nothing then). They look at an object from
    above more than from below. And they walk around it at much the same height.
    """
    check_kind("cameras", cameras, Cameras)
    poses = cameras.camera_to_world[:, :3, :3].double()
    candidates = torch.cat(
        [_directions(8000).to(poses), *(sign * poses[:, :, axis] for sign in (1, -1) for axis in (0, 1))]
    )
    best = candidates[_disagreement(candidates, poses).argmin()]
    generator = torch.Generator().manual_seed(0)
    for spread in (0.05, 0.02, 0.005, 0.001):
        around = best + spread * torch.randn(256, 3, generator=generator, dtype=torch.float64).to(poses)
        around = torch.cat([best[None], torch.nn.functional.normalize(around, dim=-1)])
        best = around[_disagreement(around, poses).argmin()]
    return best


def _disagreement(candidates: Tensor, poses: Tensor) -> Tensor:
    """How badly each direction `(K, 3)` fits as up to cameras `(N, 3, 3)`, `(K,)`; bounded for each camera."""
    seen = candidates @ poses  # [N, K, 3]: the direction in each camera's axes
    length = seen[..., :2].norm(dim=-1)
    off_axis = seen[..., :2].abs().amin(dim=-1) / length.clamp(min=1e-9)  # sine of the angle to the nearest image axis
    # A camera that looks along the direction sees little of it; one that is 15° off has no vote.
    level = length * (1 - (off_axis / math.sin(math.radians(15))).clamp(max=1) ** 2)
    elevation = -seen[..., 2]  # sine of how far each camera looks down
    return elevation.std(dim=0) - 0.5 * elevation.mean(dim=0) - level.mean(dim=0)


def _directions(count: int) -> Tensor:
    """Evenly spread unit vectors `(count, 3)` (a Fibonacci lattice)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), height, radius * angle.sin()], dim=-1)


def _rotation_to_up(up: Tensor) -> Tensor:
    """Columns are the subject's axes in the user's world: +Y along `up`, the others nearest to the user's X and Z."""
    basis = torch.eye(3).to(up)
    side = basis[0] if up[0].abs() < 0.9 else basis[2]
    x = torch.nn.functional.normalize(side - (side @ up) * up, dim=0)
    return torch.stack([x, up, torch.linalg.cross(x, up, dim=-1)], dim=-1)


def _checked_up(up: str | Sequence[float] | Tensor) -> Tensor:
    try:
        vector = torch.as_tensor(up, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CamerasError(f"up: expected 'auto', None or a vector of 3 numbers, got {up!r}.") from error
    if vector.shape != (3,) or not vector.isfinite().all() or vector.norm() < 1e-9:
        raise CamerasError(f"up: expected a vector of 3 finite numbers that is not zero, got {up!r}.")
    return vector / vector.norm()
