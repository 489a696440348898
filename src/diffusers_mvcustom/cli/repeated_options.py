"""Options that are given twice: the parser takes the last one, and the user may have meant both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def repeated_option(command: Any, arguments: Sequence[str]) -> str | None:
    """The first option that stands more than once among a command's arguments and takes one value, if there is any.

    Args:
        command: The `mvcustom` command; its subcommands are looked up by their names among the arguments.
        arguments (sequence of `str`): Of the command line, without the program.
    """
    rest = list(arguments)
    while (found := _subcommand(command, rest)) is not None:
        command, rest = found
    for option in command.params:
        if getattr(option, "multiple", False) or getattr(option, "is_flag", False):
            continue
        if sum(word == name or word.startswith(f"{name}=") for name in option.opts for word in rest) > 1:
            return option.opts[0]
    return None


def _subcommand(command: Any, arguments: list[str]) -> tuple[Any, list[str]] | None:
    """A subcommand that the arguments name, and the arguments after its name."""
    known = getattr(command, "commands", {})
    place = next((i for i, word in enumerate(arguments) if not word.startswith("-")), None)
    if place is None or arguments[place] not in known:
        return None
    return known[arguments[place]], arguments[place + 1 :]
