"""RealEstate10K and CameraCtrl text files: a line per frame, intrinsics divided by the image size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import CamerasError
from ..files.text_files import read_text
from .cameras import Cameras
from .capture import Capture
from .checks import as_size
from .conventions import camera_to_world_in, cameras_from_convention

_COLUMNS = 19


def read_real_estate10k(file: Path, height: int, width: int) -> Capture:
    """Reads a trajectory. The file does not know its image size, so it has to be given.

    Args:
        file (`Path`): A URL line, then 19 columns a line: timestamp, fx, fy, cx, cy divided by width and height, 0 0, and
            the 3 × 4 world-to-camera matrix.
        height (`int`), width (`int`): Image size in pixels.
    """
    height, width = as_size("height", height), as_size("width", width)
    lines = read_text(file).splitlines()
    rows, names = [], []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields = line.split()
        try:
            row = [float(value) for value in fields[1:]]
            if len(fields) != _COLUMNS or not all(map(math.isfinite, row)):
                raise ValueError(len(fields))
        except ValueError as error:
            raise CamerasError(
                f"{file}: line {number}: expected {_COLUMNS} finite numbers, got {line[:80]!r}."
            ) from error
        rows.append(row)
        names.append(fields[0])
    if not rows:
        raise CamerasError(f"{file}: expected a URL line and at least one camera.")
    table = torch.tensor(rows, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(rows), 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = table[:, 0] * width, table[:, 1] * height
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = table[:, 2] * width, table[:, 3] * height
    poses = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    poses[:, :3] = table[:, 6:].reshape(-1, 3, 4)
    try:
        cameras = cameras_from_convention(poses, intrinsics, height, width, convention="opencv_w2c")
    except CamerasError as error:
        raise CamerasError(f"{file}: {error}") from error
    return Capture(cameras, tuple(names), (None,) * len(rows), (None,) * len(rows))


def write_real_estate10k(file: Path, cameras: Cameras, names: Sequence[str]) -> None:
    """Writes a trajectory; `names` are the timestamps where they are numbers, else the frames are counted."""
    numbers = names if all(name.isdigit() for name in names) else [str(i) for i in range(len(cameras))]
    poses = camera_to_world_in(cameras.to(dtype=torch.float64), "opencv_w2c")[:, :3].flatten(1)
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
    focal, center = cameras.focal.double() / size, cameras.intrinsics[:, :2, 2].double() / size
    lines = ["https://"]
    for number, *row in zip(numbers, focal.tolist(), center.tolist(), poses.tolist()):
        values = [*row[0], *row[1], 0.0, 0.0, *row[2]]
        lines.append(" ".join([number, *map(repr, values)]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
