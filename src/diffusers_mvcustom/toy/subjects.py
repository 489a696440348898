"""Subjects of eight categories, each built from a seed: free proportions, patterns, and parts that tell front from back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .attributes import Chooser, mixed
from .scene import Part, Thing, fitted
from .textures import Color, Texture

SUBJECT_RADIUS = 0.3
"""Radius of the sphere around the origin that holds every subject."""

PART_NOUNS = {
    "car": "roof",
    "chair": "seat",
    "teddy": "belly",
    "house": "roof",
    "mug": "band",
    "robot": "head",
    "rocket": "nose",
    "duck": "beak",
}
"""What a subject's second colour belongs to."""

_PATTERNS = {"plain": "plain", "striped": "stripes", "checked": "checks", "dotted": "dots"}

_GLASS = Texture((0.55, 0.72, 0.82), (0.30, 0.42, 0.52), "stripes", 0.3)
_TYRE = Texture((0.09, 0.09, 0.10), (0.35, 0.35, 0.36), "dots", 0.16)
_STEEL = Texture((0.62, 0.64, 0.67))
_DARK = Texture((0.05, 0.05, 0.06))
_CREAM = Texture((0.97, 0.93, 0.78))
_RED_LIGHT = Texture((0.85, 0.05, 0.05))


@dataclass(frozen=True)
class Paint:
    """The textures that all parts of one subject share."""

    body: Texture
    """The body's colour with its pattern."""
    plain: Texture
    """The body's colour alone."""
    second: Texture
    """The second colour."""
    accent: Texture
    """A third colour, not named in captions, of small parts."""


def build_subject(category: str, color: str, second_color: str, pattern: str, seed: int) -> Thing:
    """A subject inside the sphere of radius `SUBJECT_RADIUS` around the origin, its front towards +Z, +Y up.

    Args:
        category (`str`): One of `attributes.CATEGORIES`.
        color (`str`), second_color (`str`): Of the body and of the part that `PART_NOUNS` names.
        pattern (`str`): One of `attributes.BODY_PATTERNS`.
        seed (`int`): Chooses proportions, exact shades, the pattern's size and the small parts: the subject's identity.
    """
    choose = Chooser(seed)
    base, second = choose.shade(color), choose.shade(second_color)
    body = Texture(
        base,
        _contrasting(base, choose.uniform(0.5, 0.7)),
        _PATTERNS[pattern],
        choose.uniform(0.32, 0.50),
        (choose.uniform(0, 1), choose.uniform(0, 1), choose.uniform(0, 1)),
        shows="pattern",
    )
    accent = Texture(choose.shade(choose.choice(("yellow", "blue", "green", "pink", "orange", "white"))))
    paint = Paint(body, Texture(base), Texture(second, shows="second_color"), accent)
    return fitted(_BUILDERS[category](paint, choose), SUBJECT_RADIUS)


def _contrasting(color: Color, share: float) -> Color:
    """A pattern's second colour: towards white from dark colours, towards black from light ones."""
    light = 0.3 * color[0] + 0.6 * color[1] + 0.1 * color[2]
    return mixed(color, (0.0, 0.0, 0.0) if light > 0.35 else (1.0, 1.0, 1.0), share)


