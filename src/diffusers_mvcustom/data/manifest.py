"""What a prepared folder's transforms.json says beyond its cameras.

A prepared folder is an ordinary transforms.json capture whose world is the subject frame, so any reader of that format
can open it. What only this package knows stands under one top-level key, `mvcustom_subject`:

    {"version": 1, "subject_frame": {...}, "class_noun": "mug", "token": "<my-mug>", "preparation": {...}}

and a frame may carry `name` (the photo's own file name) and `caption`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cameras import SubjectFrame
from ..errors import MVCustomError
from ..files.text_files import read_json

MANIFEST_NAME = "transforms.json"
SUBJECT_KEY = "mvcustom_subject"
_VERSION = 1


@dataclass(frozen=True)
class SubjectRecord:
    """The entry `mvcustom_subject` of a prepared folder's manifest.

    Args:
        subject_frame ([`SubjectFrame`]): From the subject frame to the world of the photos' own cameras.
        class_noun (`str`, *optional*): What the subject is: mug, car, chair ...
        token (`str`, *optional*): The new token that is to name it.
        preparation (mapping): How it was made (counts, errors, photos left out), for the record.
    """

    subject_frame: SubjectFrame
    class_noun: str | None = None
    token: str | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "version": _VERSION,
            "subject_frame": self.subject_frame.to_dict(),
            "class_noun": self.class_noun,
            "token": self.token,
            "preparation": dict(self.preparation),
        }


def manifest_file(path: Path) -> Path | None:
    """The transforms.json at `path` (the file itself, or the one in that folder), if there is one."""
    file = path / MANIFEST_NAME if path.is_dir() else path
    return file if file.suffix == ".json" and file.is_file() else None


def read_manifest(file: Path) -> tuple[SubjectRecord | None, list[dict[str, Any]]]:
    """The subject's record, `None` for a capture that is not a prepared one, and the frames.

    Raises:
        MVCustomError: naming the file and the entry that cannot be used.
    """
    content = read_json(file)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise MVCustomError(f"{file}: frames: expected a list of objects.")
    if SUBJECT_KEY not in content:
        return None, frames
    return _record(file, content[SUBJECT_KEY]), frames


def frame_texts(file: Path, frames: list[dict[str, Any]], key: str) -> list[str] | None:
    """The texts that all frames have under `key`, or `None` if none has one."""
    values = [frame.get(key) for frame in frames]
    missing = [i for i, value in enumerate(values) if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise MVCustomError(f"{file}: expected {key} in all frames or in none, it lacks in frames {missing}.")
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        raise MVCustomError(f"{file}: {key}: expected texts, got {values!r}.")
    return texts


def _record(file: Path, values: Any) -> SubjectRecord:
    where = f"{file}: {SUBJECT_KEY}"
    if not isinstance(values, dict) or values.get("version") != _VERSION:
        got = values.get("version") if isinstance(values, dict) else values
        raise MVCustomError(f"{where}: expected version {_VERSION}, got {got!r}. Made by a newer release?")
    for key in ("class_noun", "token"):
        if not isinstance(values.get(key), (str, type(None))):
            raise MVCustomError(f"{where}.{key}: expected a text, got {values[key]!r}.")
    preparation = values.get("preparation", {})
    if not isinstance(preparation, dict):
        raise MVCustomError(f"{where}.preparation: expected an object, got {preparation!r}.")
    frame: Any = values.get("subject_frame")
    try:
        subject_frame = SubjectFrame.from_dict(frame)
    except MVCustomError as error:
        raise MVCustomError(f"{where}: {error}") from error
    return SubjectRecord(subject_frame, values.get("class_noun"), values.get("token"), preparation)
