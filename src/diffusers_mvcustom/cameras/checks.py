"""What users give as poses, sizes and lengths, checked and in one form."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..errors import CamerasError

_LARGEST_SIZE = 2**20


def as_float_tensor(name: str, value: object) -> Tensor:
    """A float32 or float64 tensor of anything that holds real numbers; `name` is the argument's in messages."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CamerasError(f"{name}: expected a tensor or an array of numbers, got {type(value).__name__}.") from error
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_quantized:
        raise CamerasError(f"{name}: expected real numbers, got {tensor.dtype}.")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise CamerasError(f"{name}: expected a dense tensor with values, got {tensor.layout} on {tensor.device}.")
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def as_size(name: str, value: Any) -> int:
    """A side of an image in pixels as `int`; whatever holds a whole number will do."""
    try:
        size = int(value)
        fits = not isinstance(value, (bool, str)) and size == value and 1 <= size <= _LARGEST_SIZE
    except (TypeError, ValueError, OverflowError, RuntimeError):
        fits = False
    if not fits:
        raise CamerasError(
            f"{name}: expected a positive whole number of pixels, at most {_LARGEST_SIZE:,}, got {value!r}."
        )
    return size


def is_real(value: Any) -> bool:
    """Whether it is one finite number, of Python's, numpy's or torch's kind."""
    if isinstance(value, (bool, str, bytes)):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def as_number(name: str, value: Any) -> float:
    """One finite number, of whatever kind, as `float`."""
    if not is_real(value):
        raise CamerasError(f"{name}: expected one finite number, got {_shown(value)}.")
    return float(value)


def as_pair(name: str, value: Any, meaning: str) -> tuple[float, float]:
    """Two finite numbers; `meaning` says what they are."""
    if is_real(value):
        raise CamerasError(
            f"{name}: expected {meaning}, got {value!r}. Give it twice, ({value}, {value}), to stay there."
        )
    try:
        first, last = value
    except (TypeError, ValueError, RuntimeError):
        first = last = None
    if not (is_real(first) and is_real(last)) or isinstance(value, (str, bytes)):
        raise CamerasError(f"{name}: expected {meaning}, two finite numbers, got {_shown(value)}.")
    return float(first), float(last)


def check_kind(name: str, value: object, cameras: type) -> None:
    """Raises unless `value` is of the class `cameras`, [`Cameras`], with the way to there from what came."""
    if isinstance(value, cameras):
        return
    hint = ""
    if isinstance(value, (str, PathLike)):
        hint = " load_cameras(path) reads a file."
    elif type(value).__name__ == "Cameras":
        hint = f" It is of another class of that name, of {type(value).__module__}; take all from one package or file."
    elif isinstance(value, (list, tuple)) and value and all(isinstance(one, cameras) for one in value):
        hint = " Cameras.cat(list) joins them."
    elif isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        hint = " Poses become Cameras with intrinsics and an image size: Cameras(camera_to_world, intrinsics, height, width)."
    raise CamerasError(f"{name}: expected Cameras, got {_shown(value)}.{hint}")


def _shown(value: object) -> str:
    """What came: short values as they are, others by their class."""
    if value is None or (isinstance(value, (bool, int, float, str, bytes, tuple)) and len(repr(value)) <= 60):
        return repr(value)
    return f"a {type(value).__name__}"
