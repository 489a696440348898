"""What users give as poses, sizes and lengths, checked and in one form."""

from __future__ import annotations

import math
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
