"""Camera files by name and content: one call to read any of them, one to write."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CamerasError, MVCustomError
from ..files.text_files import read_json
from .camera_path_json import is_camera_path, read_camera_path_json
from .cameras import Cameras
from .capture import Capture
from .checks import check_kind
from .co3d import read_co3d
from .colmap import find_model, read_colmap, write_colmap
from .polycam import find_keyframes, read_polycam
from .real_estate10k import read_real_estate10k, write_real_estate10k
from .transforms_json import read_transforms_json, write_transforms_json

FORMATS = ("transforms_json", "camera_path_json", "colmap", "co3d", "polycam", "real_estate10k")
_JSON_READERS = {"transforms_json": read_transforms_json, "camera_path_json": read_camera_path_json}


def load_capture(
    path: str | PathLike[str],
    format: str | None = None,
    *,
    sequence: str | None = None,
    height: int | None = None,
    width: int | None = None,
    convention: str | None = None,
) -> Capture:
    """Reads cameras with the names and files of their photos.

    Args:
        path (`str` or path): A `transforms.json` (or a folder with one), a `camera_path.json` of nerfstudio's viewer, the
            folder of a COLMAP model (or one that holds it as `sparse/0`, `sparse` or `colmap`), a CO3Dv2
            `frame_annotations.jgz`, the folder of a Polycam export (raw data), or a RealEstate10K .txt.
        format (`str`, *optional*): A name of `FORMATS`; recognised by name and content if not given.
        sequence (`str`, *optional*): The sequence of a CO3Dv2 file.
        height (`int`, *optional*), width (`int`, *optional*): Image size of a file that has none: RealEstate10K always,
            JSON files at times. They stand in for what the file lacks and are no size to resize to: cameras of a file that
            says its size have that one, whatever is given here; [`Cameras.resize`] and [`Cameras.cover`] change it.
        convention (`str`, *optional*): A name of `CONVENTIONS`, for a JSON file whose poses are not OpenGL's, as nerfstudio
            defines them.

    Raises:
        MVCustomError: naming the file and what cannot be used.
    """
    path = Path(path)
    if format is None:
        format = recognise_format(path)
        if format is None:
            raise MVCustomError(
                f"{path}: expected a folder with transforms.json, a COLMAP model (cameras and images), "
                "frame_annotations.jgz or Polycam's keyframes."
            )
    _check_format(format)
    if format in _JSON_READERS:
        file = path / "transforms.json" if path.is_dir() else path
        return _JSON_READERS[format](file, height, width, convention)
    if convention is not None:
        raise CamerasError(
            f"{path}: convention: only for JSON files; a file of {format} has its own, got {convention!r}."
        )
    if format == "colmap":
        return read_colmap(path.parent if path.is_file() else path)
    if format == "co3d":
        return read_co3d(path / "frame_annotations.jgz" if path.is_dir() else path, sequence)
    if format == "polycam":
        return read_polycam(path)
    if height is None or width is None:
        raise CamerasError(f"{path}: height, width: a RealEstate10K file does not know its image size; give both.")
    return read_real_estate10k(path, height, width)


def load_cameras(path: str | PathLike[str], format: str | None = None, **options: Any) -> Cameras:
    """Reads the cameras of a file, in the image size that the file has.

    `format`, `sequence`, `height`, `width` and `convention` are those of [`load_capture`]. A `height` and `width` are for
    files that lack them and resize nothing: `load_cameras(file).cover(height, width)` does.

    Raises:
        CamerasError: also if the photos are distorted: their cameras are only right for undistorted photos.
    """
    capture = load_capture(path, format, **options)
    if capture.distortion is not None:
        raise CamerasError(
            f"{path}: these cameras belong to undistorted photos, and the lens has distortion {capture.distortion}. Undo it "
            "first (colmap image_undistorter, or load_capture and undistort_image)."
        )
    return capture.cameras


def save_cameras(
    path: str | PathLike[str],
    cameras: Cameras,
    format: str | None = None,
    *,
    names: Sequence[str] | None = None,
    mask_names: Sequence[str | None] | None = None,
    points: tuple[Tensor, Tensor] | None = None,  # [P, 3] and [P, 3]
) -> None:
    """Writes cameras. What is there is replaced only after all is written.

    Args:
        path (`str` or path): A .json or .txt file, or the folder of a COLMAP model.
        cameras ([`Cameras`]): What to write.
        format (`str`, *optional*): `"transforms_json"`, `"colmap"` (.bin), `"colmap_text"` or `"real_estate10k"`; by the
            name's ending if not given.
        names (sequence of `str`, *optional*): One per camera: the photos' paths from the file.
        mask_names (sequence of `str` or `None`, *optional*): One per camera: the masks' paths from the file. Only
            transforms_json holds them; in other formats they are left out.
        points (tuple of `torch.Tensor` of shape `(P, 3)`, *optional*): Positions and colours (0 to 255), for COLMAP.
    """
    path = Path(path)
    check_kind("cameras", cameras, Cameras)
    if names is None:
        names = [f"{i:04d}.png" for i in range(len(cameras))]
    _check_names("names", names, len(cameras))
    if mask_names is not None:
        _check_names("mask_names", mask_names, len(cameras))
    if format is None:
        format = {".json": "transforms_json", ".txt": "real_estate10k", "": "colmap"}.get(path.suffix)
    if format not in ("transforms_json", "colmap", "colmap_text", "real_estate10k"):
        raise CamerasError(
            f"format: expected transforms_json, colmap, colmap_text or real_estate10k, got {format!r} for {path.name!r}."
        )
    if points is not None and not format.startswith("colmap"):
        raise CamerasError(f"points: {format} holds none; write a COLMAP model.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        written = Path(temporary) / path.name
        if format.startswith("colmap"):
            written.mkdir()
            write_colmap(written, cameras, names, binary=format == "colmap", points=points)
            path.mkdir(exist_ok=True)
            for old in [
                f"{stem}{suffix}" for stem in ("cameras", "images", "points3D") for suffix in (".bin", ".txt")
            ]:
                (path / old).unlink(missing_ok=True)
            for file in written.iterdir():
                shutil.move(file, path / file.name)
            return
        if format == "transforms_json":
            write_transforms_json(written, cameras, names, mask_names=mask_names)
        else:
            write_real_estate10k(written, cameras, names)
        os.replace(written, path)


def _check_names(argument: str, names: Sequence[str | None], count: int) -> None:
    if len(names) != count:
        raise CamerasError(f"{argument}: expected one per camera ({count}), got {len(names)}.")
    for name in names:
        if name is not None and (not name or any(ord(letter) < 32 for letter in name)):
            raise CamerasError(
                f"{argument}: expected names of photos, got {name!r}, which would break a line of the file."
            )


def recognise_format(path: Path) -> str | None:
    """The format of a camera file, or of the cameras in a folder; `None` for a folder without any."""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise MVCustomError(f"{path}: cannot be read: {error}") from error
    if not is_folder and not is_file:
        raise MVCustomError(f"{path}: there is no such file or folder.")
    if is_folder:
        if (path / "transforms.json").is_file():
            return "transforms_json"
        if find_model(path) is not None:
            return "colmap"
        if (path / "frame_annotations.jgz").is_file():
            return "co3d"
        if find_keyframes(path) is not None:
            return "polycam"
        return None
    if path.suffix == ".jgz":
        return "co3d"
    if path.suffix == ".bin" or path.name in ("cameras.txt", "images.txt"):
        return "colmap"
    if path.suffix == ".txt":
        return "real_estate10k"
    # A large capture, which a transforms.json by that name may be, is not read twice.
    return (
        "camera_path_json" if path.name != "transforms.json" and is_camera_path(read_json(path)) else "transforms_json"
    )


def _check_format(format: str) -> None:
    if not isinstance(format, str) or format not in FORMATS:
        raise CamerasError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}.")
