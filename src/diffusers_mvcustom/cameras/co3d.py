"""CO3Dv2: frame_annotations.jgz, gzipped JSON with PyTorch3D cameras."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import torch

from ..errors import CamerasError, MVCustomError
from .capture import Capture, inside_folder, one_size
from .conventions import cameras_from_pytorch3d

_LARGEST = 2**31
"""Bytes of JSON that are unpacked at most: CO3Dv2's largest category has a third of it."""


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
            sizes.append((int(image["size"][0]), int(image["size"][1])))
            formats.add(view.get("intrinsics_format", "ndc_norm_image_bounds"))
            images.append(image["path"])
            masks.append((frame.get("mask") or {}).get("path"))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
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
        with gzip.open(file) as stream:
            data = stream.read(_LARGEST)
        frames = json.loads(data)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise MVCustomError(f"{file}: expected gzipped JSON: {error}") from error
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise MVCustomError(f"{file}: expected a list of frame annotations.")
    return frames
