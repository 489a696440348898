"""COLMAP's .txt files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MVCustomError
from ..files.text_files import read_text
from .colmap_model import CAMERA_MODELS, ColmapCamera, ColmapImage

_LARGEST = 2**33
"""Bytes; images.txt holds the observations of every photo."""


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments; empty ones are kept (an image without observations has one)."""
    lines = read_text(file, largest=_LARGEST).splitlines()
    return ((number, line) for number, line in enumerate(lines, 1) if not line.startswith("#"))


def _wrong(file: Path, number: int, expected: str, line: str) -> MVCustomError:
    return MVCustomError(f"{file}: line {number}: expected {expected}, got {line[:80]!r}.")


def read_text_cameras(file: Path) -> dict[int, ColmapCamera]:
    """Entries of cameras.txt by camera id."""
    counts = dict(CAMERA_MODELS.values())
    cameras = {}
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            camera = ColmapCamera(model, int(width), int(height), tuple(map(float, params)))
            cameras[int(camera_id)] = camera
        except ValueError as error:
            raise _wrong(file, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", line) from error
        if counts.get(model) != len(params):
            raise _wrong(file, number, f"a model of {', '.join(counts)} with its parameters", line)
    return cameras


def read_text_images(file: Path) -> list[ColmapImage]:
    """Entries of images.txt; every second line, the observations, is skipped."""
    images = []
    lines = _lines(file)
    for number, line in lines:
        if not line.strip():
            continue
        fields = line.split(maxsplit=9)
        try:
            image_id, *pose, camera_id, name = fields
            quaternion, translation = tuple(map(float, pose[:4])), tuple(map(float, pose[4:]))
            if len(pose) != 7:
                raise ValueError(len(pose))
            images.append(ColmapImage(int(image_id), quaternion, translation, int(camera_id), name.strip()))
        except ValueError as error:
            raise _wrong(file, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", line) from error
        next(lines, None)
    return images


def read_text_points(file: Path) -> tuple[Tensor, Tensor]:
    """Positions `(P, 3)` and colours `(P, 3)` of points3D.txt."""
    positions, colors = [], []
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            _, x, y, z, *rgb = line.split()[:7]
            positions.append([float(x), float(y), float(z)])
            color = [int(value) for value in rgb]
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError(color)
            colors.append(color)
        except ValueError as error:
            raise _wrong(file, number, "POINT3D_ID X Y Z R G B ERROR TRACK[]", line) from error
    return (
        torch.tensor(positions, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(colors, dtype=torch.uint8).reshape(-1, 3),
    )


def write_text_cameras(file: Path, cameras: Mapping[int, ColmapCamera]) -> None:
    """Writes cameras.txt."""
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
    for camera_id, camera in cameras.items():
        lines.append(
            f"{camera_id} {camera.model} {camera.width} {camera.height} " + " ".join(map(repr, camera.params))
        )
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_text_images(file: Path, images: Sequence[ColmapImage]) -> None:
    """Writes images.txt, without observations."""
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for image in images:
        pose = " ".join(map(repr, (*image.quaternion, *image.translation)))
        lines += [f"{image.image_id} {pose} {image.camera_id} {image.name}", ""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_text_points(file: Path, points: Tensor, colors: Tensor) -> None:
    """Writes points3D.txt, without tracks."""
    lines = ["# POINT3D_ID X Y Z R G B ERROR TRACK[]"]
    for i, (point, color) in enumerate(zip(points.tolist(), colors.tolist()), 1):
        lines.append(f"{i} {' '.join(map(repr, point))} {' '.join(map(str, color))} 0.0")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
