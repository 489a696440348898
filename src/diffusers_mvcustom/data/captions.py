"""Captions of photos: texts beside them, or one for all, with the subject's word as a placeholder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import MVCustomError

DEFAULT_CAPTION = "a photo of a {token} {noun}"


def read_captions(files: Sequence[Path], template: str | None, token: str | None) -> list[str] | None:
    """A text for each photo, in which training fills in `{token}` and `{noun}`.

    A photo's own text is the .txt file of its name beside it. One that does not name the subject gets the template (or
    "a photo of a {token} {noun}") put before it; `token`, written out, counts as the placeholder.

    Args:
        files (sequence of `Path`): The photos.
        template (`str`, *optional*): The text of photos that have none of their own.
        token (`str`, *optional*): The subject's new word.

    Returns:
        list of `str`, *optional*: `None` if there is neither a template nor any text: training has its own prompts.

    Raises:
        MVCustomError: for a template without `{token}`, and naming a text file that cannot be read.
    """
    if template is not None and "{token}" not in template:
        raise MVCustomError(
            f"caption: expected a text with {{token}} in it, such as {DEFAULT_CAPTION!r}, got {template!r}."
        )
    texts = [_text_beside(file) for file in files]
    if template is None and not any(texts):
        return None
    start = DEFAULT_CAPTION if template is None else template
    captions = []
    for text in texts:
        if token is not None:
            text = text.replace(token, "{token}")
        captions.append(text if "{token}" in text else f"{start}, {text}" if text else start)
    return captions


def sidecars(files: Sequence[Path]) -> list[Path]:
    """The photos' text files that are there."""
    return [text for file in files if (text := file.with_suffix(".txt")).is_file()]


def _text_beside(file: Path) -> str:
    text = file.with_suffix(".txt")
    if not text.is_file():
        return ""
    try:
        return " ".join(text.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise MVCustomError(f"{text}: expected a photo's caption as UTF-8 text: {error}") from error
