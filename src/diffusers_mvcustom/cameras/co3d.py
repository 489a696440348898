"""CO3Dv2: frame_annotations.jgz, gzipped JSON with PyTorch3D cameras."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import torch

from ..errors import CamerasError, MVCustomError
from ..files.text_files import parse_json
from .capture import Capture, inside_folder, one_size
from .checks import as_size
from .conventions import cameras_from_pytorch3d

_LARGEST_RATIO = 50
"""How many times its size a file may unpack to: numbers in JSON shrink to a quarter or so, only bombs to a thousandth."""
_LEAST_LIMIT, _PIECE = 2**20, 2**20


def read_co3d(file: Path, sequence: str | None = None) -> Capture:
    """Reads one sequence of a CO3Dv2 category.

    Args:
        file (`Path`): The category's `frame_annotations.jgz`. Image paths in it start from the folder above its own.
        sequence (`str`, *optional*): The sequence's name; may be left out if there is only one.

    Raises:
        MVCustomError: naming the file and what cannot be used; lists the sequences if one has to be named.
    """
    frames = _read(file)
    names = list(dict.fromkeys(str(frame.get("sequence_name")) for frame in frames))
    if sequence is None and len(names) == 1:
        sequence = names[0]
    if sequence not in names:
        raise CamerasError(
            f"{file}: expected sequence= one of its {len(names)} sequences ({', '.join(names[:8])} ...), got {sequence!r}."
        )
    frames = [frame for frame in frames if str(frame.get("sequence_name")) == sequence]
    batches: dict[str, list[torch.Tensor]] = {"R": [], "T": [], "focal_length": [], "principal_point": []}
    sizes, formats, images, masks = [], set(), [], []
    for i, frame in enumerate(frames):
        try:
            view, image = frame["viewpoint"], frame["image"]
            for name, values in batches.items():
                values.append(torch.tensor(view[name], dtype=torch.float64))
            height, width = image["size"][:2]
            sizes.append((as_size("height", height), as_size("width", width)))
            formats.add(view.get("intrinsics_format", "ndc_norm_image_bounds"))
            images.append(image["path"])
            masks.append((frame.get("mask") or {}).get("path"))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, OverflowError) as error:
            raise MVCustomError(f"{file}: frame {i} of {sequence!r}: expected a CO3D annotation: {error!r}") from error
    if len(formats) != 1:
        raise CamerasError(f"{file}: expected one intrinsics_format in {sequence!r}, got {sorted(map(str, formats))}.")
    height, width = one_size(file, sizes)
    root = file.parent.parent
    try:
        rotation, translation, focal, principal = (torch.stack(values) for values in batches.values())
        cameras = cameras_from_pytorch3d(
            rotation, translation, focal, principal, height, width, intrinsics_in=formats.pop()
        )
    except (CamerasError, RuntimeError) as error:
        raise CamerasError(f"{file}: {sequence!r}: {error}") from error
    return Capture(
        cameras=cameras,
        names=tuple(str(path) for path in images),
        image_paths=tuple(inside_folder(root, path, file) for path in images),
        mask_paths=tuple(None if path is None else inside_folder(root, path, file) for path in masks),
    )


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        if not file.is_file():
            raise FileNotFoundError("there is no such file")
        # Read piece by piece: the memory is what is there, not what may be.
        most = _LEAST_LIMIT + _LARGEST_RATIO * file.stat().st_size
        data = bytearray()
        with gzip.open(file) as stream:
            while len(data) <= most and (piece := stream.read(_PIECE)):
                data += piece
    except (OSError, EOFError, zlib.error) as error:
        raise MVCustomError(f"{file}: expected gzipped JSON: {error}") from error
    if len(data) > most:
        raise MVCustomError(
            f"{file}: unpacks to more than {_LARGEST_RATIO} times its size, as no annotations do. A decompression bomb?"
        )
    frames = parse_json(file, bytes(data))
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise MVCustomError(f"{file}: expected a list of frame annotations.")
    return frames
