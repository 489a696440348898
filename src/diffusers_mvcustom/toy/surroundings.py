"""Ground, light and other objects around a subject."""

from __future__ import annotations

import math
from collections.abc import Callable

from .attributes import Chooser, mixed
from .scene import Ground, Light, Part, Placement, Thing
from .textures import Color, Texture

_GROUNDS: dict[str, tuple[Color, Color]] = {
    "sand": ((0.86, 0.74, 0.48), (0.70, 0.56, 0.32)),
    "grass": ((0.33, 0.58, 0.18), (0.16, 0.38, 0.10)),
    "snow": ((0.95, 0.96, 0.98), (0.76, 0.82, 0.92)),
    "cobblestones": ((0.62, 0.60, 0.58), (0.36, 0.34, 0.34)),
    "planks": ((0.66, 0.42, 0.22), (0.38, 0.21, 0.09)),
    "asphalt": ((0.27, 0.27, 0.29), (0.88, 0.86, 0.74)),
}

NEAR_RING = (0.46, 0.68)
"""Distances from the origin at which small objects stand; cameras stay outside of it."""

FAR_RING = (1.7, 3.2)
"""Distances at which large objects stand; cameras stay inside of it."""


def build_ground(kind: str, height: float, choose: Chooser) -> Ground:
    """The plane `y = height`, its pattern moved and turned at random.

    Args:
        kind (`str`): One of `attributes.GROUNDS`.
        height (`float`): Where the subject stands.
        choose ([`Chooser`]): Source of randomness.
    """
    color, second = (
        mixed(c, (choose.uniform(0, 1), choose.uniform(0, 1), choose.uniform(0, 1)), 0.06) for c in _GROUNDS[kind]
    )
    offset = (choose.uniform(-50, 50), choose.uniform(-50, 50))
    return Ground(height, kind, color, second, offset, choose.uniform(0, 180))


def build_light(time: str, choose: Chooser) -> Light:
    """Sun and sky at a time of day, one of `attributes.TIMES`."""
    azimuth = math.radians(choose.uniform(0, 360))
    low, high = {"noon": (48, 70), "dusk": (18, 30), "night": (35, 60)}[time]
    elevation = math.radians(choose.uniform(low, high))
    direction = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        math.cos(elevation) * math.cos(azimuth),
    )
    if time == "noon":
        return Light(
            direction, (0.72, 0.70, 0.64), (0.46, 0.48, 0.52), (0.22, 0.46, 0.90), (0.74, 0.86, 0.97),
            choose.uniform(0.0, 0.9),
        )  # fmt: skip
    if time == "dusk":
        return Light(
            direction, (0.92, 0.50, 0.22), (0.42, 0.32, 0.40), (0.30, 0.20, 0.48), (0.99, 0.52, 0.24),
            choose.uniform(0.0, 0.8),
        )  # fmt: skip
    return Light(
        direction, (0.46, 0.52, 0.68), (0.42, 0.44, 0.56), (0.02, 0.03, 0.12), (0.10, 0.13, 0.30),
        choose.uniform(0.0, 0.3),
    )  # fmt: skip


def build_objects(kind: str, count: int, ground_height: float, choose: Chooser) -> list[Thing]:
    """`count` objects of one kind, small ones near and large ones far, apart from each other in azimuth.

    Args:
        kind (`str`): One of `attributes.OBJECTS`.
        count (`int`): How many.
        ground_height (`float`): Where they stand.
        choose ([`Chooser`]): Source of randomness.
    """
    things = []
    start = choose.uniform(0, 360)
    for index in range(count):
        near = choose.chance(0.5)
        distance = choose.uniform(*(NEAR_RING if near else FAR_RING))
        azimuth = math.radians(start + 360 / count * (index + choose.uniform(-0.25, 0.25)))
        scale = choose.uniform(0.10, 0.15) if near else choose.uniform(0.35, 0.6)
        position = (distance * math.sin(azimuth), ground_height, distance * math.cos(azimuth))
        things.append(Thing(_BUILDERS[kind](choose), Placement(position, choose.uniform(0, 360), scale)))
    return things


# Objects stand on y = 0, about 2 high and up to 1 to either side, before they are scaled.


