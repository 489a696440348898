"""Windowed spatio-temporal attention as one full attention with an explicit mask, built token by token."""

import math

import torch


def masked_attention(query, key, value, window):
    """Tokens `(B, h, w, F, heads, d)`; the definition, in plain sums."""
    batch, height, width, frames, heads, dim = query.shape
    tokens = [(y, x, f) for y in range(height) for x in range(width) for f in range(frames)]
    radius = math.inf if window is None else window // 2
    allowed = torch.tensor(
        [[abs(y - v) <= radius and abs(x - u) <= radius for v, u, _ in tokens] for y, x, _ in tokens]
    )
    q, k, v = (states.reshape(batch, len(tokens), heads, dim) for states in (query, key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(dim)
    weights = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(query.shape)