def _car(paint: Paint, choose: Chooser) -> list[Part]:
    length, width, height = choose.uniform(0.85, 1.1), choose.uniform(0.42, 0.52), choose.uniform(0.17, 0.25)
    wheel, cabin = choose.uniform(0.14, 0.19), choose.uniform(0.14, 0.2)
    cabin_length, cabin_z = choose.uniform(0.38, 0.55), choose.uniform(-0.3, -0.05)
    top = wheel + 2 * height
    parts = [
        Part("box", (0, wheel + height, 0), (width, height, length), paint.body),
        Part("box", (0, top + cabin, cabin_z), (width * 0.86, cabin, cabin_length), _GLASS),
        Part("box", (0, top + 2 * cabin + 0.05, cabin_z), (width * 0.95, 0.06, cabin_length * 1.08), paint.second),
        Part("box", (0, top + cabin, cabin_z), (width * 0.9, cabin, cabin_length * 0.14), paint.plain),
        Part("box", (0, wheel + height * 0.7, length), (width * 0.55, height * 0.35, 0.03), _STEEL),
        Part("box", (0, wheel + height * 0.5, -length), (width * 0.9, height * 0.25, 0.04), _DARK),
        Part("box", (width * 0.2, top - 0.01, length * 0.62), (width * 0.16, 0.02, length * 0.36), paint.accent),
        Part("cylinder", (width * 0.55, wheel, -length - 0.05), (0.05, 0.08, 0.05), _STEEL, (90, 0, 0)),
    ]
    for side in (-1, 1):
        parts += [
            Part("sphere", (side * width * 0.72, wheel + height * 1.2, length), (0.09, 0.09, 0.05), _CREAM),
            Part("box", (side * width * 0.75, wheel + height * 1.4, -length), (0.09, 0.06, 0.03), _RED_LIGHT),
        ]
        for z in (-0.6, 0.6):
            parts.append(Part("cylinder", (side * width, wheel, z * length), (wheel, 0.09, wheel), _TYRE, (0, 0, 90)))
    if choose.chance(0.5):
        parts.append(Part("box", (-width * 0.5, top + 2 * cabin + 0.14, cabin_z), (0.1, 0.06, 0.2), paint.accent))
    return parts


def _chair(paint: Paint, choose: Chooser) -> list[Part]:
    width, depth = choose.uniform(0.36, 0.48), choose.uniform(0.36, 0.46)
    legs, back, thick = choose.uniform(0.24, 0.36), choose.uniform(0.34, 0.5), choose.uniform(0.05, 0.09)
    seat = 2 * legs
    parts = [
        Part("box", (0, seat + thick, 0), (width, thick, depth), paint.second),
        Part("box", (0, seat + 2 * thick + back, -depth + 0.07), (width, back, 0.07), paint.body),
        Part("box", (0, seat + 2 * thick + 2 * back, -depth + 0.07), (width * 1.08, 0.05, 0.1), paint.accent),
        Part("box", (width * 0.4, seat + 2 * thick + back * 1.1, -depth - 0.02), (0.12, 0.12, 0.03), paint.accent),
    ]
    for x in (-1, 1):
        for z in (-1, 1):
            place = (x * (width - 0.07), legs, z * (depth - 0.07))
            if choose.chance(0.5):
                parts.append(Part("cylinder", place, (0.06, legs, 0.06), paint.plain))
            else:
                parts.append(Part("box", place, (0.05, legs, 0.05), paint.plain))
    arms = choose.choice(((), (-1,), (1,), (-1, 1)))
    for side in arms:
        height = seat + 2 * thick + back * 0.55
        parts += [
            Part("box", (side * width, height, 0), (0.06, 0.04, depth * 0.9), paint.plain),
            Part(
                "cylinder",
                (side * width, (height + seat) / 2, depth * 0.75),
                (0.04, (height - seat) / 2, 0.04),
                _STEEL,
            ),
        ]
    return parts


def _teddy(paint: Paint, choose: Chooser) -> list[Part]:
    body, head = choose.uniform(0.36, 0.46), choose.uniform(0.30, 0.38)
    tall, limb = choose.uniform(0.4, 0.5), choose.uniform(0.13, 0.18)
    neck = 2 * tall * 0.92
    head_y = neck + head * 0.8
    parts = [
        Part("sphere", (0, tall, 0), (body, tall, body * 0.85), paint.body),
        Part("sphere", (0, tall * 0.92, body * 0.3), (body * 0.7, tall * 0.72, body * 0.68), paint.second),
        Part("sphere", (0, head_y, 0), (head, head * 0.92, head * 0.9), paint.plain),
        Part("sphere", (0, head_y - head * 0.25, head * 0.75), (head * 0.45, head * 0.35, head * 0.35), _CREAM),
        Part("sphere", (0, head_y - head * 0.1, head * 1.05), (0.07, 0.05, 0.06), _DARK),
        Part("sphere", (0, tall * 0.5, -body * 0.85), (0.11, 0.11, 0.11), _CREAM),
        Part("cylinder", (0, neck * 0.98, 0), (head * 0.72, 0.05, head * 0.72), paint.accent),
    ]
    wave = choose.choice((-1, 1))
    for side in (-1, 1):
        raised = side == wave
        arm_turn = side * (choose.uniform(30, 60) if raised else choose.uniform(125, 150))
        arm_y = tall * (1.55 if raised else 1.15)
        parts += [
            Part("sphere", (side * head * 0.75, head_y + head * 0.75, 0), (0.14, 0.14, 0.07), paint.plain),
            Part("sphere", (side * head * 0.38, head_y + head * 0.22, head * 0.8), (0.05, 0.06, 0.05), _DARK),
            Part(
                "sphere", (side * body * 1.12, arm_y, 0.05), (limb, limb * 2.0, limb), paint.plain, (0, 0, -arm_turn)
            ),
            Part("sphere", (side * body * 0.62, 0.1, body * 0.75), (limb, limb, limb * 1.9), paint.plain),
            Part(
                "sphere", (side * body * 0.62, 0.1, body * 0.75 + limb * 1.8), (limb * 0.7, limb * 0.7, 0.04), _CREAM
            ),
        ]
    return parts


