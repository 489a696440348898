"""What a set of generated views was made from, as `generation.json` beside its frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MVCustomError
from ..files.text_files import read_json
from ..files.whole import replaced_file

RECORD_NAME = "generation.json"


def set_folders(output: Path, count: int) -> list[Path]:
    """Where `count` sets of views are: in `output` itself, or in `0/`, `1/`, ... of it."""
    return [output] if count == 1 else [output / str(i) for i in range(count)]


def forget_records(folders: Sequence[Path]) -> None:
    """Removes records of earlier views, before these are replaced: no record is better than a wrong one."""
    for folder in folders:
        (folder / RECORD_NAME).unlink(missing_ok=True)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes a set's record: its `prompt`, the subject's `token`, and settings."""
    write_text(folder / RECORD_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a set of views; empty if there is none.

    Raises:
        MVCustomError: naming the file, if it is not a record.
    """
    file = folder / RECORD_NAME
    if not file.is_file():
        return {}
    record = read_json(file)
    texts = isinstance(record, dict) and all(isinstance(record.get(k), (str, type(None))) for k in ("prompt", "token"))
    if not texts:
        raise MVCustomError(f"{file}: expected an object whose prompt and token are texts.")
    return record


def write_text(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replaced_file(file) as new:
        new.write_text(text, encoding="utf-8")
