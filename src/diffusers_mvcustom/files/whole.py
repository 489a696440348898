"""What is written is there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well, and is gone when it does not.

    After an error, a full disk or Ctrl-C `folder` is what it was before.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{uuid4().hex}.new")
    try:
        new.mkdir()
        yield new
        take_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def replaced_file(file: Path) -> Iterator[Path]:
    """A path beside `file`, to write to; it takes the file's place when the block ends well, and is gone otherwise."""
    new = file.with_name(f".{file.name}.{uuid4().hex}.new")
    try:
        yield new
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replaced_file(file) as new:
        new.write_text(text, encoding="utf-8")


def take_place(new: Path, place: Path) -> None:
    """Renames a file or folder to `place`. What was there is gone then, or back if that is stopped half way."""
    if not place.is_dir():
        os.replace(new, place)
        return
    old = place.with_name(f".{place.name}.{uuid4().hex}.old")
    try:
        place.rename(old)
        new.rename(place)
    finally:
        if old.exists() and not place.exists():  # stopped between the two renames
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)
