"""Views as PIL images, and all of them on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch

from ..errors import MVCustomError

Views = Sequence[PIL.Image.Image]


def views_to_pil(frames: Sequence[Views] | np.ndarray | torch.Tensor) -> list[list[PIL.Image.Image]]:
    """Sets of views as PIL images.

    Args:
        frames (lists of images, `np.ndarray` `(batch, N, H, W, 3)` or `torch.Tensor` `(batch, N, 3, H, W)` in [0, 1]):
            The pipeline's output.

    Raises:
        MVCustomError: for latents, which are no images.
    """
    if isinstance(frames, torch.Tensor):
        frames = frames.detach().float().cpu().movedim(2, -1).numpy() if frames.ndim == 5 else frames
    if isinstance(frames, (np.ndarray, torch.Tensor)):
        if frames.ndim != 5 or frames.shape[-1] != 3:
            raise MVCustomError(
                f"frames: expected images of shape (batch, N, H, W, 3) or (batch, N, 3, H, W), got {tuple(frames.shape)}. "
                "Latents? Generate with output_type 'pil', 'np' or 'pt' to save views."
            )
        frames = [
            [PIL.Image.fromarray((view * 255).round().clip(0, 255).astype(np.uint8)) for view in set_]
            for set_ in frames
        ]
    return [list(views) for views in frames]


def contact_sheet(views: Views, columns: int | None = None) -> PIL.Image.Image:
    """All views on one sheet, row by row, as near to square as their number allows."""
    columns = columns or math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    width, height = views[0].size
    sheet = PIL.Image.new("RGB", (columns * width, rows * height), "white")
    for i, view in enumerate(views):
        sheet.paste(view, (i % columns * width, i // columns * height))
    return sheet
