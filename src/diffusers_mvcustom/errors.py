"""The errors that this package raises on purpose, and lists in their messages.

Both derive from `ValueError`, so code that guards a diffusers pipeline with `except ValueError` keeps working.
"""

from __future__ import annotations

from collections.abc import Iterable


class MVCustomError(ValueError):
    """Something that the user gave cannot be used. The message names the argument, what was expected and what came."""


class CamerasError(MVCustomError):
    """Cameras are malformed, or given in a convention that contradicts their use."""


def enumerated(names: Iterable[str], most: int = 8) -> str:
    """The names in a line, only so many of them."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
