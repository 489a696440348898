"""Windowed attention row by row, without gathering a window's keys: what is fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Attend = Callable[..., Tensor]
"""`attend(query, key, value, attn_mask=...)` over `(sequences, tokens, heads, d)`."""


def row_windowed_attention(
    query: Tensor,  # [B, h, w, F, heads, d]
    key: Tensor,  # [B, h, w, F, heads, d]
    value: Tensor,  # [B, h, w, F, heads, d]
    radius: int,
    attend: Attend,
) -> Tensor:
    """Attention of each token to all frames' tokens at most `radius` rows and columns away.

    The keys that a row of queries can reach are laid out column by column. In that order a window is one run of memory,
    and the next position's is the same run, one column further: the windows of a row are overlapping views, and nothing
    is computed that a mask would throw away. Near the left and right rim windows are cut off; the queries there, `radius`
    on either side, go together, with a mask, and so do all of a row in a narrow map.

    Args:
        query, key, value (`torch.Tensor` of shape `(B, h, w, F, heads, d)`): Tokens by position and frame.
        radius (`int`): Rows and columns on either side, at least 1.
        attend (`Callable`): Attention of sequences.

    Returns:
        `torch.Tensor` of shape `(B, h, w, F, heads, d)`.
    """
    batch, height, width, frames = query.shape[:4]
    attended = torch.empty_like(query)
    masks: dict[int, list[Tensor]] = {}
    spans = _rim_spans(width, radius)
    for row in range(height):
        rows = slice(max(row - radius, 0), min(row + radius + 1, height))
        count = rows.stop - rows.start
        if count not in masks:
            masks[count] = [_rim_mask(*span, radius, frames, count * frames, query.device) for span in spans]
        # [B, w, rows * F, heads, d]
        keys, values = (states[:, rows].transpose(1, 2).flatten(2, 3) for states in (key, value))
        for (positions, reach), mask in zip(spans, masks[count]):
            attended[:, row, positions] = attend(
                query[:, row, positions].flatten(1, 2),
                keys[:, reach].flatten(1, 2),
                values[:, reach].flatten(1, 2),
                attn_mask=mask,
            ).unflatten(1, (-1, frames))
        if len(spans) > 1:
            inner = slice(radius, width - radius)
            windows = partial(_windows, columns=2 * radius + 1)
            for i in range(batch):
                attended[i, row, inner] = attend(query[i, row, inner], windows(keys[i]), windows(values[i]))
    return attended


def _windows(states: Tensor, columns: int) -> Tensor:
    """Every window of so many columns of `(w, S, heads, d)`, `(windows, columns * S, heads, d)`: a view."""
    windows = states.unfold(0, columns, 1).permute(0, 4, 1, 2, 3)  # [windows, columns, S, heads, d]
    return windows.view(len(windows), -1, *states.shape[2:])


def _rim_spans(width: int, radius: int) -> list[tuple[slice, slice]]:
    """Columns of queries whose windows the map's rim cuts off, and the columns that these reach.

    In narrow maps, where few windows are whole, one call for all of a row is faster than several: that is one span (by
    measuring maps of 8 and 12).
    """
    if width <= 3 * radius + 2:
        return [(slice(0, width), slice(0, width))]
    reach = 2 * radius
    return [
        (slice(0, radius), slice(0, reach)),
        (slice(width - radius, width), slice(width - reach, width)),
    ]


def _rim_mask(positions: slice, reach: slice, radius: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """`(1, 1, positions * queries, reach * keys)` bool: whether a key's column lies in the window of a query's."""
    of_queries = torch.arange(positions.start, positions.stop, device=device).repeat_interleave(queries)
    of_keys = torch.arange(reach.start, reach.stop, device=device).repeat_interleave(keys)
    return ((of_queries[:, None] - of_keys).abs() <= radius)[None, None]
