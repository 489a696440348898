"""Strategies that spoil what was good: values of JSON-like structures, text, and bytes."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

DEEP = "@nested deeply@"
"""Stands for lists in lists, more than any parser follows."""

PATHS = (
    "",
    ".",
    "./",
    "..",
    "../canary.png",
    "images/../../canary.png",
    "..\\canary.png",
    "/canary.png",
    "C:\\canary.png",
    "a\0b",
    "~",
    "name" * 90,
    "a/" * 3000 + "b",
    "line\nbreak",
    "\x1b[31m",
    "\ud800",
)
TEXTS = ("{token.__class__}", "{token:>99999999999}", "{0}", "{", "%s", "nan", "1e400", "é" * 50, DEEP)
NUMBERS = (0, -1, 1, 3, 2**31, 2**60, 2**64, 10**400, -(10**400), 0.5, 1e-320, 1e308, -1e308)
NUMBERS += (float("nan"), float("inf"), float("-inf"))

odd_numbers = st.sampled_from(NUMBERS)
odd_paths = st.sampled_from(PATHS)
odd_texts = st.sampled_from(PATHS + TEXTS) | st.text(max_size=12)
odd_values = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, place: tuple = ()) -> list[tuple]:
    """Where something can be changed in a structure of dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, part in inner for found in places(part, (*place, key)))]


@st.composite
def spoiled(draw: Callable, value: Any) -> Any:
    """A structure in which one to three places are replaced, taken away, doubled or exchanged for one another."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        place = draw(st.sampled_from(places(value)))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return draw(odd_values)
            continue
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        change = draw(st.sampled_from(["value", "value", "value", "text", "drop", "double", "key"]))
        if change == "drop":
            del holder[place[-1]]
        elif change == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[place[-1]]))
        elif change == "key" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = holder.pop(place[-1])
        else:
            holder[place[-1]] = draw(
                odd_texts if isinstance(holder[place[-1]], str) or change == "text" else odd_values
            )
    return value


def as_json(value: Any) -> bytes:
    """A spoiled structure as the file that an attacker would write: NaN, half surrogates and deep nesting included."""
    text = json.dumps(value)
    return text.replace(json.dumps(DEEP), "[" * 20_000 + "]" * 20_000).encode()


@st.composite
def spoiled_bytes(draw: Callable, content: bytes) -> bytes:
    """A file that was cut off, overwritten here and there, claims huge numbers, or is something else."""
    change = draw(st.sampled_from(["cut", "scatter", "number", "number", "insert", "other"]))
    spoilt = bytearray(content)
    position = draw(st.integers(0, max(len(content) - 1, 0)))
    if change == "cut":
        return bytes(spoilt[:position])
    if change == "scatter":
        for _ in range(draw(st.integers(1, 8))):
            spoilt[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    elif change == "number":
        start = draw(st.sampled_from([0, position]))
        number = draw(st.sampled_from([2**60, 2**64 - 1, 2**63, 2**32 - 1, 2**31, len(content), 0]))
        spoilt[start : start + 8] = struct.pack("<Q", number)
    elif change == "insert":
        spoilt[position:position] = draw(st.binary(min_size=1, max_size=16))
    else:
        return draw(
            st.binary(max_size=64)
            | st.sampled_from([b"\xff\xfe", b"\0" * 4096, PICKLE, b"%!PS-Adobe-3.0\n(x) print\n"])
        )
    return bytes(spoilt)


@st.composite
def spoiled_text(draw: Callable, text: str) -> bytes:
    """A text file whose words or lines were replaced, or whose bytes were."""
    if draw(st.booleans()):
        return draw(spoiled_bytes(text.encode()))
    lines = text.split("\n")
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        words = lines[number].split(" ")
        word = draw(st.integers(0, len(words) - 1))
        words[word] = draw(odd_texts | odd_numbers.map(repr))
        lines[number] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


class _Trap:
    """Unpickled, it writes a file named `unpickled` in the working folder."""

    def __reduce__(self):
        return exec, ("open('unpickled', 'w').close()",)


def _pickle() -> bytes:
    import pickle

    return pickle.dumps(_Trap())


PICKLE = _pickle()
