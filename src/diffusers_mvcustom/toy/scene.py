"""A scene of the toy world: solids with textures on a ground under a sky."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import MVCustomError
from .attributes import SceneAttributes
from .ray_casting import SHAPES, Solids
from .textures import Color, Texture

Vector = tuple[float, float, float]

FIELD_OF_VIEW = 40.0
"""Degrees: through this lens a subject at distance 1 fills about half of a view, as in people's photos of a thing."""

SKY, GROUND, SUBJECT, FIRST_OBJECT = 0, 1, 2, 3
"""Indices in a view's index map; the other objects follow from `FIRST_OBJECT` on."""


@dataclass(frozen=True)
class Part:
    """One textured solid.

    Args:
        shape (`str`): One of `ray_casting.SHAPES`.
        center (`tuple`): In the coordinates of the thing it belongs to.
        half_extent (`tuple`): Half of its size along its own axes.
        texture ([`Texture`]): What it looks like.
        turn (`tuple`, *optional*): Degrees about x, then y, then z.
    """

    shape: str
    center: Vector
    half_extent: Vector
    texture: Texture
    turn: Vector = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise MVCustomError(f"shape: expected one of {SHAPES}, got {self.shape!r}.")


@dataclass(frozen=True)
class Placement:
    """Where a thing stands: scaled, turned about +Y by `degrees`, then moved to `position`."""

    position: Vector = (0.0, 0.0, 0.0)
    degrees: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Thing:
    """Parts that belong together, with their place in the world."""

    parts: Sequence[Part]
    placement: Placement = Placement()

    def solids(self) -> Solids:
        """The parts as solids in the world, float32."""
        parts, place = self.parts, self.placement
        turn = rotation((0.0, place.degrees, 0.0))
        centers = torch.tensor([part.center for part in parts], dtype=torch.float32).reshape(-1, 3) * place.scale
        return Solids(
            torch.tensor([SHAPES.index(part.shape) for part in parts], dtype=torch.int64),
            (centers[:, None, :] * turn).sum(-1) + torch.tensor(place.position),
            torch.stack([turn @ rotation(part.turn) for part in parts]),
            torch.tensor([part.half_extent for part in parts], dtype=torch.float32) * place.scale,
        )

    def textures(self) -> list[Texture]:
        """One texture a part, its period scaled with the thing."""
        scale = self.placement.scale
        return [replace(part.texture, period=part.texture.period * scale) for part in self.parts]


@dataclass(frozen=True)
class Light:
    """Sun (or moon) and sky.

    Args:
        direction (`tuple`): Unit vector towards the sun.
        sun (`tuple`): RGB of its light.
        ambient (`tuple`): RGB of the light from everywhere.
        zenith, horizon (`tuple`): RGB of the sky above and at its rim.
        clouds (`float`): How much cloud, 0 to 1.
    """

    direction: Vector
    sun: Color
    ambient: Color
    zenith: Color
    horizon: Color
    clouds: float


@dataclass(frozen=True)
class Ground:
    """An endless plane `y = height`, textured by `kind` (one of `attributes.GROUNDS`) in two colours."""

    height: float
    kind: str
    color: Color
    second_color: Color
    offset: tuple[float, float]
    degrees: float


@dataclass(frozen=True)
class Scene:
    """Everything that [`rendering.render`] needs, and what captions say about it.

    The subject is at the origin, upright along +Y, its front towards +Z, inside a sphere of radius 0.3.

    Args:
        attributes ([`SceneAttributes`]): What captions can say.
        subject ([`Thing`]): The subject.
        objects (`list[Thing]`): The other objects.
        ground ([`Ground`]), light ([`Light`]): The surroundings.
        sky_seed (`int`): Chooses hills, clouds and stars.
        part_noun (`str`): What the second colour belongs to, such as `"roof"`.
    """

    attributes: SceneAttributes
    subject: Thing
    objects: Sequence[Thing]
    ground: Ground
    light: Light
    sky_seed: int
    part_noun: str


def rotation(degrees: Vector) -> torch.Tensor:
    """Rotation matrix `(3, 3)`: about x, then about y, then about z."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = torch.eye(3, dtype=torch.float64)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return matrix.float()


def fitted(parts: Sequence[Part], radius: float) -> Thing:
    """The parts as a thing whose bounding box is centred at the origin and whose farthest corner is `radius` away."""
    solids = Thing(parts).solids()
    # A solid reaches this far along a world axis at most: the sum over its own axes; exact for boxes.
    reach = (solids.rotations.abs() * solids.half_extents[:, None, :]).sum(-1)
    low, high = (solids.centers - reach).amin(0), (solids.centers + reach).amax(0)
    scale = radius / ((high - low).norm().item() / 2)
    center = ((low + high) / 2 * scale).tolist()
    return Thing(parts, Placement((-center[0], -center[1], -center[2]), 0.0, scale))


def lowest_point(thing: Thing) -> float:
    """The lowest y that the thing's bounding box reaches."""
    solids = thing.solids()
    reach = (solids.rotations[:, 1].abs() * solids.half_extents).sum(-1)
    return (solids.centers[:, 1] - reach).min().item()