def _house(paint: Paint, choose: Chooser) -> list[Part]:
    width, depth = choose.uniform(0.42, 0.58), choose.uniform(0.42, 0.6)
    wall, roof = choose.uniform(0.3, 0.45), choose.uniform(0.2, 0.34)
    body = replace(paint.body, pattern="bricks") if paint.body.pattern == "plain" else paint.body
    if paint.body.pattern == "plain":
        body = replace(body, second_color=mixed(body.color, (0.8, 0.8, 0.8), 0.35))
    shade = mixed(paint.second.color, (0.0, 0.0, 0.0), 0.25)
    tiles = replace(paint.second, second_color=shade, pattern="stripes", period=0.14)
    door_x = choose.uniform(-0.5, 0.5) * width
    chimney = (choose.choice((-1, 1)) * width * 0.55, choose.choice((-1, 1)) * depth * 0.4)
    frame = Texture((0.96, 0.96, 0.94))
    parts = [
        Part("box", (0, wall, 0), (width, wall, depth), body),
        Part("wedge", (0, 2 * wall + roof, 0), (width * 1.12, roof, depth * 1.2), tiles),
        Part("box", (door_x, wall * 0.55, depth), (0.11, wall * 0.55, 0.03), Texture((0.35, 0.18, 0.07))),
        Part("sphere", (door_x + 0.07, wall * 0.5, depth + 0.03), (0.025, 0.025, 0.025), paint.accent),
        Part("box", (chimney[0], 2 * wall + roof * 1.3, chimney[1]), (0.08, roof * 0.9, 0.08), paint.accent),
    ]
    pane = _GLASS
    window_x = door_x + (0.42 if door_x < 0 else -0.42) * width * 1.3
    places = [((window_x, wall * 1.2, depth), (0.12, 0.12, 0.02))]
    places += [((width, wall * 1.2, z * depth * 0.5), (0.02, 0.12, 0.1)) for z in (-1, 1)]
    if choose.chance(0.6):
        places.append(((-width, wall * 1.2, choose.uniform(-0.4, 0.4) * depth), (0.02, 0.14, 0.16)))
    if choose.chance(0.5):
        places.append(((0.0, wall * 1.1, -depth), (width * 0.5, 0.1, 0.02)))
    for center, half in places:
        x, y, z = (side + 0.03 if side > 0.05 else side * 0.5 for side in half)
        parts += [Part("box", center, half, pane), Part("box", center, (x, y, z), frame)]
    return parts


