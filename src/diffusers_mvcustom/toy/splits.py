"""Which scenes a model trains on, and which it never sees.

A subject is (category, colours, pattern, subject seed). Two things are held out from training: every subject whose seed is
not the training split's, and every subject whose category and body colour form one of the held-out pairs.
"""

from __future__ import annotations

from typing import Literal

from ..errors import MVCustomError
from .attributes import (
    BODY_PATTERNS,
    CATEGORIES,
    COLORS,
    GROUNDS,
    MAX_OBJECTS,
    OBJECTS,
    TIMES,
    Chooser,
    SceneAttributes,
)
from .scene import Scene, lowest_point
from .subjects import PART_NOUNS, build_subject
from .surroundings import build_ground, build_light, build_objects

Split = Literal["train", "validation", "unseen_subjects", "unseen_combinations", "reader"]

SPLITS: tuple[Split, ...] = ("train", "validation", "unseen_subjects", "unseen_combinations", "reader")
"""`train`; `validation` (the same pairs, other subjects: for choices made while building); `unseen_subjects` (likewise,
for reporting only); `unseen_combinations` (held-out pairs of category and colour, for reporting only); `reader` (all
pairs, other subjects: what the attribute reader, and nothing else, is trained on)."""

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (category, tuple(COLORS)[(3 * index + shift) % len(COLORS)])
    for index, category in enumerate(CATEGORIES)
    for shift in (0, 4)
)
"""Pairs of category and body colour that only `unseen_combinations` has: two a category, every colour still trained on."""

_SEEDS = 10_000_000
"""Scenes per split; seeds of different splits never meet."""


def checked_split(split: str) -> Split:
    """A split by its name, such as a command's option has it.

    Raises:
        MVCustomError: for an unknown one; the message lists those that there are.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise MVCustomError(f"split: expected one of {SPLITS}, got {split!r}.")


def scene_seed(split: Split, index: int) -> int:
    """The seed of scene `index` of a split, different for every split and index."""
    checked_split(split)
    if not 0 <= index < _SEEDS:
        raise MVCustomError(f"index: expected 0 to {_SEEDS - 1}, got {index}.")
    return SPLITS.index(split) * _SEEDS + index


def sample_scene(split: Split, index: int) -> Scene:
    """Scene `index` of a split: attributes, subject and surroundings drawn from its seed.

    Example:

        >>> from diffusers_mvcustom.toy import sample_scene
        >>> scene = sample_scene("train", 0)
        >>> scene == sample_scene("train", 0), scene == sample_scene("train", 1)
        (True, False)
    """
    seed = scene_seed(split, index)
    return build_scene(sample_attributes(split, index), subject_seed=seed, surroundings_seed=seed)


def sample_attributes(split: Split, index: int) -> SceneAttributes:
    """The attributes of scene `index` of a split."""
    choose = Chooser(3 * scene_seed(split, index))
    pairs = [(category, color) for category in CATEGORIES for color in COLORS]
    if split != "reader":
        held_out = split == "unseen_combinations"
        pairs = [pair for pair in pairs if (pair in HELD_OUT_PAIRS) == held_out]
    category, color = choose.choice(pairs)
    return SceneAttributes(
        category,
        color,
        choose.choice([name for name in COLORS if name != color]),
        choose.choice(("plain", *BODY_PATTERNS)),
        choose.choice(GROUNDS),
        choose.choice(TIMES),
        choose.choice(OBJECTS),
        choose.integer(0, MAX_OBJECTS),
    )


def build_scene(attributes: SceneAttributes, *, subject_seed: int, surroundings_seed: int) -> Scene:
    """The scene of the given attributes. Seeds choose what attributes leave open.

    The same attributes of the subject and `subject_seed` give the same subject in whatever surroundings.

    Args:
        attributes ([`SceneAttributes`]): What captions say.
        subject_seed (`int`): The subject's identity.
        surroundings_seed (`int`): Ground, light and objects.
    """
    subject = build_subject(
        attributes.category, attributes.color, attributes.second_color, attributes.pattern, 3 * subject_seed + 1
    )
    choose = Chooser(3 * surroundings_seed + 2)
    height = lowest_point(subject)
    return Scene(
        attributes,
        subject,
        build_objects(attributes.objects, attributes.object_count, height, choose),
        build_ground(attributes.ground, height, choose),
        build_light(attributes.time, choose),
        choose.integer(0, 2**20),
        PART_NOUNS[attributes.category],
    )
