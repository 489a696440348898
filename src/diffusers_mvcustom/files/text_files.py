"""Text and JSON files, read within bounds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import MVCustomError

LARGEST_TEXT = 2**28
"""Bytes of a text file at most; a transforms.json of ten thousand photos has a twentieth of it."""


def read_text(file: Path, *, largest: int = LARGEST_TEXT, kind: str = "text", absent: str = "") -> str:
    """The content of a UTF-8 file.

    Args:
        file (`Path`): The file.
        largest (`int`): Bytes that it may have.
        kind (`str`): What messages say was expected.
        absent (`str`): What a message adds if it is not there, such as the likely cause.

    Raises:
        MVCustomError: naming the file, if it is not there, no regular file (a device or a pipe would never end), larger
            than `largest` bytes, or not UTF-8.
    """
    try:
        if not file.exists():
            raise FileNotFoundError
        regular, size = file.is_file(), file.stat().st_size
        data = file.read_bytes() if regular and size <= largest else b""
    except FileNotFoundError as error:
        raise MVCustomError(f"{file}: there is no such file{absent}.") from error
    except OSError as error:
        raise MVCustomError(f"{file}: cannot be read: {error}") from error
    if not regular:
        raise MVCustomError(f"{file}: expected a file, got a folder or a device.")
    if size > largest:
        raise MVCustomError(f"{file}: expected at most {largest:,} bytes of text, got {size:,}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MVCustomError(f"{file}: expected {kind} in UTF-8, which it cannot be read as: {error}") from error


def read_json(file: Path, *, absent: str = "") -> Any:
    """The content of a JSON file; `absent` as in [`read_text`].

    Raises:
        MVCustomError: naming the file, also if it is nested too deeply or holds text that is no Unicode.
    """
    return parse_json(file, read_text(file, kind="JSON", absent=absent))


def parse_json(source: object, text: str | bytes) -> Any:
    """JSON that was read from `source`, which messages name.

    Raises:
        MVCustomError: see [`read_json`].
    """
    try:
        content = json.loads(text)
        escaped = b"\\u" in text if isinstance(text, bytes) else "\\u" in text
        unicode = not escaped or is_unicode(content)
    except RecursionError as error:
        raise MVCustomError(f"{source}: expected JSON, got one that is nested too deeply.") from error
    except ValueError as error:
        raise MVCustomError(f"{source}: expected JSON, got something that is not well formed: {error}") from error
    if not unicode:
        raise MVCustomError(f"{source}: expected Unicode text, got half of a surrogate pair.")
    return content


def is_unicode(content: Any) -> bool:
    """Whether all text in lists and objects can be printed, saved and used as a name.

    Half of a surrogate pair, which JSON and YAML can write as an escape, cannot.
    """
    if isinstance(content, str):
        return not any("\ud800" <= c <= "\udfff" for c in content)
    if isinstance(content, dict):
        return all(is_unicode(part) for pair in content.items() for part in pair)
    return not isinstance(content, (list, tuple, set)) or all(map(is_unicode, content))


def is_finite_number(value: object) -> bool:
    """Whether it is a finite number; `True` is none, and neither is a whole number that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
