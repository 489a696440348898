"""The folder that is written: all of it or nothing, and never over anything that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MVCustomError, enumerated
from ..files.text_files import read_json
from ..files.whole import replaced_folder
from .checks import file_digest
from .manifest import MANIFEST_NAME, SUBJECT_KEY


def recorded_preparation(folder: Path) -> dict[str, Any] | None:
    """The record of how a prepared folder was made, or `None` if it is none (or none that can be read)."""
    try:
        content = read_json(folder / MANIFEST_NAME)
    except MVCustomError:
        return None
    record = content.get(SUBJECT_KEY) if isinstance(content, dict) else None
    preparation = record.get("preparation") if isinstance(record, dict) else None
    return preparation if isinstance(preparation, dict) and _is_whole(preparation) else None


def check_output(source: Path, output: Path, fingerprint: str | None, overwrite: bool) -> bool:
    """Whether `output` already holds what would be made; raises if something else is there.

    Args:
        source (`Path`): The photos, which the output must not be or contain.
        output (`Path`): The folder to write.
        fingerprint (`str`, *optional*): Of photos and settings; `None` where it is not known yet.
        overwrite (`bool`): Whether a prepared folder may be replaced.

    Raises:
        MVCustomError: naming the folder and what to do.
    """
    place, photos = output.resolve(), source.resolve()
    if place == photos or place in photos.parents:
        raise MVCustomError(f"output: expected a folder of its own, got {output}, which holds the photos ({source}).")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    record = recorded_preparation(output) if output.is_dir() else None
    if record is None:
        raise MVCustomError(f"output: {output} is there and was not made by `mvcustom prepare`; name another folder.")
    if fingerprint is None:
        return False
    if record.get("fingerprint") == fingerprint and not _missing(output, record):
        return True
    if not overwrite:
        raise MVCustomError(
            f"output: {output} was prepared from other photos or with other settings; replace it with --overwrite (which "
            "looks for cameras again, where they were not given), or name another folder. Another token alone needs neither: "
            "train-lora takes one."
        )
    if changed := _changed(output, record):
        raise MVCustomError(
            f"output: {output} holds files that were changed or added since it was prepared: {enumerated(changed)}. Move "
            "them elsewhere, or name another folder."
        )
    return False


@contextmanager
def written_at_once(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place when the block ends well, and is gone when it does not.

    Raises:
        MVCustomError: if something cannot be written: a full disk, no permission.
    """
    try:
        with replaced_folder(output) as partial:
            yield partial
    except OSError as error:
        raise MVCustomError(f"output: {output} could not be written: {error}. Nothing was changed.") from error


def digests_of(folder: Path) -> dict[str, str]:
    """Digests of all files of a folder but its manifest, by their path in it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / MANIFEST_NAME]
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a record has all that is read of it."""
    size, files = record.get("size"), record.get("files", {})
    return (
        all(isinstance(record.get(name), int) for name in ("photos", "registered", "masks", "captions"))
        and isinstance(record.get("left_out"), list)
        and isinstance(size, list)
        and len(size) == 2
        and isinstance(files, dict)
    )


def _missing(output: Path, record: dict[str, Any]) -> list[str]:
    there = {file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file()}
    return [name for name in record.get("files", {}) if name not in there]


def _changed(output: Path, record: dict[str, Any]) -> list[str]:
    recorded = record.get("files", {})
    return [name for name, digest in digests_of(output).items() if recorded.get(name) != digest]
