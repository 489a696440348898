"""What a set of generated views was made from, as `generation.json` beside its frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MVCustomError
from ..files.text_files import read_json

RECORD_NAME = "generation.json"


def encoded_records(records: Sequence[Mapping[str, Any]] | None, sets: int) -> list[bytes] | None:
    """One record for each of `sets` sets of views as files hold it; `None` if there are none.

    Raises:
        MVCustomError: for another number of records, or one that JSON cannot hold.
    """
    if records is None:
        return None
    if len(records) != sets:
        raise MVCustomError(f"records: expected one per set of views ({sets}), got {len(records)}.")
    try:
        return [(json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode() for record in records]
    except (TypeError, ValueError) as error:
        raise MVCustomError(f"records: expected what JSON can hold, got something else: {error}.") from error


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
