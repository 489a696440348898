"""Polycam's raw data: one JSON file per keyframe, with ARKit's pose and the pixel intrinsics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CamerasError, MVCustomError
from ..files.text_files import is_finite_number, read_json
from .capture import Capture, one_size
from .conventions import cameras_from_convention

_KEYFRAME_FOLDERS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))
"""Cameras and their photos; the corrected ones, which the app optimised afterwards, first."""
_SUFFIXES = (".jpg", ".jpeg", ".png")


def find_keyframes(path: Path) -> tuple[Path, Path] | None:
    """The folders of cameras and photos at `path` or in its `keyframes/`, if there are some."""
    for folder in (path / "keyframes", path):
        for cameras, images in _KEYFRAME_FOLDERS:
            files = (folder / cameras).glob("*.json") if (folder / images).is_dir() else ()
            if any(_looks_like_polycam(file) for file in files):
                return folder / cameras, folder / images
    return None


def read_polycam(path: Path) -> Capture:
    """Reads the keyframes of a Polycam export (raw data), in the order of their names.

    `t_00` to `t_23` are the rows of the camera-to-world matrix: camera axes x right, y up, z backward, world +Y up, metres.

    Raises:
        MVCustomError: naming the file and the entry that cannot be used.
    """
    found = find_keyframes(path)
    if found is None:
        raise MVCustomError(f"{path}: expected Polycam's raw data (keyframes/ with cameras/ and images/), found none.")
    cameras_folder, images_folder = found
    images = {file.stem: file for file in sorted(images_folder.iterdir()) if file.suffix.lower() in _SUFFIXES}
    # The app drops keyframes: a camera without a photo is none of ours.
    files = [file for file in sorted(cameras_folder.glob("*.json")) if file.stem in images]
    if not files:
        raise MVCustomError(f"{cameras_folder}: expected a photo in {images_folder} for some camera, found none.")
    poses, intrinsics, sizes = [], [], []
    for file in files:
        frame = _read_keyframe(file)
        pose = torch.eye(4, dtype=torch.float64)
        rows = [[_keyframe_number(file, frame, f"t_{i}{j}") for j in range(4)] for i in range(3)]
        pose[:3] = torch.tensor(rows, dtype=torch.float64)
        fx, fy, cx, cy = (_keyframe_number(file, frame, name) for name in ("fx", "fy", "cx", "cy"))
        poses.append(pose)
        intrinsics.append(torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64))
        sizes.append((int(_keyframe_number(file, frame, "height")), int(_keyframe_number(file, frame, "width"))))
    height, width = one_size(cameras_folder, sizes)
    try:
        cameras = cameras_from_convention(
            torch.stack(poses), torch.stack(intrinsics), height, width, convention="opengl"
        )
    except CamerasError as error:
        raise CamerasError(f"{cameras_folder}: {error}") from error
    return Capture(
        cameras=cameras,
        names=tuple(images[file.stem].name for file in files),
        image_paths=tuple(images[file.stem] for file in files),
        mask_paths=(None,) * len(files),
    )


def _looks_like_polycam(file: Path) -> bool:
    try:
        content = read_json(file)
    except MVCustomError:
        return False
    return isinstance(content, dict) and {"t_00", "t_23", "fx"} <= content.keys()


def _read_keyframe(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise MVCustomError(f"{file}: expected a JSON object, got {type(content).__name__}.")
    return content


def _keyframe_number(file: Path, frame: dict[str, Any], name: str) -> float:
    value: Any = frame.get(name)
    if not is_finite_number(value):
        raise CamerasError(f"{file}: {name}: expected a finite number, got {value!r}.")
    return float(value)
