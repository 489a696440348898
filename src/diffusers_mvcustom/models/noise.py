"""Gaussian noise that one seed gives in every dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def draw_noise(
    shape: Sequence[int],
    *,
    generator: torch.Generator | list[torch.Generator] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal noise, drawn in float32 (or a wider dtype) and rounded to `dtype`.

    Older versions of PyTorch draw half-precision noise on a CPU from other random bits than float32's: one seed would
    give another picture in each dtype.

    Args:
        shape (sequence of `int`): Shape of the noise.
        generator (`torch.Generator` or a list of them, *optional*): A CPU generator serves every device. A list has one
            for each row of the first axis.
        device (`torch.device`, *optional*): Where the noise is needed.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Floating dtype of the noise.

    Returns:
        `torch.Tensor` of shape `shape`.
    """
    dtype = torch.float32 if dtype is None else dtype
    drawn = torch.promote_types(dtype, torch.float32)
    return randn_tensor(tuple(shape), generator=generator, device=torch.device(device or "cpu"), dtype=drawn).to(dtype)
