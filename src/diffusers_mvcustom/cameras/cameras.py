"""`Cameras`: a batch of pinhole cameras in the one convention that is used inside this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CamerasError
from .checks import as_float_tensor, as_size, check_kind, is_real
from .trajectories import TrajectoryConstructors

_ORTHONORMALITY_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Cameras(TrajectoryConstructors):
    """A batch of N pinhole cameras that share one image size.

    Convention: OpenCV axes (x right, y down, z forward); intrinsics in pixels of a `height` × `width` image; the
    centre of the first pixel is (0.5, 0.5). Every other convention is converted at the border, see
    [`cameras.conventions`] and [`load_cameras`].

    Args:
        camera_to_world (`torch.Tensor` of shape `(N, 4, 4)`):
            Rigid transforms from camera to world coordinates.
        intrinsics (`torch.Tensor` of shape `(N, 3, 3)`):
            `[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]` in pixels. A single `(3, 3)` matrix is shared by all cameras.
        height (`int`): Image height in pixels.
        width (`int`): Image width in pixels.

    Raises:
        CamerasError: naming the argument, if shapes do not fit, a value is not finite, a rotation is not a rotation,
            or a focal length is not positive.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> cameras = Cameras.orbit(4, elevation=20.0, height=64, width=96)
        >>> len(cameras), cameras.height, cameras.width
        (4, 64, 96)
        >>> cameras.centers.norm(dim=-1).round(decimals=6).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    camera_to_world: Tensor  # [N, 4, 4]
    intrinsics: Tensor  # [N, 3, 3]
    height: int
    width: int

    def __post_init__(self) -> None:
        camera_to_world = as_float_tensor("camera_to_world", self.camera_to_world)
        intrinsics = as_float_tensor("intrinsics", self.intrinsics)
        if camera_to_world.ndim != 3 or camera_to_world.shape[1:] != (4, 4) or camera_to_world.shape[0] == 0:
            raise CamerasError(
                f"camera_to_world: expected shape (N, 4, 4) with N >= 1, got {tuple(camera_to_world.shape)}."
            )
        if intrinsics.shape == (3, 3):
            intrinsics = intrinsics.expand(camera_to_world.shape[0], 3, 3)
        if intrinsics.shape != (camera_to_world.shape[0], 3, 3):
            raise CamerasError(
                f"intrinsics: expected shape (3, 3) or ({camera_to_world.shape[0]}, 3, 3) to match camera_to_world, "
                f"got {tuple(intrinsics.shape)}."
            )
        for name in ("height", "width"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        intrinsics = intrinsics.to(device=camera_to_world.device, dtype=camera_to_world.dtype)
        _check_poses(camera_to_world)
        _check_intrinsics(intrinsics)
        object.__setattr__(self, "camera_to_world", camera_to_world)
        object.__setattr__(self, "intrinsics", intrinsics)

    # --- construction ---

    @classmethod
    def from_focal(
        cls,
        camera_to_world: Tensor,  # [N, 4, 4]
        focal: float | tuple[float, float],
        height: int,
        width: int,
    ) -> Cameras:
        """Cameras with the given focal length(s) in pixels and the principal point at the image centre."""
        camera_to_world = as_float_tensor("camera_to_world", camera_to_world)
        height, width = as_size("height", height), as_size("width", width)
        fx, fy = focal if isinstance(focal, tuple) and len(focal) == 2 else (focal, focal)
        if not (is_real(fx) and is_real(fy)):
            raise CamerasError(f"focal: expected a number of pixels or two (fx, fy), got {focal!r}.")
        intrinsics = torch.tensor(
            [[fx, 0.0, width / 2], [0.0, fy, height / 2], [0.0, 0.0, 1.0]], dtype=camera_to_world.dtype
        )
        return cls(camera_to_world, intrinsics, height, width)

    @classmethod
    def cat(cls, batches: Sequence[Cameras]) -> Cameras:
        """Joins batches of one image size, in order.

        Raises:
            CamerasError: for no batch, something else among them, or several image sizes.
        """
        batches = list(batches) if isinstance(batches, Iterable) else [batches]
        if not batches:
            raise CamerasError("batches: expected at least one Cameras, got none.")
        for i, cameras in enumerate(batches):
            check_kind(f"batches[{i}]", cameras, Cameras)
        sizes = sorted({(cameras.height, cameras.width) for cameras in batches})
        if len(sizes) != 1:
            raise CamerasError(f"cameras: expected one image size (height, width) for all, got {sizes}.")
        height, width = sizes[0]
        return cls(
            torch.cat([cameras.camera_to_world for cameras in batches]),
            torch.cat([cameras.intrinsics for cameras in batches]),
            height,
            width,
        )

    # --- as a batch ---

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """Cameras selected by `index`. Always a batch: `cameras[3]` holds one camera."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):  # also ends iteration by index
                raise IndexError(f"camera {index} of {len(self)}")
            index = [index]
        elif not isinstance(index, (slice, Tensor)):
            index = list(index)
        return replace(self, camera_to_world=self.camera_to_world[index], intrinsics=self.intrinsics[index])

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras on another device or in another floating dtype."""
        return replace(
            self,
            camera_to_world=self.camera_to_world.to(device=device, dtype=dtype),
            intrinsics=self.intrinsics.to(device=device, dtype=dtype),
        )

    @property
    def device(self) -> torch.device:
        """Device of the cameras."""
        return self.camera_to_world.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the cameras."""
        return self.camera_to_world.dtype

    def allclose(self, other: Cameras, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
        """Whether both hold the same cameras of the same image size, up to tolerances."""
        return (
            (len(self), self.height, self.width) == (len(other), other.height, other.width)
            and torch.allclose(self.camera_to_world, other.camera_to_world.to(self.camera_to_world), rtol, atol)
            and torch.allclose(self.intrinsics, other.intrinsics.to(self.intrinsics), rtol, atol)
        )

    # --- views of the pose ---

    @property
    def world_to_camera(self) -> Tensor:
        """Inverse poses, `(N, 4, 4)`."""
        rotation = self.camera_to_world[:, :3, :3].transpose(1, 2)
        world_to_camera = torch.zeros_like(self.camera_to_world)
        world_to_camera[:, :3, :3] = rotation
        world_to_camera[:, :3, 3] = -(rotation * self.camera_to_world[:, None, :3, 3]).sum(dim=-1)  # no autocast in it
        world_to_camera[:, 3, 3] = 1.0
        return world_to_camera

    @property
    def centers(self) -> Tensor:
        """Camera centres in the world, `(N, 3)`."""
        return self.camera_to_world[:, :3, 3]

    @property
    def optical_axes(self) -> Tensor:
        """Unit viewing directions (+z of the camera) in the world, `(N, 3)`."""
        return self.camera_to_world[:, :3, 2]

    @property
    def focal(self) -> Tensor:
        """`(fx, fy)` in pixels, `(N, 2)`."""
        return torch.stack([self.intrinsics[:, 0, 0], self.intrinsics[:, 1, 1]], dim=-1)

    @property
    def field_of_view(self) -> Tensor:
        """Horizontal and vertical field of view in degrees, `(N, 2)`, for a centred principal point."""
        size = self.camera_to_world.new_tensor([self.width, self.height])
        return torch.rad2deg(2 * torch.atan(size / (2 * self.focal)))

    # --- another image of the same cameras ---

    def resize(self, height: int, width: int) -> Cameras:
        """The cameras of the same image resampled to `height` × `width`; each axis scales on its own.

        With pixel centres at +0.5 the intrinsics scale by the plain ratio of sizes, principal point included.
        """
        height, width = as_size("height", height), as_size("width", width)
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, intrinsics=self.intrinsics * scale[:, None], height=height, width=width)

    def crop(self, top: int, left: int, height: int, width: int) -> Cameras:
        """The cameras of the image's part that starts at pixel (`top`, `left`). It may reach beyond the image."""
        if not (is_real(top) and is_real(left)):
            raise CamerasError(f"top, left: expected numbers of pixels, got {top!r} and {left!r}.")
        shift = torch.zeros_like(self.intrinsics)
        shift[:, 0, 2], shift[:, 1, 2] = left, top
        return replace(self, intrinsics=self.intrinsics - shift, height=height, width=width)

    def cover(self, height: int, width: int) -> Cameras:
        """Resizes evenly until the image covers `height` × `width`, then crops the centre.

        What [`MVCustomPipeline`] does with cameras whose image has another aspect ratio than the views asked for.
        """
        height, width = as_size("height", height), as_size("width", width)
        scale = max(height / self.height, width / self.width)
        scaled = self.resize(
            *(max(round(size * scale), least) for size, least in ((self.height, height), (self.width, width)))
        )
        return scaled.crop((scaled.height - height) // 2, (scaled.width - width) // 2, height, width)


def _bad_indices(bad: Tensor) -> str:
    indices = bad.nonzero().flatten().tolist()
    return f"{len(indices)} of {bad.numel()} cameras (first: index {indices[0]})"


def _check_poses(camera_to_world: Tensor) -> None:
    finite = camera_to_world.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise CamerasError(
            f"camera_to_world: expected finite numbers, got NaN or infinity in {_bad_indices(~finite)}."
        )
    bottom = camera_to_world.new_tensor([0.0, 0.0, 0.0, 1.0])
    affine = ((camera_to_world[:, 3] - bottom).abs() < 1e-6).all(dim=1)
    if not affine.all():
        raise CamerasError(
            f"camera_to_world: expected the bottom row [0, 0, 0, 1], got {camera_to_world[~affine][0, 3].tolist()} in "
            f"{_bad_indices(~affine)}. Transposed matrices (row vectors)?"
        )
    rotation = camera_to_world[:, :3, :3].detach().cpu().double()  # autocast leaves float64 alone
    error = (rotation @ rotation.transpose(1, 2) - torch.eye(3).to(rotation)).abs().amax(dim=(1, 2))
    singular = torch.linalg.det(rotation).abs() < 1e-8
    if singular.any():
        raise CamerasError(f"camera_to_world: expected rotations, got singular matrices in {_bad_indices(singular)}.")
    scaled = ~(error <= _ORTHONORMALITY_TOLERANCE)  # NaN of an overflow too
    if scaled.any():
        raise CamerasError(
            f"camera_to_world: expected orthonormal rotations, got an error of {error.max().item():.3g} in "
            f"{_bad_indices(scaled)}. Poses with a scale or shear? Divide the rotation by its scale first."
        )
    mirrored = torch.linalg.det(rotation) < 0
    if mirrored.any():
        raise CamerasError(
            f"camera_to_world: expected right-handed rotations (determinant +1), got -1 in {_bad_indices(mirrored)}. "
            "An odd number of axes flipped on conversion?"
        )


def _check_intrinsics(intrinsics: Tensor) -> None:
    finite = intrinsics.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise CamerasError(f"intrinsics: expected finite numbers, got NaN or infinity in {_bad_indices(~finite)}.")
    nonpositive = (intrinsics[:, 0, 0] <= 0) | (intrinsics[:, 1, 1] <= 0)
    if nonpositive.any():
        focal = intrinsics[nonpositive][0].diagonal()[:2].tolist()
        raise CamerasError(
            f"intrinsics: expected focal lengths in pixels above 0, got {focal} in {_bad_indices(nonpositive)}."
        )
    expected = torch.zeros_like(intrinsics)
    expected[:, 0, 0], expected[:, 1, 1] = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    expected[:, :2, 2] = intrinsics[:, :2, 2]
    expected[:, 2, 2] = 1.0
    other = ((intrinsics - expected).abs() > 1e-6).flatten(1).any(dim=1)
    if other.any():
        raise CamerasError(
            f"intrinsics: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {intrinsics[other][0].tolist()} in "
            f"{_bad_indices(other)}. Skew is not supported; a transposed matrix?"
        )
