"""An output folder as one `.tar.gz`, in parts where it is too large to be carried as one file."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

LARGEST_FILE = 15 * 2**20
MOST_FILES = 4


def pack(folder: Path, archive: Path, leave_out: Sequence[str] = ()) -> list[str]:
    """Writes `archive`, or `archive.000`, `archive.001`, ... where it is larger than `LARGEST_FILE`.

    Small files come first; what would make the archive larger than `MOST_FILES` parts stays behind.

    Returns:
        `list[str]`: The names of what stayed behind.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = {file: file.relative_to(folder) for file in files}
    files = sorted(
        (file for file in files if names[file].parts[0] not in leave_out),
        key=lambda file: (file.stat().st_size, names[file]),
    )
    left_out, size = [], 0
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".archive-") as temporary:
        packed = Path(temporary) / "archive.tar.gz"
        with tarfile.open(packed, "w:gz", compresslevel=6) as target:
            for file in files:
                size += file.stat().st_size + 1024
                if size > MOST_FILES * LARGEST_FILE:  # by the size before compression: weights hardly get smaller
                    left_out.append(str(names[file]))
                else:
                    target.add(file, arcname=str(names[file]))
        parts = [packed]
        if packed.stat().st_size > LARGEST_FILE:
            parts = _split(packed)
        old = set(_parts(archive)) | {archive}
        targets = [archive] if len(parts) == 1 else [_numbered(archive, i) for i in range(len(parts))]
        for part, target in zip(parts, targets):
            os.replace(part, target)
        for file in old - set(targets):
            file.unlink(missing_ok=True)
    return left_out


def unpack(archive: Path, folder: Path) -> bool:
    """Puts the archive's files into `folder`; whether there was an archive."""
    parts = [archive] if archive.is_file() else _parts(archive)
    if not parts:
        return False
    content = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=content, mode="r:gz") as packed:
        packed.extractall(folder, filter="data")
    return True


def _numbered(archive: Path, number: int) -> Path:
    return archive.with_name(f"{archive.name}.{number:03d}")


def _parts(archive: Path) -> list[Path]:
    return sorted(archive.parent.glob(f"{archive.name}.[0-9][0-9][0-9]"))


def _split(file: Path) -> list[Path]:
    parts = []
    with open(file, "rb") as source:
        while chunk := source.read(LARGEST_FILE):
            parts.append(_numbered(file, len(parts)))
            with open(parts[-1], "wb") as target:
                shutil.copyfileobj(io.BytesIO(chunk), target)
    return parts
