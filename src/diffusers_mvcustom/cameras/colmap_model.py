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


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model as its files have it."""

    cameras: Mapping[int, ColmapCamera]
    images: Sequence[ColmapImage]
    points: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))  # [P, 3]
    colors: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.uint8))  # [P, 3]
