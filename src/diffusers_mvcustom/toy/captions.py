"""Captions of scenes in natural variation, and the words they are made of."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from .attributes import CATEGORIES, COLORS, OBJECTS, Chooser, SceneAttributes, Value
from .subjects import PART_NOUNS

_PLURALS = {name: name + "s" for name in OBJECTS}
_COUNTS = ("no", "one", "two", "three")

_GROUND_PHRASES = {
    "sand": ("on sand", "on a sandy plain", "on a beach", "in the desert"),
    "grass": ("on grass", "on a green meadow", "on a lawn", "in a grassy field"),
    "snow": ("on snow", "in the snow", "on a snowy plain", "on white snow"),
    "cobblestones": ("on cobblestones", "on a stone square", "on a cobbled street"),
    "planks": ("on planks", "on a wooden floor", "on a wooden deck"),
    "asphalt": ("on asphalt", "on a road", "on a tarred street"),
}
_TIME_PHRASES = {
    "noon": ("at noon", "in daylight", "on a sunny day"),
    "dusk": ("at dusk", "at sunset", "in the evening"),
    "night": ("at night", "by night", "under a night sky"),
}
_OBJECT_PHRASES = ("with {}", "beside {}", "near {}", "and {}")
_OPENINGS = ("", "a photo of ", "a picture of ", "an image of ")

_READ_GROUND = {phrase: name for name, phrases in _GROUND_PHRASES.items() for phrase in phrases}
_READ_TIME = {phrase: name for name, phrases in _TIME_PHRASES.items() for phrase in phrases}


def describe(
    attributes: SceneAttributes,
    choose: Chooser | None = None,
    *,
    token: str | None = None,
    object_count: int | None = None,
    unseen: Collection[str] = (),
    completeness: float = 0.8,
) -> str:
    """A caption of a scene.

    Args:
        attributes ([`SceneAttributes`]): What to describe.
        choose ([`Chooser`], *optional*): Varies the wording and leaves out attributes. Without it the caption names
            everything in its plainest form.
        token (`str`, *optional*): A subject's token. It takes the place of what the subject looks like: its colours
            and pattern are left out, as in `"a <my-car> car on sand"`.
        object_count (`int`, *optional*): How many of the other objects are in view, by default all.
        unseen (collection of `str`, *optional*): Of `"pattern"` and `"second_color"` those that are not in view: not named.
        completeness (`float`, *optional*, defaults to 0.8): Probability of naming an attribute. The category is always
            named.

    Example:

        >>> from diffusers_mvcustom.toy import SceneAttributes, describe
        >>> scene = SceneAttributes("car", "red", "yellow", "striped", "sand", "dusk", "tree", 2)
        >>> describe(scene)
        'a striped red car with a yellow roof on sand at dusk with two trees'
        >>> describe(scene, token="<my-car>", object_count=1)
        'a <my-car> car on sand at dusk with one tree'
    """
    count = attributes.object_count if object_count is None else object_count
    objects = attributes.objects if count == 1 else _PLURALS[attributes.objects]
    objects = f"{_COUNTS[count]} {objects}"

    def named() -> bool:
        return choose is None or choose.chance(completeness)

    def pick(phrases: Sequence[Value]) -> Value:
        return phrases[0] if choose is None else choose.choice(phrases)

    words = [pick(_OPENINGS) + "a"]
    if token is not None:
        words.append(token)
    else:
        if attributes.pattern != "plain" and "pattern" not in unseen and named():
            words.append(attributes.pattern)
        if named():
            words.append(attributes.color)
    words.append(attributes.category)
    if token is None and "second_color" not in unseen and named():
        article = "an" if attributes.second_color[0] in "aeiou" else "a"
        words.append(f"with {article} {attributes.second_color} {PART_NOUNS[attributes.category]}")
    where = [pick(_GROUND_PHRASES[attributes.ground])] if named() else []
    when = [pick(_TIME_PHRASES[attributes.time])] if named() else []
    others = [pick(_OBJECT_PHRASES).format(objects)] if count > 0 and named() else []
    places = [where + when + others, others + where + when, where + others + when, when + where + others]
    words += pick(places)
    caption = " ".join(words)
    return re.sub(r"\ba (?=orange\b)", "an ", caption)


def read_caption(caption: str) -> dict[str, object]:
    """The attributes that a caption of [`describe`] names: the inverse of it, for those that are named.

    Example:

        >>> from diffusers_mvcustom.toy.captions import read_caption
        >>> read_caption("a checked blue mug on a lawn with three rocks")
        {'category': 'mug', 'pattern': 'checked', 'color': 'blue', 'ground': 'grass', 'objects': 'rock', 'object_count': 3}
    """
    found: dict[str, object] = {}
    category = re.search(rf"\b({'|'.join(CATEGORIES)})\b", caption)
    if category:
        found["category"] = category[1]
    colors = "|".join(COLORS)
    pattern = re.search(r"\b(striped|checked|dotted)\b", caption)
    if pattern:
        found["pattern"] = pattern[1]
    color = re.search(rf"\b({colors}) ({'|'.join(CATEGORIES)})\b", caption)
    if color:
        found["color"] = color[1]
    second = re.search(rf"\b({colors}) ({'|'.join(sorted(set(PART_NOUNS.values())))})\b", caption)
    if second:
        found["second_color"] = second[1]
    for name, phrases in (("ground", _READ_GROUND), ("time", _READ_TIME)):
        for phrase, value in phrases.items():
            if re.search(rf"\b{phrase}\b", caption):
                found[name] = value
    objects = re.search(rf"\b({'|'.join(_COUNTS)}) ({'|'.join(OBJECTS)})s?\b", caption)
    if objects:
        found["objects"] = objects[2]
        found["object_count"] = _COUNTS.index(objects[1])
    return found


def caption_words() -> list[str]:
    """Every word that captions can hold, sorted: the tokenizer's vocabulary."""
    phrases = [*_OPENINGS, *_OBJECT_PHRASES, *_COUNTS, *CATEGORIES, *COLORS, *OBJECTS, *_PLURALS.values()]
    phrases += [*PART_NOUNS.values(), "plain", "striped", "checked", "dotted", "a", "an"]
    phrases += [phrase for group in (_GROUND_PHRASES, _TIME_PHRASES) for kind in group.values() for phrase in kind]
    return sorted({word for phrase in phrases for word in phrase.replace("{}", "").split()})
