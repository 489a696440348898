"""Camera paths around and through the subject frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import torch
from torch import Tensor

from ..errors import CamerasError
from .checks import as_float_tensor, as_number, as_pair, as_size, check_kind, is_real
from .rotations import rotation_matrices, slerp

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .cameras import Cameras

Point = Sequence[float] | Tensor
Range = float | tuple[float, float]


class ViewOptions(TypedDict, total=False):
    """What all trajectories take, see [`TrajectoryConstructors`]."""

    radius: float | None
    target: Point
    field_of_view: float | None
    like: Cameras | None
    height: int | None
    width: int | None


class ArcOptions(ViewOptions, total=False):
    """What an arc takes besides its azimuths."""

    elevation: Range


DEFAULT_FIELD_OF_VIEW = 50.0
DEFAULT_SIZE = 512


def look_at(
    centers: Tensor,  # [N, 3]
    target: Point = (0.0, 0.0, 0.0),
    up: Point = (0.0, 1.0, 0.0),
) -> Tensor:
    """Poses of cameras at `centers` that look at `target`, upright with respect to `up`.

    A camera that looks along `up` has no upright; its image top is turned to where -Z (or +Z, looking up) lies.

    Args:
        centers (`torch.Tensor` of shape `(N, 3)`): Camera centres.
        target (point or `torch.Tensor` of shape `(N, 3)`): What they look at.
        up (vector): World up.

    Returns:
        `torch.Tensor` of shape `(N, 4, 4)`: camera-to-world, OpenCV axes.

    Raises:
        CamerasError: if a centre is the target itself.
    """
    target = torch.as_tensor(target, dtype=centers.dtype, device=centers.device).expand_as(centers)
    up = torch.as_tensor(up, dtype=centers.dtype, device=centers.device).expand_as(centers)
    forward = target - centers
    distance = forward.norm(dim=-1, keepdim=True)
    if not (distance > 1e-9).all():
        raise CamerasError(f"centers: expected cameras away from their target, got one at {target[0].tolist()}.")
    forward = forward / distance
    right = torch.linalg.cross(forward, up, dim=-1)
    looks_along_up = right.norm(dim=-1, keepdim=True) < 1e-6
    top = torch.zeros_like(up)
    top[:, 2] = torch.where((forward * up).sum(dim=-1) < 0, -1.0, 1.0)
    right = torch.where(looks_along_up, torch.linalg.cross(forward, top, dim=-1), right)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right, dim=-1)
    poses = torch.eye(4, dtype=centers.dtype, device=centers.device).repeat(len(centers), 1, 1)
    poses[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
    poses[:, :3, 3] = centers
    return poses


class TrajectoryConstructors:
    """Class methods of [`Cameras`] that build camera paths.

    All take, as keywords, `radius` (distance to `target`, by default 1, the farthest training camera's), `target` (the
    origin), `field_of_view` (vertical, degrees, 50), `height` and `width` (512). `like`, such as
    `pipe.subject.references.cameras`, sets what is not given: radius and focal length to the median of those cameras,
    and their image size.

    Angles are in degrees. Azimuth 0 stands on the +Z side of the target and looks along -Z; seen from above (+Y) azimuth
    grows counter-clockwise, towards +X:

            -Z (180°)
              |
     -90° ----o---- +X (90°)
              |
            +Z (0°)
    """

    @classmethod
    def orbit(
        cls,
        count: int,
        *,
        azimuth: tuple[float, float] = (0.0, 360.0),
        elevation: Range = 20.0,
        radius: float | None = None,
        target: Point = (0.0, 0.0, 0.0),
        field_of_view: float | None = None,
        like: Cameras | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Cameras:
        """Cameras on a circle (or an arc of it) around the target. A full circle does not repeat its first camera.

        Args:
            count (`int`): Number of cameras.
            azimuth (`tuple[float, float]`): First and last azimuth; both are reached unless they span 360°.
            elevation (`float` or `tuple[float, float]`, defaults to 20): Elevation, or its first and last value.

        Example:

            >>> from diffusers_mvcustom.cameras import Cameras
            >>> Cameras.orbit(4, elevation=0.0).centers.round(decimals=3).abs().tolist()
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        """
        _check_count(count)
        first, last = as_pair("azimuth", azimuth, "the first and the last azimuth in degrees")
        closed = math.isclose(abs(last - first), 360.0)
        share = _shares(count, closed)
        low, high = _elevations(elevation)
        view = _View(like, radius, target, field_of_view, height, width)
        return view.cameras(cls, view.around(first + (last - first) * share, low + (high - low) * share))

    @classmethod
    def arc(
        cls, count: int, *, azimuth: tuple[float, float] = (-45.0, 45.0), **options: Unpack[ArcOptions]
    ) -> Cameras:
        """An orbit over a range of azimuths, -45° to 45° by default; see [`orbit`]."""
        return cls.orbit(count, azimuth=azimuth, **options)

    @classmethod
    def spiral(
        cls,
        count: int,
        *,
        turns: float = 1.0,
        elevation: tuple[float, float] = (0.0, 50.0),
        azimuth: float = 0.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """An orbit of `turns` turns from `azimuth` on, rising from the first to the last elevation."""
        first, turns = as_number("azimuth", azimuth), as_number("turns", turns)
        return cls.orbit(count, azimuth=(first, first + 360.0 * turns * (1 - 1e-6)), elevation=elevation, **options)

    @classmethod
    def lemniscate(
        cls,
        count: int,
        *,
        degrees: float = 30.0,
        azimuth: float = 0.0,
        elevation: float = 15.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """A closed figure of eight on the sphere: `degrees` to either side in azimuth, a quarter of it in elevation."""
        _check_count(count)
        azimuth, elevation = as_number("azimuth", azimuth), as_number("elevation", elevation)
        degrees = as_number("degrees", degrees)
        angle = 2 * math.pi * _shares(count, closed=True)
        elevations = elevation + degrees / 4 * torch.sin(2 * angle)
        _check_elevation(elevations.min().item(), elevations.max().item())
        view = _View(**options)
        return view.cameras(cls, view.around(azimuth + degrees * torch.sin(angle), elevations))

    @classmethod
    def dolly(
        cls,
        count: int,
        *,
        distance: tuple[float, float] = (1.3, 0.8),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """From the first to the last distance (in radii) to the target, straight."""
        _check_count(count)
        first, last = _positive_pair("distance", distance, "the first and the last distance in radii")
        azimuth, elevation = as_number("azimuth", azimuth), as_number("elevation", elevation)
        _check_elevation(elevation, elevation)
        view = _View(**options)
        share = _shares(count)
        scale = first + (last - first) * share
        centers = view.around(torch.full_like(share, azimuth), torch.full_like(share, elevation), scale)
        return view.cameras(cls, centers)

    @classmethod
    def zoom(
        cls,
        count: int,
        *,
        factor: tuple[float, float] = (1.0, 2.0),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """One pose, the focal length multiplied from the first to the last factor."""
        first, last = _positive_pair("factor", factor, "the first and the last factor of the focal length")
        cameras = cls.dolly(count, distance=(1.0, 1.0), azimuth=azimuth, elevation=elevation, **options)
        return _with_focal(cls, cameras, first + (last - first) * _shares(count))

    @classmethod
    def dolly_zoom(
        cls,
        count: int,
        *,
        distance: tuple[float, float] = (1.3, 0.8),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """A dolly whose focal length changes with the distance, so that the target keeps its size in the image."""
        first, last = _positive_pair("distance", distance, "the first and the last distance in radii")
        cameras = cls.dolly(count, distance=(first, last), azimuth=azimuth, elevation=elevation, **options)
        return _with_focal(cls, cameras, first + (last - first) * _shares(count))

    @classmethod
    def translate(
        cls,
        count: int,
        *,
        offset: Point = (0.4, 0.0, 0.0),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """A straight move without turning, by ± half of `offset` (x right, y up, z back, in the first camera's axes)."""
        cameras = cls.dolly(count, distance=(1.0, 1.0), azimuth=azimuth, elevation=elevation, **options)
        offset = as_float_tensor("offset", offset).to(cameras.camera_to_world)
        if offset.shape != (3,) or not offset.isfinite().all():
            raise CamerasError(f"offset: expected 3 finite numbers (right, up, back), got {offset.tolist()}.")
        moved = cameras.camera_to_world.clone()
        axes = moved[0, :3, :3] @ (offset * torch.tensor([1.0, -1.0, -1.0]))  # OpenCV: down, forward
        moved[:, :3, 3] += (_shares(count) - 0.5)[:, None] * axes
        return _cameras(cls)(moved, cameras.intrinsics, cameras.height, cameras.width)

    @classmethod
    def interpolate(cls, keys: Cameras, count: int) -> Cameras:
        """Cameras through key cameras: rotations by slerp, centres and intrinsics linearly, at even steps.

        Args:
            keys ([`Cameras`]): At least two key cameras; the first and the last are reached.
            count (`int`): Number of cameras.
        """
        _check_count(count)
        check_kind("keys", keys, TrajectoryConstructors)
        if len(keys) < 2:
            raise CamerasError(f"keys: expected at least 2 key cameras, got {len(keys)}.")
        at = _shares(count).to(keys.camera_to_world) * (len(keys) - 1)
        first = at.floor().long().clamp(max=len(keys) - 2)
        share = at - first
        mix = share[:, None, None]
        poses = keys.camera_to_world[first] * (1 - mix) + keys.camera_to_world[first + 1] * mix
        poses[:, :3, :3] = slerp(keys.camera_to_world[first, :3, :3], keys.camera_to_world[first + 1, :3, :3], share)
        intrinsics = keys.intrinsics[first] * (1 - mix) + keys.intrinsics[first + 1] * mix
        return _cameras(cls)(poses, intrinsics, keys.height, keys.width)

    @classmethod
    def jitter(
        cls,
        cameras: Cameras,
        *,
        degrees: float = 2.0,
        distance: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> Cameras:
        """The cameras with normally distributed errors: turned by `degrees`, moved by `distance` (standard deviations)."""
        check_kind("cameras", cameras, TrajectoryConstructors)
        degrees, distance = as_number("degrees", degrees), as_number("distance", distance)
        count = len(cameras)
        noise = torch.randn(2, count, 3, generator=generator, dtype=torch.float64).to(cameras.camera_to_world)
        poses = cameras.camera_to_world.clone()
        poses[:, :3, :3] = poses[:, :3, :3] @ rotation_matrices(noise[0] * math.radians(degrees) / math.sqrt(3))
        poses[:, :3, 3] += noise[1] * distance / math.sqrt(3)
        return _cameras(cls)(poses, cameras.intrinsics, cameras.height, cameras.width)


class _View:
    """What all trajectories share: where they look at, from how far, with which lens and image size."""

    def __init__(
        self,
        like: Cameras | None = None,
        radius: float | None = None,
        target: Point = (0.0, 0.0, 0.0),
        field_of_view: float | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        if field_of_view is not None and not (is_real(field_of_view) and 0 < field_of_view < 180):
            raise CamerasError(f"field_of_view: expected degrees between 0 and 180, got {field_of_view!r}.")
        self.target = as_float_tensor("target", target).to(torch.float32)
        if self.target.shape != (3,):
            raise CamerasError(f"target: expected a point of 3 numbers, got {self.target.tolist()}.")
        if like is not None:
            check_kind("like", like, TrajectoryConstructors)
            height = like.height if height is None else height
            width = like.width if width is None else width
            like = like.cover(height, width) if (like.height, like.width) != (height, width) else like
        self.height = DEFAULT_SIZE if height is None else as_size("height", height)
        self.width = DEFAULT_SIZE if width is None else as_size("width", width)
        if radius is None:
            radius = 1.0 if like is None else (like.centers.float() - self.target).norm(dim=-1).median().item()
        _check_positive("radius", radius)
        self.radius = radius
        if field_of_view is None and like is not None:
            fx, fy = like.focal.median(dim=0).values.tolist()
            self.focal: float | tuple[float, float] = (fx, fy)
        else:
            self.focal = self.height / 2 / math.tan(math.radians(field_of_view or DEFAULT_FIELD_OF_VIEW) / 2)

    def around(self, azimuth: Tensor, elevation: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Points `(N, 3)` around the target, at `scale` radii."""
        if not azimuth.isfinite().all():
            raise CamerasError("azimuth: expected finite degrees, got NaN or infinity.")
        azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        direction = torch.stack(
            [azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], dim=-1
        )
        distance = self.radius * scale
        return self.target + direction * (distance[:, None] if isinstance(distance, Tensor) else distance)

    def cameras(self, cls: type[TrajectoryConstructors], centers: Tensor) -> Cameras:
        """Cameras at `centers` that look at the target."""
        return _cameras(cls).from_focal(look_at(centers, self.target), self.focal, self.height, self.width)


def _cameras(cls: type[TrajectoryConstructors]) -> type[Cameras]:
    """The class that a constructor was called on: [`Cameras`], which alone mixes them in."""
    return cast("type[Cameras]", cls)


def _shares(count: int, closed: bool = False) -> Tensor:
    """`count` even shares from 0 to 1, 1 left out if the path is closed; a single one is 0 (or the middle)."""
    if count == 1 and not closed:
        return torch.full((1,), 0.5)
    return torch.arange(count, dtype=torch.float32) / (count if closed else count - 1)


def _with_focal(cls: type[TrajectoryConstructors], cameras: Cameras, factors: Tensor) -> Cameras:
    scale = torch.ones(len(cameras), 3, 3)
    scale[:, 0, 0] = scale[:, 1, 1] = factors
    return _cameras(cls)(cameras.camera_to_world, cameras.intrinsics * scale, cameras.height, cameras.width)


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise CamerasError(f"count: expected a whole number of cameras of at least 1, got {count!r}.")


def _positive_pair(name: str, value: tuple[float, float], meaning: str) -> tuple[float, float]:
    pair = as_pair(name, value, meaning)
    _check_positive(name, *pair)
    return pair


def _elevations(elevation: Range) -> tuple[float, float]:
    """The first and the last elevation, of two or of one that stays."""
    both = (elevation, elevation) if is_real(elevation) else elevation
    low, high = as_pair("elevation", both, "one elevation, or the first and the last, in degrees")
    _check_elevation(low, high)
    return low, high


def _check_positive(name: str, *values: float) -> None:
    if not all(is_real(value) and value > 0 for value in values):
        raise CamerasError(f"{name}: expected numbers above 0, got {values}.")


def _check_elevation(low: float, high: float) -> None:
    if not (is_real(low) and is_real(high) and min(low, high) >= -90 and max(low, high) <= 90):
        raise CamerasError(f"elevation: expected degrees from -90 to 90, got {low} to {high}.")
