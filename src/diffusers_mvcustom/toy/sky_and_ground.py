"""How the ground and the sky look, as functions of a point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .scene import Ground, Light
from .textures import value_noise


def ground_colors(
    points: Tensor,  # [R, 3]
    distance: Tensor,  # [R]
    ground: Ground,
) -> Tensor:
    """Colours `(R, 3)` of points on the ground. The pattern fades with `distance`, as it would alias."""
    c, s = math.cos(math.radians(ground.degrees)), math.sin(math.radians(ground.degrees))
    x, z = points[:, 0], points[:, 2]
    p = torch.stack([c * x + s * z, c * z - s * x], dim=-1) + points.new_tensor(ground.offset)
    share, mean = _PATTERNS[ground.kind](p)
    patches = value_noise(p * 1.6, 7) - 0.5  # large and soft: what is left far away
    fade = torch.exp(-((distance / 4.5) ** 2))
    share = mean + (share - mean) * fade
    colors = (
        points.new_tensor(ground.color) * (1 - share[:, None])
        + points.new_tensor(ground.second_color) * share[:, None]
    )
    return colors * (1 + 0.35 * patches * (0.3 + 0.7 * fade))[:, None]


def sky_colors(
    directions: Tensor,  # [R, 3], unit
    light: Light,
    ground: Ground,
    seed: int,
) -> Tensor:
    """Colours `(R, 3)` of the sky in a direction: a gradient, clouds or stars, and hills at the horizon."""
    up = directions[:, 1].clamp(-1, 1)
    share = (up.clamp(min=0) / 0.7).sqrt().clamp(max=1)[:, None]
    zenith, horizon = directions.new_tensor(light.zenith), directions.new_tensor(light.horizon)
    colors = horizon * (1 - share) + zenith * share
    around = directions / directions[:, ::2].norm(dim=-1, keepdim=True).clamp(min=1e-4)
    cloud = value_noise(directions * directions.new_tensor([5.0, 14.0, 5.0]), seed)
    cloud = cloud * 0.7 + 0.3 * value_noise(directions * directions.new_tensor([12.0, 30.0, 12.0]), seed + 1)
    cloud = ((cloud - 0.5) * 4).clamp(0, 1) * light.clouds * (up > 0)
    white = 0.55 * horizon + 0.45 * max(light.sun)
    colors = colors * (1 - cloud[:, None]) + white * cloud[:, None]
    if max(light.zenith) < 0.15:  # night
        star = ((value_noise(directions * 28.0, seed + 2) - 0.86) * 14).clamp(0, 1)
        colors = colors + star[:, None] * 0.8
    # Hills: their height depends on the azimuth alone.
    rise = value_noise(around[:, ::2] * 2.2, seed + 3) * 0.7 + value_noise(around[:, ::2] * 7.0, seed + 4) * 0.3
    hills = up < 0.02 + 0.16 * (rise - 0.35).clamp(min=0)
    shade = directions.new_tensor(light.ambient) * 1.1
    hill = 0.5 * horizon + 0.5 * shade * directions.new_tensor(ground.color)
    hill = hill * (0.75 + 0.3 * value_noise(directions * 22.0, seed + 5))[:, None]
    return torch.where(hills[:, None], hill, colors)


def _sand(p: Tensor) -> tuple[Tensor, float]:
    ripples = 0.5 + 0.5 * torch.sin(p[:, 1] * 38 + 5 * value_noise(p * 3.0, 1))
    return 0.45 * ripples + 0.55 * value_noise(p * 9.0, 2), 0.5


def _grass(p: Tensor) -> tuple[Tensor, float]:
    return 0.5 * value_noise(p * 16.0, 3) + 0.5 * value_noise(p * 5.0, 4), 0.5


def _snow(p: Tensor) -> tuple[Tensor, float]:
    return ((value_noise(p * 4.5, 5) * 0.7 + value_noise(p * 13.0, 6) * 0.3) * 2 - 0.5).clamp(0, 1), 0.5


def _cobblestones(p: Tensor) -> tuple[Tensor, float]:
    q = p * 6.5
    row = q[:, 1].floor()
    q = torch.stack([q[:, 0] + 0.5 * row.remainder(2), q[:, 1]], dim=-1)
    edge = (q.remainder(1) - 0.5).abs().amax(dim=-1)
    tone = value_noise(q.floor() + 0.5, 8)
    return torch.where(edge > 0.42, 1.0, 0.6 * tone), 0.45


def _planks(p: Tensor) -> tuple[Tensor, float]:
    row = (p[:, 1] * 5.0).floor()
    joint = (p[:, 1] * 5.0).remainder(1) < 0.12
    along = p[:, 0] * 0.9 + 0.37 * row
    joint = joint | (along.remainder(1) < 0.04)
    tone = value_noise(torch.stack([along.floor() + 0.5, row + 0.5], dim=-1), 9)
    return torch.where(joint, 1.0, 0.6 * tone), 0.4


def _asphalt(p: Tensor) -> tuple[Tensor, float]:
    # A dashed line every so often, on grainy grey.
    line = ((p[:, 1] * 1.0).remainder(1) < 0.09) & ((p[:, 0] * 1.6).remainder(1) < 0.6)
    return torch.where(line, 1.0, 0.16 * value_noise(p * 14.0, 10)), 0.12


_PATTERNS = {
    "sand": _sand,
    "grass": _grass,
    "snow": _snow,
    "cobblestones": _cobblestones,
    "planks": _planks,
    "asphalt": _asphalt,
}