def _mug(paint: Paint, choose: Chooser) -> list[Part]:
    radius, half = choose.uniform(0.4, 0.52), choose.uniform(0.42, 0.6)
    band, band_y = choose.uniform(0.08, 0.15), choose.uniform(-0.3, 0.35) * half
    grip = choose.uniform(0.2, 0.3)
    reach = radius + grip
    coffee = Texture(choose.choice(((0.20, 0.10, 0.04), (0.45, 0.27, 0.12), (0.36, 0.45, 0.12))))
    parts = [
        Part("cylinder", (0, half, 0), (radius, half, radius), paint.body),
        Part("cylinder", (0, half + band_y, 0), (radius * 1.025, band, radius * 1.025), paint.second),
        Part("cylinder", (0, 2 * half + 0.03, 0), (radius * 1.03, 0.04, radius * 1.03), paint.plain),
        Part("cylinder", (0, 2 * half + 0.05, 0), (radius * 0.86, 0.03, radius * 0.86), coffee),
        Part("box", (radius + grip * 0.45, half * 1.5, 0), (grip * 0.6, 0.06, 0.09), paint.plain),
        Part("box", (radius + grip * 0.45, half * 0.6, 0), (grip * 0.6, 0.06, 0.09), paint.plain),
        Part("cylinder", (reach, half * 1.05, 0), (0.08, half * 0.5, 0.08), paint.plain),
    ]
    badge_y = half * (0.55 if band_y > 0 else 1.5)
    if choose.chance(0.5):
        parts.append(Part("cylinder", (0, badge_y, radius * 0.92), (0.16, 0.1, 0.16), paint.accent, (90, 0, 0)))
        parts.append(Part("cylinder", (0, badge_y, radius * 0.93), (0.08, 0.11, 0.08), _DARK, (90, 0, 0)))
    else:
        parts.append(Part("box", (0, badge_y, radius * 0.92), (0.13, 0.13, 0.1), paint.accent, (0, 0, 45)))
    if choose.chance(0.6):
        parts.append(Part("box", (0, badge_y, -radius * 0.92), (0.22, 0.07, 0.1), paint.accent))
    return parts


def _robot(paint: Paint, choose: Chooser) -> list[Part]:
    width, torso, depth = choose.uniform(0.3, 0.42), choose.uniform(0.3, 0.42), choose.uniform(0.2, 0.28)
    legs, head = choose.uniform(0.2, 0.3), choose.uniform(0.2, 0.28)
    hips = 2 * legs
    top = hips + 2 * torso
    head_y = top + 0.06 + head * 0.85
    head_shape = choose.choice(("box", "box", "cylinder"))
    panel = Texture((0.95, 0.95, 0.9), (0.15, 0.2, 0.3), "checks", 0.12)
    antenna_x = choose.uniform(-0.6, 0.6) * head
    parts = [
        Part("box", (0, hips + torso, 0), (width, torso, depth), paint.body),
        Part(head_shape, (0, head_y, 0), (head, head * 0.85, head * 0.85), paint.second),
        Part("cylinder", (0, top + 0.03, 0), (0.1, 0.06, 0.1), _STEEL),
        Part("box", (0, hips + torso * 1.25, depth), (width * 0.55, torso * 0.4, 0.03), panel),
        Part("box", (0, hips + torso * 1.1, -depth - 0.06), (width * 0.6, torso * 0.6, 0.08), paint.accent),
        Part("box", (0, head_y - head * 0.4, head * 0.85), (head * 0.5, 0.04, 0.03), _DARK),
        Part("cylinder", (antenna_x, head_y + head * 0.85 + 0.1, 0), (0.025, 0.12, 0.025), _STEEL),
        Part("sphere", (antenna_x, head_y + head * 0.85 + 0.24, 0), (0.07, 0.07, 0.07), paint.accent),
    ]
    raised = choose.choice((-1, 0, 1))
    for side in (-1, 1):
        arm = torso * 0.95
        shoulder = hips + torso * 1.7
        y = shoulder + (arm * 0.8 if side == raised else -arm * 0.8)
        parts += [
            Part("sphere", (side * head * 0.42, head_y + head * 0.2, head * 0.85), (0.075, 0.075, 0.05), _CREAM),
            Part("sphere", (side * head * 0.42, head_y + head * 0.2, head * 0.85 + 0.04), (0.035, 0.035, 0.03), _DARK),
            Part("cylinder", (side * (width + 0.1), y, 0), (0.075, arm, 0.075), _STEEL),
            Part("sphere", (side * (width + 0.1), shoulder, 0), (0.12, 0.12, 0.12), paint.plain),
            Part("box", (side * width * 0.55, legs, 0), (0.11, legs, 0.12), paint.plain),
            Part("box", (side * width * 0.55, 0.06, 0.07), (0.13, 0.06, 0.2), _DARK),
        ]
    return parts


