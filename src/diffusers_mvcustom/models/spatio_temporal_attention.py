"""Dense spatio-temporal attention: a stateless attention processor for the motion modules of a stock U-Net."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from .flex_windows import flex_windowed_attention
from .row_windows import row_windowed_attention

TILE_ON_CPU = 4
"""Side of the query tiles of windowed attention, in positions: the fastest of 2, 4, 6, 8, 16 for windows 3 and 7 on a CPU."""
TILE = 8
"""The same elsewhere, where calls cost more than what they compute: with tiles of 4 and an eighth of the map's elements at
a time, a window of 7 took 16.9 ms on an H200 where the whole map took 4.5 (64 × 64 positions, 8 frames)."""
_ROWS_PAY_FROM = 32
"""Bytes of one channel of a position's queries (frames times the size of a number) from which on windows go row by row on a
CPU. Measured for windows 3 and 7 of maps 8 to 64: as fast as tiles to 2.9 times as fast from 8 frames in float32 and 16 in
half precision on, slower below, and slower with gradients."""
_GATHERED_ON_CPU = 2**18
"""Key elements gathered at a time on a CPU: what stays in its cache is also fastest (2^18 to 2^23 measured). Elsewhere few
large calls are faster: as many as the map itself has."""


class SpatioTemporalAttnProcessor(AttnProcessor2_0):
    """Lets a motion module's attention reach other positions of all frames, with AnimateDiff's own weights.

    The motion module hands over one sequence of frames per position, `(batch * height * width, frames, channels)`, its
    temporal position embedding added. Told the map's size and a window, this processor regroups the sequences; without
    them it is the stock processor. It holds nothing: the window lives on the motion module.

    Source: dense spatio-temporal attention of MVCustom (arXiv 2510.13702); `temporal_heads` is ours.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,  # [B * h * w, F, C]
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        spatial_size: tuple[int, int] | None = None,
        spatial_window: int | None = 1,
        temporal_heads: int = 0,
    ) -> Tensor:
        """Attention in the windows, in the form of diffusers' processors; the first `temporal_heads` along time alone."""
        if spatial_size is None or spatial_window == 1:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if encoder_hidden_states is not None or attention_mask is not None or attn.group_norm or attn.spatial_norm:
            raise NotImplementedError("Dense spatio-temporal attention is for the self-attention of motion modules.")
        height, width = spatial_size
        frames = hidden_states.shape[1]
        tokens = hidden_states.unflatten(0, (-1, height, width))  # [B, h, w, F, C]
        query, key, value = (
            projection(tokens).unflatten(-1, (attn.heads, -1)) for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        def attend(heads: slice, window: int | None) -> Tensor:
            q, k, v = (states[..., heads, :] for states in (query, key, value))
            backend, parallel_config = self._attention_backend, self._parallel_config
            return windowed_attention(q, k, v, window, backend=backend, parallel_config=parallel_config)

        attended = attend(slice(temporal_heads, None), spatial_window)
        if temporal_heads:
            attended = torch.cat([attend(slice(temporal_heads), 1), attended], dim=-2)
        attended = attended.to(query.dtype).reshape(hidden_states.shape[0], frames, -1)
        attended = attn.to_out[1](attn.to_out[0](attended))
        if attn.residual_connection:
            attended = attended + hidden_states
        return attended / attn.rescale_output_factor


def windowed_attention(
    query: Tensor,  # [B, h, w, F, heads, d]
    key: Tensor,  # [B, h, w, F, heads, d]
    value: Tensor,  # [B, h, w, F, heads, d]
    window: int | None,
    *,
    tile: int | None = None,
    backend: Any = None,
    parallel_config: Any = None,
) -> Tensor:
    """Attention of each token to all frames' tokens at most `window // 2` rows and columns away.

    The window slides; at the map's border it is cut off. Queries go by tiles: a tile's keys are those of the tile and a
    halo of `window // 2`, moved inside the map at the border, so that every key is a real one, and a mask that tiles of
    the same place share cuts each query's window out of them. Neither time nor memory grows with the square of the map.
    Where it is faster, on a CPU, they go row by row instead ([`row_windowed_attention`]); the backend "flex" does all
    windows in one kernel ([`flex_windowed_attention`]).

    Args:
        query, key, value (`torch.Tensor` of shape `(B, h, w, F, heads, d)`): Tokens by position and frame.
        window (`int`, *optional*): Odd number of positions; `None` is the whole map.
        tile (`int`, *optional*): Side of the query tiles, in positions; by default what is fast on the device, be it rows.
        backend, parallel_config: For `dispatch_attention_fn` of diffusers.

    Returns:
        `torch.Tensor` of shape `(B, h, w, F, heads, d)`.
    """
    batch, height, width, frames, heads, dim = query.shape
    dispatch = {"dropout_p": 0.0, "is_causal": False, "backend": backend, "parallel_config": parallel_config}
    radius = max(height, width) if window is None else window // 2
    if radius >= max(height, width) - 1:  # every window holds the whole map
        if backend == AttentionBackendName.FLEX:  # which is for windows
            dispatch["backend"] = AttentionBackendName.NATIVE
        flat = (states.flatten(1, 3) for states in (query, key, value))
        return dispatch_attention_fn(*flat, **dispatch).unflatten(1, (height, width, frames))
    if radius == 0:  # along time, as AnimateDiff does it
        if backend == AttentionBackendName.FLEX:
            dispatch["backend"] = AttentionBackendName.NATIVE
        sequences = (states.flatten(0, 2) for states in (query, key, value))
        return dispatch_attention_fn(*sequences, **dispatch).unflatten(0, (batch, height, width))

    if backend == AttentionBackendName.FLEX:
        return flex_windowed_attention(query, key, value, radius)
    if tile is None:
        if parallel_config is None and _rows_pay(query, key, value):
            return row_windowed_attention(query, key, value, radius, partial(dispatch_attention_fn, **dispatch))
        tile = TILE_ON_CPU if query.device.type == "cpu" else TILE
    attended = torch.empty_like(query).flatten(1, 2)  # [B, h * w, F, heads, d]
    for group in _tile_groups(height, width, radius, tile):
        mask = group.mask(radius, query.device)
        mask = mask[:, None, :, None].expand(-1, frames, -1, frames).flatten(2, 3).flatten(0, 1)[None, None]
        per_tile = batch * mask.shape[-1] * heads * dim
        for tiles in group.split(max(1, _gathered_elements(query) // per_tile)):
            queries, keys = tiles.indices(width, query.device)
            states = dispatch_attention_fn(
                _gather(query, queries), _gather(key, keys), _gather(value, keys), attn_mask=mask, **dispatch
            )
            attended[:, queries.flatten()] = states.reshape(batch, -1, frames, heads, dim)
    return attended.unflatten(1, (height, width))


@dataclass(frozen=True)
class _Tiles:
    """Query tiles of one size that lie alike within their key regions (so they share a mask)."""

    rows: list[int]  # first row of each tile
    columns: list[int]
    size: tuple[int, int]  # of the tile
    region: tuple[int, int]  # size of its keys
    offset: tuple[int, int]  # of the tile within them

    def split(self, count: int) -> Iterator[_Tiles]:
        """At most `count` tiles at a time."""
        for i in range(0, len(self.rows), count):
            yield _Tiles(self.rows[i : i + count], self.columns[i : i + count], self.size, self.region, self.offset)

    def indices(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Flattened positions of the queries, `(tiles, queries)`, and of their keys, `(tiles, keys)`."""
        first = torch.tensor([row * width + column for row, column in zip(self.rows, self.columns)], device=device)

        def positions(size: tuple[int, int], first: Tensor) -> Tensor:
            y, x = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
            return first[:, None] + (y[:, None] * width + x).flatten()

        return positions(self.size, first), positions(self.region, first - (self.offset[0] * width + self.offset[1]))

    def mask(self, radius: int, device: torch.device) -> Tensor:
        """`(queries, keys)` bool: whether a key lies in a query's window."""
        near = [
            ((torch.arange(size, device=device) + offset)[:, None] - torch.arange(region, device=device)).abs()
            <= radius
            for size, region, offset in zip(self.size, self.region, self.offset)
        ]
        return (near[0][:, None, :, None] & near[1][None, :, None, :]).flatten(2, 3).flatten(0, 1)


def _tile_groups(height: int, width: int, radius: int, tile: int) -> list[_Tiles]:
    """Tiles that cover the map once, grouped by size and place."""
    groups: dict[tuple, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row, size_y, region_y, offset_y in _tile_spans(height, radius, tile):
        for column, size_x, region_x, offset_x in _tile_spans(width, radius, tile):
            rows, columns = groups[(size_y, size_x), (region_y, region_x), (offset_y, offset_x)]
            rows.append(row)
            columns.append(column)
    return [_Tiles(rows, columns, *alike) for alike, (rows, columns) in groups.items()]


def _tile_spans(length: int, radius: int, tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Along one axis: a tile's start, its size, the size of its key region, and its offset in that."""
    for start in range(0, length, tile):
        size = min(tile, length - start)
        region = min(length, size + 2 * radius)
        first = min(max(start - radius, 0), length - region)
        yield start, size, region, start - first


def _rows_pay(*states: Tensor) -> bool:
    """Whether windows are faster row by row than by tiles."""
    query = states[0]
    if query.device.type != "cpu" or (torch.is_grad_enabled() and any(state.requires_grad for state in states)):
        return False
    return query.shape[3] * query.element_size() >= _ROWS_PAY_FROM


def _gathered_elements(query: Tensor) -> int:
    """Key elements to gather at a time: bounds the memory of windowed attention at any map size."""
    if query.device.type == "cpu":
        return _GATHERED_ON_CPU
    return query.numel()


def _gather(states: Tensor, positions: Tensor) -> Tensor:
    """`(B, h, w, F, heads, d)` at `(tiles, P)` positions, as `(B * tiles, P * F, heads, d)`."""
    gathered = states.flatten(1, 2)[:, positions]  # [B, tiles, P, F, heads, d]
    return gathered.flatten(2, 3).flatten(0, 1)
