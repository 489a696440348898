"""Reading and writing the files of [`ReferenceViews`]."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..files.pictures import opened_picture
from ..files.text_files import is_finite_number, read_json

if TYPE_CHECKING:
    from .reference_views import ReferenceViews

TRANSFORMS_NAME = "transforms.json"
_EXIF_ORIENTATION = 0x0112
_INTRINSICS = ("fl_x", "fl_y", "cx", "cy")
_FRAME_KEYS = {"file_path", "transform_matrix", "name", "w", "h", *_INTRINSICS}
_OPTIONAL_FRAME_KEYS = {"mask_path", "caption"}
_OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0, 1.0])  # signs of the axes, which are a pose's columns


def read_image(
    file: str | PathLike[str],
    mode: str,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """An image file as a tensor.

    Args:
        file (`str` or path): A PNG or JPEG file, or any other that Pillow reads.
        mode (`str`): `"RGB"` or `"L"`.
        size (`tuple[int, int]`, *optional*): The height and width that it should have; with them it is decided
            whether an EXIF orientation is applied.

    Returns:
        `torch.Tensor` of shape `(3, H, W)` or `(1, H, W)` in [0, 1].

    Raises:
        MVCustomError: naming the file, if it cannot be read or has another size.
    """
    with opened_picture(file) as image:
        if size is not None and sorted((image.height, image.width)) != sorted(size):  # before it takes its memory
            raise _other_size(file, size, image)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        stored = image.convert(mode)
        displayed = ImageOps.exif_transpose(image).convert(mode) if orientation != 1 else stored
    chosen = stored
    if size is not None:
        fits = {
            name: (image.height, image.width) == size for name, image in (("stored", stored), ("displayed", displayed))
        }
        if orientation != 1 and all(fits.values()):
            raise MVCustomError(
                f"{file}: the photo carries an EXIF orientation ({orientation}) that leaves its size as it is, so it "
                "is open whether its camera refers to the stored or to the displayed pixels. Save it upright, without "
                "the orientation tag (and without the rotation if the cameras came from the stored pixels)."
            )
        if not any(fits.values()):
            raise _other_size(file, size, stored)
        chosen = stored if fits["stored"] else displayed
    pixels = torch.from_numpy(np.array(chosen, dtype=np.float32) / 255)
    return pixels.reshape(chosen.height, chosen.width, -1).permute(2, 0, 1).contiguous()


def _other_size(file: str | PathLike[str], size: tuple[int, int], image: Image.Image) -> MVCustomError:
    return MVCustomError(
        f"{file}: expected {size[0]} × {size[1]} pixels (height × width) as its camera, got {image.height} × "
        f"{image.width}."
    )


def save_reference_views(views: ReferenceViews, folder: Path) -> None:
    """Writes the views. See [`ReferenceViews.save`]."""
    frames = []
    for part, pixels in (("images", views.images), ("masks", views.masks)):
        if pixels is None:
            continue
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(pixels):
            array = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            Image.fromarray(array.squeeze(-1) if part == "masks" else array).save(folder / part / f"{i:03d}.png")
    poses = views.cameras.camera_to_world.double().cpu().numpy() * _OPENGL_TO_OPENCV
    intrinsics = views.cameras.intrinsics.double().cpu().numpy()
    for i in range(len(views)):
        matrix = intrinsics[i]
        frame: dict[str, Any] = {"file_path": f"images/{i:03d}.png"}
        if views.masks is not None:
            frame["mask_path"] = f"masks/{i:03d}.png"
        frame["name"] = views.names[i]
        if views.captions is not None:
            frame["caption"] = views.captions[i]
        frame |= {"w": views.width, "h": views.height}
        frame |= dict(zip(_INTRINSICS, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])))
        frame["transform_matrix"] = poses[i].tolist()
        frames.append(frame)
    content = {"camera_model": "PINHOLE", "frames": frames}
    (folder / TRANSFORMS_NAME).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_reference_views(cls: type[ReferenceViews], folder: Path) -> ReferenceViews:
    """Reads the views. See [`ReferenceViews.load`]."""
    file = folder / TRANSFORMS_NAME
    content = read_json(file, absent="; are the reference views missing?")
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or content.get("camera_model") != "PINHOLE":
        raise MVCustomError(f"{file}: expected camera_model 'PINHOLE' and a list of frames that is not empty.")
    for i, frame in enumerate(frames):
        _check_frame(file, i, frame)
    for key in _OPTIONAL_FRAME_KEYS:
        if 0 < sum(key in frame for frame in frames) < len(frames):
            raise MVCustomError(f"{file}: expected {key} in all frames or in none.")
    sizes = {(frame["h"], frame["w"]) for frame in frames}
    if len(sizes) > 1:
        raise MVCustomError(f"{file}: expected one image size (h, w) for all frames, got {sorted(sizes)}.")
    (height, width) = sizes.pop()
    intrinsics = torch.zeros(len(frames), 3, 3, dtype=torch.float64)
    for matrix, frame in zip(intrinsics, frames):
        matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = (frame[key] for key in _INTRINSICS)
        matrix[2, 2] = 1.0
    poses = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64) * _OPENGL_TO_OPENCV
    try:
        cameras = Cameras(torch.from_numpy(poses), intrinsics, height, width)
    except MVCustomError as error:
        raise MVCustomError(f"{file}: {error}") from error

    def read(key: str, mode: str) -> Tensor:
        files = (folder / inside(file, frame[key]) for frame in frames)
        return torch.stack([read_image(path, mode, (height, width)) for path in files])

    return cls(
        read("file_path", "RGB"),
        cameras,
        read("mask_path", "L") if "mask_path" in frames[0] else None,
        [frame["name"] for frame in frames],
        [frame["caption"] for frame in frames] if "caption" in frames[0] else None,
    )


def inside(file: Path, path: str) -> PurePosixPath:
    """`path` as a relative path, if it does not leave the folder that it is relative to.

    Judged by its text and not by where it leads: a Hub cache keeps its files as links to elsewhere.

    Raises:
        MVCustomError: naming `file`, in which the path stands.
    """
    relative = PurePosixPath(path)
    outside = relative.is_absolute() or ".." in relative.parts or any(c in path for c in "\\:\0")
    if outside or not relative.parts or len(path) > 1024 or any(len(part.encode()) > 255 for part in relative.parts):
        raise MVCustomError(f"{file}: expected paths inside the folder, got {path!r}.")
    return relative


def _check_frame(file: Path, index: int, frame: Any) -> None:
    where = f"{file}: frames[{index}]"
    if not isinstance(frame, dict):
        raise MVCustomError(f"{where}: expected an object, got {type(frame).__name__}.")
    if missing := sorted(_FRAME_KEYS - frame.keys()):
        raise MVCustomError(f"{where}: {missing} missing.")
    if unknown := sorted(frame.keys() - _FRAME_KEYS - _OPTIONAL_FRAME_KEYS):
        raise MVCustomError(f"{where}: unknown keys {unknown}.")
    for key in ("file_path", "mask_path", "name", "caption"):
        if not isinstance(frame.get(key, ""), str):
            raise MVCustomError(f"{where}.{key}: expected a text, got {frame[key]!r}.")
    for key in ("w", "h"):
        if isinstance(frame[key], bool) or not isinstance(frame[key], int):
            raise MVCustomError(f"{where}.{key}: expected a whole number, got {frame[key]!r}.")
    for key in _INTRINSICS:
        if not is_finite_number(frame[key]):
            raise MVCustomError(f"{where}.{key}: expected a number, got {frame[key]!r}.")
    matrix = frame["transform_matrix"]
    rows = matrix if isinstance(matrix, list) and len(matrix) == 4 else [None]
    if not all(isinstance(row, list) and len(row) == 4 and all(map(is_finite_number, row)) for row in rows):
        raise MVCustomError(f"{where}.transform_matrix: expected 4 × 4 numbers, got {matrix!r}.")
