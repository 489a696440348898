"""What COLMAP's files hold, whichever way they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

CAMERA_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
}
"""COLMAP's numbers, names and parameter counts of the models that are read."""


@dataclass(frozen=True)
class ColmapCamera:
    """One entry of the cameras file."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One entry of the images file: world-to-camera quaternion (w, x, y, z) and translation."""

    image_id: int
    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]
    camera_id: int
    name: str


@dataclass(frozen=True, eq=False)
class Observations:
    """Which photo sees which point, and where.

    Args:
        photo (`torch.Tensor` of shape `(O,)`, int64): Index of the photo, in the order of the cameras.
        point (`torch.Tensor` of shape `(O,)`, int64): Index of the point.
        pixel (`torch.Tensor` of shape `(O, 2)`): Where the photo shows it, (x, y), the first pixel's centre at (0.5, 0.5).
    """

    photo: Tensor  # [O]
    point: Tensor  # [O]
    pixel: Tensor  # [O, 2]

    @classmethod
    def none(cls) -> Observations:
        """Points that no photo is said to see."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2).double())

    def by_photo(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Points `(K,)` and pixels `(K, 2)` of each of `count` photos."""
        order = self.photo.argsort(stable=True)
        sizes = self.photo.bincount(minlength=count).tolist()
        return list(zip(self.point[order].split(sizes), self.pixel[order].double().split(sizes)))

    def tracks(self, count: int) -> list[Tensor]:
        """For each of `count` points the photos that see it and its place in each one's list, `(L, 2)`."""
        order = self.photo.argsort(stable=True)
        photo, sizes = self.photo[order], self.photo.bincount()
        place = torch.arange(len(photo)) - (sizes.cumsum(0) - sizes)[photo]
        by_point = self.point[order].argsort(stable=True)
        rows = torch.stack([photo, place], dim=1)[by_point]
        return list(rows.split(self.point.bincount(minlength=count).tolist()))


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model as its files have it. Observations are written, but not read."""

    cameras: Mapping[int, ColmapCamera]
    images: Sequence[ColmapImage]
    points: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))  # [P, 3]
    colors: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.uint8))  # [P, 3]
    observations: Observations = field(default_factory=Observations.none)
