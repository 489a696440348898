"""Procedural textures: a mix of two colours as a function of a point on a surface."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MVCustomError

PATTERNS = ("plain", "stripes", "checks", "dots", "noise", "bricks")

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """What a surface looks like.

    Args:
        color (`tuple`): RGB in [0, 1].
        second_color (`tuple`, *optional*): What the pattern mixes in; by default `color`.
        pattern (`str`, *optional*, defaults to `"plain"`): One of `PATTERNS`.
        period (`float`, *optional*, defaults to 0.1): Length of one repeat, in world units.
        offset (`tuple`, *optional*): Where the pattern begins, in periods, along the solid's axes.
        shows (`str`, *optional*): The attribute of the subject that is seen here, `"pattern"` or `"second_color"`.
    """

    color: Color
    second_color: Color | None = None
    pattern: str = "plain"
    period: float = 0.1
    offset: Color = (0.0, 0.0, 0.0)
    shows: str | None = None

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise MVCustomError(f"pattern: expected one of {PATTERNS}, got {self.pattern!r}.")
        if not self.period > 0:
            raise MVCustomError(f"period: expected a length above 0, got {self.period!r}.")


def texture_colors(
    points: Tensor,  # [R, 3]
    which: Tensor,  # [R]
    textures: list[Texture],
) -> Tensor:
    """Colours at points given in the axes of their solids, in world units.

    Args:
        points (`torch.Tensor` of shape `(R, 3)`): Points relative to the solid's centre, not stretched.
        which (`torch.Tensor` of shape `(R,)`, int64): Index into `textures`.
        textures (`list[Texture]`): One per solid.

    Returns:
        `torch.Tensor` of shape `(R, 3)`: RGB in [0, 1].

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.toy.textures import Texture, texture_colors
        >>> white_and_black = Texture((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "stripes", period=1.0)
        >>> points = torch.tensor([[0.0, 0.25, 0.0], [0.0, 0.75, 0.0]])
        >>> texture_colors(points, torch.tensor([0, 0]), [white_and_black])[:, 0].tolist()
        [1.0, 0.0]
    """
    table = points.new_tensor(
        [
            [*texture.color, *(texture.second_color or texture.color), 1 / texture.period, *texture.offset]
            for texture in textures
        ]
    )[which]
    patterns = torch.tensor([PATTERNS.index(texture.pattern) for texture in textures], device=points.device)[which]
    colors = table[:, :3].clone()
    for index in range(1, len(PATTERNS)):
        chosen = (patterns == index).nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        row = table[chosen]
        share = _SHARES[PATTERNS[index]](points[chosen] * row[:, 6:7] + row[:, 7:10])[:, None]
        colors[chosen] = row[:, :3] * (1 - share) + row[:, 3:6] * share
    return colors


def value_noise(
    points: Tensor,  # [R, D], D = 2 or 3
    seed: int = 0,
) -> Tensor:
    """Smooth noise in [0, 1]: random values on the integer lattice, interpolated. The same on every device.

    Returns:
        `torch.Tensor` of shape `(R,)`.
    """
    base = points.floor()
    share = points - base
    share = share * share * (3 - 2 * share)
    cell = base.to(torch.int64)
    total = torch.zeros_like(points[:, 0])
    for corner in range(2 ** points.shape[1]):
        bits = [(corner >> axis) & 1 for axis in range(points.shape[1])]
        weight = math.prod(share[:, axis] if bit else 1 - share[:, axis] for axis, bit in enumerate(bits))
        total = total + weight * _lattice_value(cell + cell.new_tensor(bits), seed).to(points.dtype)
    return total


_PRIMES = (73856093, 19349663, 83492791)


def _lattice_value(cell: Tensor, seed: int) -> Tensor:
    """A number in [0, 1) per integer cell, by mixing bits."""
    terms = (cell[:, axis] * _PRIMES[axis] for axis in range(cell.shape[1]))
    mixed = sum(terms, torch.zeros_like(cell[:, 0])) + seed * 2654435761
    mixed = mixed & 0xFFFFFFFF
    for _ in range(2):
        mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    mixed = mixed ^ (mixed >> 16)
    return (mixed & 0xFFFF).float() / 65536


def _stripes(p: Tensor) -> Tensor:
    return (p[:, 1].remainder(1) >= 0.5).to(p.dtype)


def _checks(p: Tensor) -> Tensor:
    # Shifted off the lattice, so that a face through the solid's middle does not lie on a boundary of cells.
    return ((2 * p + 0.137).floor().sum(dim=-1).remainder(2) >= 1).to(p.dtype)


def _dots(p: Tensor) -> Tensor:
    return ((p.remainder(1) - 0.5).square().sum(dim=-1) < 0.16).to(p.dtype)


def _noise(p: Tensor) -> Tensor:
    return value_noise(p)


def _bricks(p: Tensor) -> Tensor:
    """1 in the joints: flat courses along y, shifted by half a brick in every other one."""
    course = (2 * p[:, 1]).floor()
    along = p[:, 0] + p[:, 2] + course.remainder(2) * 0.5
    joint = ((2 * p[:, 1]).remainder(1) < 0.22) | (along.remainder(1) < 0.13)
    return joint.to(p.dtype)


_SHARES = {"stripes": _stripes, "checks": _checks, "dots": _dots, "noise": _noise, "bricks": _bricks}
