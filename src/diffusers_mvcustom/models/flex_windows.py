"""Windowed attention by one fused kernel, PyTorch's FlexAttention: chosen by `unet.set_attention_backend("flex")`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
"""Tokens of a block, of which the kernel computes all pairs or none."""
_TILE = 8
"""Side of the tiles in whose order tokens are, so that a block's tokens are neighbours and few blocks meet."""


def flex_windowed_attention(
    query: Tensor,  # [B, h, w, F, heads, d]
    key: Tensor,  # [B, h, w, F, heads, d]
    value: Tensor,  # [B, h, w, F, heads, d]
    radius: int,
) -> Tensor:
    """Attention of each token to all frames' tokens at most `radius` rows and columns away, in one kernel.

    Which blocks of tokens meet is computed from the blocks' extents; no mask of all pairs is ever made. FlexAttention has
    to be compiled to be fast, which the first call of each shape pays for. On a CPU it has no gradients.

    Args:
        query, key, value (`torch.Tensor` of shape `(B, h, w, F, heads, d)`): Tokens by position and frame.
        radius (`int`): Half a window, in positions.

    Returns:
        `torch.Tensor` of shape `(B, h, w, F, heads, d)`.
    """
    height, width, frames, dim = (query.shape[i] for i in (1, 2, 3, 5))
    if torch.compiler.is_compiling():  # then this is part of what is compiled
        attention, plan = _flex_attention(), _plan
    else:
        attention, plan = _compiled_flex_attention(), _kept_plan
    order, mask = plan(height, width, frames, radius, query.device)
    padding = (1 << (dim - 1).bit_length()) - dim  # PyTorch before 2.7 takes powers of two alone

    def tokens(states: Tensor) -> Tensor:  # [B, heads, h * w * F, d], a power of two
        in_order = states.flatten(1, 2)[:, order].flatten(1, 2).transpose(1, 2)
        return F.pad(in_order, (0, padding)) if padding else in_order

    attended = attention(tokens(query), tokens(key), tokens(value), block_mask=mask, scale=dim**-0.5)
    attended = attended[..., :dim].transpose(1, 2).unflatten(1, (-1, frames))  # [B, h * w, F, heads, d]
    result = torch.empty_like(attended)
    result[:, order] = attended
    return result.unflatten(1, (height, width))


def _flex_attention() -> Callable[..., Any]:
    """Imported here: it brings the compiler along, which takes a second."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    """Compiled once a process."""
    return torch.compile(_flex_attention(), dynamic=False)


def _plan(height: int, width: int, frames: int, radius: int, device: torch.device) -> tuple[Tensor, Any]:
    """The order of the positions, `(h * w,)`, and the `BlockMask` of their tokens in it."""
    order = _tiled_order(height, width, device)
    return order, _block_mask(torch.div(order, width, rounding_mode="floor"), order % width, frames, radius)


@lru_cache(maxsize=16)
def _kept_plan(height: int, width: int, frames: int, radius: int, device: torch.device) -> tuple[Tensor, Any]:
    """The same, computed once for all steps and layers of a size: a few small tensors."""
    with torch.inference_mode(False):  # so that a training can use what a generation computed
        return _plan(height, width, frames, radius, device)


def _tiled_order(height: int, width: int, device: torch.device) -> Tensor:
    """Flattened positions, tile after tile, and rows of a tile one after the other."""
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    tile = torch.div(y, _TILE, rounding_mode="floor") * width + torch.div(x, _TILE, rounding_mode="floor")
    return torch.argsort((tile * _TILE**2 + y % _TILE * _TILE + x % _TILE).flatten())


def _block_mask(rows: Tensor, columns: Tensor, frames: int, radius: int) -> Any:
    """The `BlockMask` of positions `(N,)`, each with `frames` tokens: blocks that meet not at all, in part, or wholly."""
    from torch.nn.attention.flex_attention import BlockMask

    length = rows.shape[0] * frames
    count = -(-length // BLOCK)
    in_blocks = torch.arange(count * BLOCK, device=rows.device).clamp(max=length - 1).view(count, BLOCK) // frames
    nearest = rows.new_zeros(count, count)
    farthest = rows.new_zeros(count, count)
    for axis in (rows, columns):
        low, high = axis[in_blocks].amin(1), axis[in_blocks].amax(1)
        gap = torch.maximum(low[:, None] - high, low - high[:, None]).clamp(min=0)
        nearest = torch.maximum(nearest, gap)
        farthest = torch.maximum(farthest, torch.maximum(high[:, None] - low, high - low[:, None]))
    whole = farthest <= radius
    partial = (nearest <= radius) & ~whole

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near_rows = (rows[query // frames] - rows[key // frames]).abs() <= radius
        return near_rows & ((columns[query // frames] - columns[key // frames]).abs() <= radius)

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=in_window, seq_lengths=(length, length)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of `(n, n)` bool: how many key blocks each query block has, `(1, 1, n)`, and which, `(1, 1, n, n)`, these first."""
    which = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], which.int()[None, None].contiguous()