def _rocket(paint: Paint, choose: Chooser) -> list[Part]:
    radius, half = choose.uniform(0.24, 0.32), choose.uniform(0.5, 0.7)
    nose, foot = choose.uniform(0.2, 0.32), choose.uniform(0.16, 0.24)
    fins = choose.integer(3, 4)
    port_y = foot + half * choose.uniform(1.2, 1.5)
    parts = [
        Part("cylinder", (0, foot + half, 0), (radius, half, radius), paint.body),
        Part("cone", (0, foot + 2 * half + nose, 0), (radius * 1.02, nose, radius * 1.02), paint.second),
        Part("cone", (0, foot * 0.75, 0), (radius * 0.8, foot * 0.75, radius * 0.8), _STEEL),
        Part("cylinder", (0, port_y, radius * 0.9), (0.14, 0.06, 0.14), _STEEL, (90, 0, 0)),
        Part("cylinder", (0, port_y, radius * 0.93), (0.1, 0.06, 0.1), _GLASS, (90, 0, 0)),
        Part("cylinder", (0, foot + half * 0.35, 0), (radius * 1.03, 0.05, radius * 1.03), paint.accent),
        Part("box", (0, foot + half * 0.9, -radius), (0.08, half * 0.4, 0.05), _DARK),
    ]
    first = choose.uniform(0, 360 / fins)
    for i in range(fins):
        angle = first + 360 / fins * i
        fin = Thing([Part("wedge", (0, 0, radius), (0.04, foot * 1.6, 0.24), paint.second if i else paint.accent)])
        turned = replace(fin, placement=replace(fin.placement, degrees=angle)).solids()
        x, _, z = turned.centers[0].tolist()
        parts.append(replace(fin.parts[0], center=(x, foot * 1.6, z), turn=(0.0, angle, 0.0)))
    return parts


def _duck(paint: Paint, choose: Chooser) -> list[Part]:
    length, width, tall = choose.uniform(0.5, 0.65), choose.uniform(0.36, 0.44), choose.uniform(0.3, 0.38)
    head = choose.uniform(0.23, 0.3)
    head_y, head_z = 2 * tall + head * 0.45, length * 0.55
    parts = [
        Part("sphere", (0, tall, 0), (width, tall, length), paint.body),
        Part("cylinder", (0, tall * 1.7, head_z * 0.95), (head * 0.6, tall * 0.5, head * 0.6), paint.accent),
        Part("sphere", (0, head_y, head_z), (head, head, head), paint.plain),
        Part("cone", (0, head_y - 0.04, head_z + head + 0.1), (0.15, 0.17, 0.08), paint.second, (90, 0, 0)),
        Part("cone", (0, tall * 1.35, -length * 1.0), (width * 0.5, 0.22, 0.12), paint.plain, (-60, 0, 0)),
    ]
    lifted = choose.choice((-1, 0, 1))
    for side in (-1, 1):
        tilt = side * (-35.0 if side == lifted else 0.0)
        rise = 0.15 if side == lifted else 0.0
        parts += [
            Part(
                "sphere",
                (side * width * 0.93, tall * 1.1 + rise, -0.08),
                (0.07, 0.17, 0.32),
                paint.plain,
                (0, 0, tilt),
            ),
            Part(
                "sphere", (side * head * 0.72, head_y + head * 0.3, head_z + head * 0.6), (0.055, 0.06, 0.055), _DARK
            ),
            Part("box", (side * 0.16, 0.02, 0.15), (0.11, 0.03, 0.18), paint.second),
        ]
    if choose.chance(0.5):
        parts.append(Part("cone", (0, head_y + head + 0.1, head_z), (0.16, 0.16, 0.16), paint.accent))
    else:
        parts.append(Part("sphere", (0.08, head_y + head, head_z - 0.05), (0.05, 0.1, 0.12), paint.accent))
    return parts


_BUILDERS: dict[str, Callable[[Paint, Chooser], list[Part]]] = {
    "car": _car,
    "chair": _chair,
    "teddy": _teddy,
    "house": _house,
    "mug": _mug,
    "robot": _robot,
    "rocket": _rocket,
    "duck": _duck,
}
