"""COLMAP's .txt files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MVCustomError
from ..files.text_files import read_text
from .colmap_model import CAMERA_MODELS, ColmapCamera, ColmapImage, ColmapModel

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
            qw, qx, qy, qz, tx, ty, tz = map(float, pose)
            quaternion, translation = (qw, qx, qy, qz), (tx, ty, tz)
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


def write_text_images(file: Path, model: ColmapModel) -> None:
    """Writes images.txt. Points are numbered from 1."""
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for image, (points, pixels) in zip(model.images, model.observations.by_photo(len(model.images))):
        pose = " ".join(map(repr, (*image.quaternion, *image.translation)))
        seen = " ".join(f"{x!r} {y!r} {point + 1}" for (x, y), point in zip(pixels.tolist(), points.tolist()))
        lines += [f"{image.image_id} {pose} {image.camera_id} {image.name}", seen]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_text_points(file: Path, model: ColmapModel) -> None:
    """Writes points3D.txt."""
    lines = ["# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    rows = zip(model.points.tolist(), model.colors.tolist(), model.observations.tracks(len(model.points)))
    for i, (point, color, track) in enumerate(rows, 1):
        seen_in = [f"{model.images[photo].image_id} {place}" for photo, place in track.tolist()]
        lines.append(" ".join([str(i), *map(repr, point), *map(str, color), "0.0", *seen_in]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
