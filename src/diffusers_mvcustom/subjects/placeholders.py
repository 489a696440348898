"""Texts in which the subject's word and class noun are filled in: `{token}` and `{noun}`, and nothing else."""

from __future__ import annotations

import string

from ..errors import MVCustomError


def placeholders(text: str, name: str) -> set[str]:
    """Which of `token` and `noun` a text has, as `str.format` fills them in.

    Args:
        text (`str`): The text.
        name (`str`): Whose text it is, for messages.

    Raises:
        MVCustomError: for other placeholders, unpaired braces, and formats: `{token:>99999999}` would fill the memory, and
            `{token.x}` look into the program.
    """
    try:
        parsed = string.Formatter().parse(text)
        parts = [(field, format, conversion) for _, field, format, conversion in parsed if field is not None]
    except ValueError as error:
        raise MVCustomError(f"{name}: {text!r}: {error}.") from error
    if any(field not in ("token", "noun") or format or conversion for field, format, conversion in parts):
        raise MVCustomError(
            f"{name}: expected no other placeholders than {{token}} and {{noun}}, without formats, got {text!r}."
        )
    return {field for field, _, _ in parts}
