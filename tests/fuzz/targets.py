"""The entry points that take what others made: for each, how to spoil its input, and how to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .watch import attempt


@dataclass(frozen=True)
class Target:
    """One entry point.

    Args:
        name (`str`): For reports.
        inputs (`Callable`): Gives the strategy of its inputs; called late, as good inputs have to be made first.
        write (`Callable`): Puts an input into a folder.
        call (`Callable`): Calls the entry point on folder and input.
        weight (`float`): Of a long run's time.
    """

    name: str
    inputs: Callable[[], st.SearchStrategy]
    write: Callable[[Path, Any], None]
    call: Callable[[Path, Any], Any]
    weight: float = 1.0

    def try_one(self, folder: Path, value: Any) -> tuple[str, Any]:
        """Writes an input into the empty `folder`, calls the entry point on it, and asserts all that must hold."""
        self.write(folder, value)
        return attempt(folder, lambda: self.call(folder, value))