def _tree(choose: Chooser) -> list[Part]:
    leaves = Texture((0.12, 0.42, 0.14), (0.30, 0.58, 0.16), "noise", 0.5)
    trunk = Texture((0.40, 0.25, 0.12), (0.28, 0.16, 0.07), "stripes", 0.3)
    height = choose.uniform(0.35, 0.55)
    parts = [Part("cylinder", (0, height, 0), (0.15, height, 0.15), trunk)]
    if choose.chance(0.5):
        for i, (size, tall) in enumerate(((0.7, 0.5), (0.52, 0.45), (0.34, 0.4))):
            parts.append(Part("cone", (0, 2 * height + 0.25 + 0.5 * i, 0), (size, tall, size), leaves))
    else:
        parts.append(Part("sphere", (0, 2 * height + 0.5, 0), (0.7, 0.65, 0.7), leaves))
        parts.append(Part("sphere", (0.35, 2 * height + 0.2, 0.2), (0.4, 0.4, 0.4), leaves))
    return parts


def _rock(choose: Chooser) -> list[Part]:
    stone = Texture((0.52, 0.50, 0.48), (0.30, 0.29, 0.29), "noise", 0.35, (choose.uniform(0, 9), 0.0, 0.0))
    turns = [(choose.uniform(-30, 30), choose.uniform(0, 90), choose.uniform(-30, 30)) for _ in range(3)]
    return [
        Part("sphere", (0, 0.35, 0), (0.85, choose.uniform(0.5, 0.7), 0.65), stone),
        Part("box", (0.2, 0.4, 0.1), (0.45, 0.45, 0.45), stone, turns[0]),
        Part("box", (-0.35, 0.25, -0.2), (0.4, 0.35, 0.45), stone, turns[1]),
        Part("sphere", (0.65, 0.15, 0.5), (0.3, 0.25, 0.3), stone, turns[2]),
    ]


def _barrel(choose: Chooser) -> list[Part]:
    wood = Texture((0.60, 0.36, 0.16), (0.42, 0.24, 0.10), "checks", 0.35)
    hoop = Texture((0.25, 0.26, 0.28))
    half = choose.uniform(0.7, 0.9)
    parts = [Part("cylinder", (0, half, 0), (0.55, half, 0.55), wood)]
    for y in (0.25, 1.0, 1.75):
        parts.append(Part("cylinder", (0, half * y, 0), (0.59, 0.09, 0.59), hoop))
    return parts


def _crate(choose: Chooser) -> list[Part]:
    wood = Texture((0.80, 0.62, 0.36), (0.60, 0.43, 0.22), "stripes", 0.28)
    edge = Texture((0.48, 0.32, 0.15))
    half = choose.uniform(0.55, 0.7)
    parts = [Part("box", (0, half, 0), (half, half, half), wood)]
    for x in (-1, 1):
        for z in (-1, 1):
            parts.append(Part("box", (x * half, half, z * half), (0.09, half * 1.04, 0.09), edge))
    parts.append(Part("box", (0, half * 2, 0), (half * 0.3, 0.06, half * 0.3), edge))
    return parts


def _tower(choose: Chooser) -> list[Part]:
    stone = Texture((0.70, 0.66, 0.60), (0.48, 0.44, 0.40), "bricks", 0.42)
    roof = Texture((0.30, 0.34, 0.46), (0.22, 0.25, 0.34), "stripes", 0.2)
    half = choose.uniform(0.8, 1.1)
    return [
        Part("cylinder", (0, half, 0), (0.42, half, 0.42), stone),
        Part("cylinder", (0, 2 * half, 0), (0.52, 0.12, 0.52), stone),
        Part("cone", (0, 2 * half + 0.5, 0), (0.55, 0.42, 0.55), roof),
        Part("box", (0, 0.22, 0.38), (0.14, 0.22, 0.08), Texture((0.22, 0.12, 0.06))),
        Part("box", (0, half * 1.4, 0.38), (0.08, 0.14, 0.08), Texture((0.05, 0.05, 0.06))),
    ]


def _mushroom(choose: Chooser) -> list[Part]:
    cap = Texture((0.78, 0.10, 0.08), (0.98, 0.95, 0.90), "dots", 0.48, (choose.uniform(0, 1), 0.3, 0.0))
    stem = Texture((0.95, 0.91, 0.80))
    half = choose.uniform(0.4, 0.6)
    return [
        Part("cylinder", (0, half, 0), (0.22, half, 0.22), stem),
        Part("sphere", (0, 2 * half + 0.05, 0), (0.75, 0.45, 0.75), cap),
        Part("cylinder", (0, 2 * half - 0.28, 0), (0.55, 0.08, 0.55), stem),
    ]


_BUILDERS: dict[str, Callable[[Chooser], list[Part]]] = {
    "tree": _tree,
    "rock": _rock,
    "barrel": _barrel,
    "crate": _crate,
    "tower": _tower,
    "mushroom": _mushroom,
}
