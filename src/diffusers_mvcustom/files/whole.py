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
    old = new.with_suffix(".old")
    try:
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replaced_file(file: Path) -> Iterator[Path]:
    """A path beside `file`, to write to; it takes the file's place when the block ends well, and is gone otherwise."""
    new = file.with_name(f".{file.name}.{uuid4().hex}.new")
    try:
        yield new
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
