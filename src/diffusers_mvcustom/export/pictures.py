"""Views as PIL images, and all of them on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from ..errors import MVCustomError

Views = Sequence[PIL.Image.Image]
Frames = Sequence[Views] | Views | np.ndarray | torch.Tensor
"""Sets of views, or one set, as the pipeline's output types have them."""

_DECODE = "Latents? They have to be decoded before views can be saved: generate with output_type 'pil', 'np' or 'pt'."
_BEYOND = 0.01
"""How far values of images may lie outside of [0, 1], as those of a resampled image do."""


def views_to_pil(frames: Frames) -> list[list[PIL.Image.Image]]:
    """Sets of views as PIL images.

    Args:
        frames (lists of `PIL.Image.Image`, `np.ndarray` `(batch, N, H, W, 3)` or `torch.Tensor` `(batch, N, 3, H, W)`, in
            [0, 1]): The pipeline's output. One set may be given without its batch: a list of images, `(N, H, W, 3)` or
            `(N, 3, H, W)`.

    Raises:
        MVCustomError: for latents, which are no images, other shapes or values, and sets without a view.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.export import views_to_pil
        >>> sets = views_to_pil(torch.rand(4, 3, 6, 8))
        >>> len(sets), len(sets[0]), sets[0][0].size
        (1, 4, (8, 6))
    """
    if isinstance(frames, (np.ndarray, torch.Tensor)):
        return [
            [PIL.Image.fromarray((view * 255).round().clip(0, 255).astype(np.uint8)) for view in views]
            for views in _images(frames)
        ]
    if not isinstance(frames, Sequence) or isinstance(frames, str):
        raise MVCustomError(f"frames: expected views, got {type(frames).__name__}.")
    if frames and all(isinstance(view, PIL.Image.Image) for view in frames):
        return [_one_set(frames)]
    if not frames:
        raise MVCustomError("frames: expected at least one set of views, got none.")
    return [_one_set(views) for views in frames]


def _one_set(views: Any) -> list[PIL.Image.Image]:
    if not isinstance(views, Sequence) or not all(isinstance(view, PIL.Image.Image) for view in views):
        raise MVCustomError(
            "frames: expected PIL images, one list of them or one for each set, or one array or tensor of all sets, got a "
            f"list of {type(views).__name__}."
        )
    if not views:
        raise MVCustomError("frames: expected at least one view in each set, got none.")
    return list(views)


def _images(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """Sets of images `(batch, N, H, W, 3)` in [0, 1]."""
    batched = frames[None] if frames.ndim == 4 else frames
    channels = 2 if isinstance(frames, torch.Tensor) else -1
    if batched.ndim != 5 or batched.shape[channels] != 3 or 0 in batched.shape:
        raise MVCustomError(
            "frames: expected images as an array (batch, N, H, W, 3) or a tensor (batch, N, 3, H, W), or one set without "
            f"the batch, got {tuple(frames.shape)}. {_DECODE}"
        )
    if isinstance(batched, torch.Tensor):
        batched = batched.detach().float().cpu().movedim(2, -1).numpy()
    low, high = float(batched.min()), float(batched.max())
    if not -_BEYOND <= low <= high <= 1 + _BEYOND:
        cause = "Of 8 bits? Divide them by 255." if low >= 0 and high > 50 else _DECODE
        raise MVCustomError(f"frames: expected values in [0, 1], got some from {low:.3g} to {high:.3g}. {cause}")
    return batched


def contact_sheet(views: Views, columns: int | None = None) -> PIL.Image.Image:
    """All views on one sheet, row by row, as near to square as their number allows."""
    columns = columns or math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    width, height = views[0].size
    sheet = PIL.Image.new("RGB", (columns * width, rows * height), "white")
    for i, view in enumerate(views):
        sheet.paste(view, (i % columns * width, i // columns * height))
    return sheet
