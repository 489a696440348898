"""What is wrong with a set of photos, found before anything is computed from them."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path

from torch import Tensor

from ..cameras import Cameras, cameras_looking_elsewhere
from ..errors import CamerasError, MVCustomError, enumerated

MINIMUM_PHOTOS = 3


def check_count(source: Path, count: int) -> None:
    """Raises if there are too few photos for any geometry."""
    if count < MINIMUM_PHOTOS:
        raise MVCustomError(
            f"{source}: expected at least {MINIMUM_PHOTOS} photos of the subject (10 to 50 are good), got {count}."
        )


def check_files(source: Path, what: str, files: Sequence[Path]) -> None:
    """Raises if some of the files are not there."""
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise MVCustomError(f"{source}: {len(missing)} of {len(files)} {what} are not there: {enumerated(missing)}.")


def check_no_duplicates(source: Path, names: Sequence[str], contents: Sequence[Hashable]) -> None:
    """Raises if two photos have the same content, naming both.

    A photo that is there twice is either a mistake or has two different cameras, one of which is wrong.
    """
    first: dict[Hashable, str] = {}
    pairs = []
    for name, content in zip(names, contents):
        if content in first:
            pairs.append(f"{first[content]} = {name}")
        first.setdefault(content, name)
    if pairs:
        raise MVCustomError(
            f"{source}: {len(pairs)} duplicate photo(s), the same content under two names: {enumerated(pairs)}. Take "
            "one of each away."
        )


def is_installed(package: str) -> bool:
    """Whether a package could be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def file_digest(file: Path) -> str:
    """A key of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def pixel_digest(image: Tensor) -> str:
    """A key of an image's 8-bit pixels."""
    pixels = (image * 255).round().byte().contiguous().cpu().numpy()
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def check_cameras_of_capture(source: Path, cameras: Cameras, names: Sequence[str]) -> None:
    """Raises if the cameras, brought into the subject frame, look like another convention; warns of single strays.

    Args:
        source (`Path`): What the message names.
        cameras ([`Cameras`]): In the subject frame.
        names (sequence of `str`): The photos' names.
    """
    try:
        strays = [names[i] for i in cameras_looking_elsewhere(cameras)]
    except CamerasError as error:
        raise CamerasError(f"{source}: {error}") from error
    if not strays:
        return
    warnings.warn(
        f"{source}: {len(strays)} of {len(cameras)} cameras do not look at the subject: {enumerated(strays)}. Wrong "
        "poses, or photos of something else?",
        stacklevel=3,
    )
