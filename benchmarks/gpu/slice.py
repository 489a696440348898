"""A slice: one piece of the GPU work that ends within minutes, and the files of `slices/` that define them."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 580.0
"""Seconds that a slice may take at most: with its start and end it stays under ten minutes."""


@dataclass(frozen=True)
class Options:
    """What a file of slices may depend on."""

    device: str
    quick: bool  # smallest sizes: to see that everything runs


@dataclass(frozen=True)
class Slice:
    """A command that is run in a process of its own, from the root of the repository.

    Args:
        name (`str`): Letters, digits and dashes; the names of its files begin with it.
        command (list of `str`): Arguments. `{out}` stands for the folder that results are written to, `{work}` for one
            that outlives the slice and is not carried home (checkpoints, views), `{python}` for this Python.
        limit (`float`): Seconds after which it is stopped.
        expected (`float`): Seconds that it should take; it is not started if less are left.
        resumable (`bool`): Whether it carries on where it was stopped. Then its own limit stops it like the limit of the
            whole run does: the next run starts it again.
        important (`bool`): Whether it comes before all that are not, for when the machine is there for minutes only.
        environment (mapping, *optional*): Environment variables beside the runner's own.
    """

    name: str
    command: tuple[str, ...]
    limit: float = LONGEST
    expected: float = 60.0
    resumable: bool = False
    important: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(map(str, self.command)))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", self.name):
            raise ValueError(f"slice {self.name!r}: expected a name of letters, digits and dashes.")
        if not 0 < self.limit <= LONGEST:
            raise ValueError(f"slice {self.name!r}: expected a limit of at most {LONGEST:g} s, got {self.limit:g}.")
        object.__setattr__(self, "expected", min(self.expected, self.limit))

    @classmethod
    def of_script(cls, name: str, script: str, *arguments: object, **settings) -> Slice:
        """A slice that runs one of this repository's Python scripts."""
        return cls(name, ("{python}", script, *arguments), **settings)

    def arguments(self, out: Path, work: Path) -> list[str]:
        """The command with its placeholders filled in."""
        places = {"{out}": str(out), "{work}": str(work), "{python}": sys.executable}
        return [re.sub(r"\{(out|work|python)\}", lambda found: places[found[0]], one) for one in self.command]


def find_slices(folder: Path, options: Options) -> list[Slice]:
    """The slices of all files in `folder`: those that are important first, else in the files' order.

    Each file defines `slices(options) -> list[Slice]`. Names have to be unique.
    """
    found: list[Slice] = []
    for file in sorted(folder.glob("[!_]*.py")):
        found.extend(runpy.run_path(str(file))["slices"](options))
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{folder}: expected unique names of slices, got {twice} twice.")
    return sorted(found, key=lambda one: not one.important)
