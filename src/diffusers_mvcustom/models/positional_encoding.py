"""Sines and cosines of coordinates, so that a linear layer can tell nearby places apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def positional_encoding(values: Tensor, num_frequencies: int, octaves: float) -> Tensor:
    """The values themselves, then their sines, then their cosines.

    The angular frequencies are `π · 2^e`, with `num_frequencies` exponents e spaced evenly from 0 to `octaves`. Ordered
    as (values, sines, cosines); within the sines and the cosines, a coordinate's frequencies lie side by side.

    Args:
        values (`torch.Tensor` of shape `(..., D)`): Coordinates, float32 or better: the highest frequency multiplies
            their rounding error.
        num_frequencies (`int`): K, may be 0.
        octaves (`float`): Exponent of the highest frequency.

    Returns:
        `torch.Tensor` of shape `(..., D * (1 + 2 * K))`, see [`encoding_size`].

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.positional_encoding import positional_encoding
        >>> positional_encoding(torch.tensor([0.5]), 2, 1.0).round(decimals=4).abs().tolist()
        [0.5, 1.0, 0.0, 0.0, 1.0]
    """
    exponents = torch.linspace(0.0, octaves, num_frequencies, device=values.device, dtype=values.dtype)
    angles = (values[..., None] * (math.pi * exponents.exp2())).flatten(-2)
    return torch.cat([values, angles.sin(), angles.cos()], dim=-1)


def encoding_size(dimensions: int, num_frequencies: int) -> int:
    """Length of the [`positional_encoding`] of a vector with so many dimensions."""
    return dimensions * (1 + 2 * num_frequencies)
