"""Captions of videos: beside them, or in one metadata file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..cameras.capture import inside_folder
from ..errors import MVCustomError
from ..files.text_files import parse_json, read_text

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
SIDECAR_SUFFIXES = (".txt", ".caption", ".json")
_COLUMNS = ("caption", "text", "prompt", "description")


def read_metadata(file: Path, column: str | None = None) -> dict[str, tuple[str, ...]]:
    """Captions by `file_name`, in the file's order, from a `metadata.jsonl` or `metadata.csv` as `videofolder` has it.

    Args:
        file (`Path`): The file.
        column (`str`, *optional*): Its column of captions; the first of caption, text, prompt and description otherwise.

    Raises:
        MVCustomError: naming the line that cannot be read, or the column that is missing.
    """
    text = read_text(file).removeprefix("\ufeff")
    if file.suffix == ".csv":
        try:
            rows = list(enumerate(csv.DictReader(io.StringIO(text)), start=2))
        except csv.Error as error:
            raise MVCustomError(f"{file}: expected comma-separated values: {error}.") from error
    else:
        rows = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            rows.append((number, parse_json(f"{file}: line {number}", line)))
    captions = {}
    for number, row in rows:
        if not isinstance(row, dict) or not row.get("file_name"):
            raise MVCustomError(f"{file}: line {number} has no file_name.")
        if column is not None and column not in row:
            raise MVCustomError(
                f"{file}: line {number} has no {column!r} (caption_column); it has {sorted(map(str, row))}."
            )
        inside_folder(file.parent, str(row["file_name"]), file)
        captions[str(row["file_name"]).rstrip("/")] = _texts(row, column)
    return captions


def read_sidecar(content: bytes, suffix: str, column: str | None, name: str) -> tuple[str, ...]:
    """Captions of a file beside a video: a text, or JSON with a text, a list of texts, or an object that holds one.

    Raises:
        MVCustomError: naming the video, if the file is not UTF-8 or not JSON, or lacks `column`.
    """
    try:
        text = content.decode("utf-8-sig")
        if suffix != ".json":
            return _cleaned([text])
    except UnicodeDecodeError as error:
        raise MVCustomError(f"{name}: its caption ({suffix}) cannot be read: {error}.") from error
    value = parse_json(f"{name}: its caption ({suffix}) cannot be read", text)
    if isinstance(value, dict):
        if column is not None and column not in value:
            raise MVCustomError(f"{name}: its {suffix} has no {column!r} (caption_column); it has {sorted(value)}.")
        return _texts(value, column)
    return _cleaned(value if isinstance(value, list) else [value])


def _texts(row: dict, column: str | None) -> tuple[str, ...]:
    key = column or next((name for name in _COLUMNS if row.get(name)), None)
    value = row.get(key) if key else None
    return _cleaned(value if isinstance(value, list) else [value])


def _cleaned(values: list) -> tuple[str, ...]:
    return tuple(" ".join(value.split()) for value in values if isinstance(value, str) and value.strip())
