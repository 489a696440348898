"""What the toy world's captions can say: the attributes of a scene, and the words and colours for them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

import torch

from ..errors import MVCustomError
from .textures import Color

Value = TypeVar("Value")

CATEGORIES = ("car", "chair", "teddy", "house", "mug", "robot", "rocket", "duck")

COLORS: dict[str, Color] = {
    "red": (0.80, 0.09, 0.08),
    "orange": (0.95, 0.48, 0.06),
    "yellow": (0.95, 0.85, 0.12),
    "green": (0.10, 0.55, 0.16),
    "blue": (0.10, 0.22, 0.80),
    "purple": (0.48, 0.14, 0.66),
    "pink": (0.97, 0.53, 0.70),
    "white": (0.93, 0.93, 0.92),
    "black": (0.07, 0.07, 0.08),
    "brown": (0.42, 0.23, 0.09),
}

BODY_PATTERNS = ("plain", "striped", "checked", "dotted")

GROUNDS = ("sand", "grass", "snow", "cobblestones", "planks", "asphalt")

TIMES = ("noon", "dusk", "night")

OBJECTS = ("tree", "rock", "barrel", "crate", "tower", "mushroom")

MAX_OBJECTS = 2


@dataclass(frozen=True)
class SceneAttributes:
    """The attributes of one scene, or of one view of it.

    Args:
        category (`str`): One of `CATEGORIES`.
        color (`str`): Colour of the subject's body, one of `COLORS`.
        second_color (`str`): Colour of its second part (a car's roof, a mug's band, ...), another one.
        pattern (`str`): Of the body, one of `BODY_PATTERNS`.
        ground (`str`): One of `GROUNDS`.
        time (`str`): Time of day, one of `TIMES`.
        objects (`str`): Kind of the other objects, one of `OBJECTS`; also given where there are none.
        object_count (`int`): How many of them, 0 to `MAX_OBJECTS`.

    Example:

        >>> from diffusers_mvcustom.toy import SceneAttributes
        >>> scene = SceneAttributes("car", "red", "yellow", "plain", "sand", "dusk", "tree", 2)
        >>> SceneAttributes.from_labels(scene.labels()) == scene
        True
    """

    category: str
    color: str
    second_color: str
    pattern: str
    ground: str
    time: str
    objects: str
    object_count: int

    def __post_init__(self) -> None:
        for name, allowed in ATTRIBUTE_VALUES.items():
            if getattr(self, name) not in allowed:
                raise MVCustomError(f"{name}: expected one of {tuple(allowed)}, got {getattr(self, name)!r}.")

    def labels(self) -> dict[str, int]:
        """Index of every attribute's value in `ATTRIBUTE_VALUES`: a classifier's targets."""
        return {name: ATTRIBUTE_VALUES[name].index(value) for name, value in asdict(self).items()}

    @classmethod
    def from_labels(cls, labels: dict[str, int]) -> SceneAttributes:
        """The inverse of [`labels`]."""
        return cls(**{field.name: ATTRIBUTE_VALUES[field.name][labels[field.name]] for field in fields(cls)})


ATTRIBUTE_VALUES: dict[str, Sequence] = {
    "category": CATEGORIES,
    "color": tuple(COLORS),
    "second_color": tuple(COLORS),
    "pattern": BODY_PATTERNS,
    "ground": GROUNDS,
    "time": TIMES,
    "objects": OBJECTS,
    "object_count": tuple(range(MAX_OBJECTS + 1)),
}
"""All values of every attribute, in the order of their labels."""


class Chooser:
    """Random choices from one seeded generator; every number of a scene comes from here.

    Args:
        seed (`int`): The same seed gives the same choices, in the same order.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return low + (high - low) * torch.rand((), generator=self._generator).item()

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator).item())

    def choice(self, values: Sequence[Value]) -> Value:
        """One of the values."""
        return values[self.integer(0, len(values) - 1)]

    def chance(self, probability: float) -> bool:
        """`True` with this probability."""
        return self.uniform(0.0, 1.0) < probability

    def shade(self, name: str) -> Color:
        """A shade of a named colour that is still called by that name."""
        hue, saturation, value = colorsys.rgb_to_hsv(*COLORS[name])
        hue = (hue + self.uniform(-0.012, 0.012)) % 1.0
        saturation = min(1.0, saturation * self.uniform(0.9, 1.1))
        value = min(1.0, value * self.uniform(0.88, 1.08))
        return colorsys.hsv_to_rgb(hue, saturation, value)


def mixed(first: Color, second: Color, share: float) -> Color:
    """The colour at `share` of the way from `first` to `second`."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second))
    return red, green, blue
