"""How a command that fails says so: one line, whatever the error."""

from __future__ import annotations

_LONGEST = 1000
"""Characters of a message at most: what was given may be a whole file."""


def failure_line(program: str, error: BaseException) -> str:
    """One printable line about an error; an unexpected one is named by its class, with the way to its traceback."""
    message = " ".join(str(error).split())
    if not isinstance(error, (ValueError, OSError)):
        message = f"{type(error).__name__}: {message} (--debug shows where)" if message else type(error).__name__
    # Names of files may hold anything, control sequences for the terminal among it.
    message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return f"{program}: {message or type(error).__name__}"
