"""COLMAP's .bin files. Counts are checked against the file's size before anything is made of them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import MVCustomError
from .colmap_model import CAMERA_MODELS, ColmapCamera, ColmapImage, ColmapModel

_POINT = struct.Struct("<Q3d3BdQ")
_NAME_LIMIT = 4096


class _Reader:
    """Little-endian values from a file's bytes; never reads beyond them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        if file.exists() and not file.is_file():
            raise MVCustomError(f"{file}: expected a file, got a folder or a device.")
        try:
            self.data = file.read_bytes()
        except OSError as error:
            raise MVCustomError(f"{file}: cannot be read: {error}") from error
        self.position = 0

    def take(self, layout: struct.Struct | str) -> tuple:
        layout = struct.Struct("<" + layout) if isinstance(layout, str) else layout
        if self.position + layout.size > len(self.data):
            raise MVCustomError(f"{self.file}: ends at byte {len(self.data)} in the middle of an entry. Truncated?")
        values = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return values

    def count(self, what: str, least: int) -> int:
        """A number of entries of at least `least` bytes each."""
        (count,) = self.take("Q")
        if count * least > len(self.data) - self.position:
            raise MVCustomError(
                f"{self.file}: claims {count} {what}, but only {len(self.data) - self.position} bytes follow. Truncated, or "
                "no COLMAP file?"
            )
        return count

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.position:
            raise MVCustomError(f"{self.file}: ends at byte {len(self.data)} in the middle of an entry. Truncated?")
        self.position += size

    def name(self) -> str:
        end = self.data.find(b"\0", self.position, self.position + _NAME_LIMIT)
        if end < 0:
            raise MVCustomError(f"{self.file}: expected an image name that ends within {_NAME_LIMIT} bytes.")
        try:
            name = self.data[self.position : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise MVCustomError(f"{self.file}: expected an image name in UTF-8: {error}") from error
        self.position = end + 1
        return name


def read_binary_cameras(file: Path) -> dict[int, ColmapCamera]:
    """Entries of cameras.bin by camera id."""
    reader = _Reader(file)
    cameras = {}
    for _ in range(reader.count("cameras", 24)):
        camera_id, model_id, width, height = reader.take("IiQQ")
        if model_id not in CAMERA_MODELS:
            known = ", ".join(name for name, _ in CAMERA_MODELS.values())
            raise MVCustomError(f"{file}: camera {camera_id} has COLMAP model {model_id}; {known} are read.")
        model, parameters = CAMERA_MODELS[model_id]
        cameras[camera_id] = ColmapCamera(model, width, height, reader.take(f"{parameters}d"))
    return cameras


def read_binary_images(file: Path) -> list[ColmapImage]:
    """Entries of images.bin; their observations are skipped."""
    reader = _Reader(file)
    images = []
    for _ in range(reader.count("images", 73)):
        image_id, *pose, camera_id = reader.take("I7dI")
        name = reader.name()
        reader.skip(24 * reader.count("observations", 24))
        images.append(ColmapImage(image_id, tuple(pose[:4]), tuple(pose[4:]), camera_id, name))
    return images


def read_binary_points(file: Path) -> tuple[Tensor, Tensor]:
    """Positions `(P, 3)` and colours `(P, 3)` of points3D.bin."""
    reader = _Reader(file)
    positions, colors = [], []
    for _ in range(reader.count("points", _POINT.size)):
        _, *values, track = reader.take(_POINT)
        positions.append(values[:3])
        colors.append(values[3:6])
        reader.skip(8 * track)
    return (
        torch.tensor(positions, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(colors, dtype=torch.uint8).reshape(-1, 3),
    )


def write_binary_cameras(file: Path, cameras: Mapping[int, ColmapCamera]) -> None:
    """Writes cameras.bin."""
    numbers = {name: number for number, (name, _) in CAMERA_MODELS.items()}
    parts = [struct.pack("<Q", len(cameras))]
    for camera_id, camera in cameras.items():
        head = struct.pack("<IiQQ", camera_id, numbers[camera.model], camera.width, camera.height)
        parts += [head, struct.pack(f"<{len(camera.params)}d", *camera.params)]
    file.write_bytes(b"".join(parts))


def write_binary_images(file: Path, model: ColmapModel) -> None:
    """Writes images.bin. Points are numbered from 1."""
    layout = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
    parts = [struct.pack("<Q", len(model.images))]
    for image, (points, pixels) in zip(model.images, model.observations.by_photo(len(model.images))):
        pose = struct.pack("<I7dI", image.image_id, *image.quaternion, *image.translation, image.camera_id)
        seen = np.zeros(len(points), dtype=layout)
        seen["pixel"], seen["point"] = pixels.numpy(), points.numpy() + 1
        parts += [pose, image.name.encode("utf-8") + b"\0", struct.pack("<Q", len(seen)), seen.tobytes()]
    file.write_bytes(b"".join(parts))


def write_binary_points(file: Path, model: ColmapModel) -> None:
    """Writes points3D.bin."""
    numbers = np.array([image.image_id for image in model.images])
    parts = [struct.pack("<Q", len(model.points))]
    rows = zip(model.points.tolist(), model.colors.tolist(), model.observations.tracks(len(model.points)))
    for i, (point, color, track) in enumerate(rows, 1):
        photos, places = track.T.numpy()
        seen_in = np.stack([numbers[photos], places], axis=1).astype("<u4")
        parts += [_POINT.pack(i, *point, *color, 0.0, len(seen_in)), seen_in.tobytes()]
    file.write_bytes(b"".join(parts))
