"""A posed capture: cameras with the names and files of their photos, as the importers give it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..errors import CamerasError, MVCustomError
from .cameras import Cameras
from .checks import check_kind
from .distortion import Distortion

_LONGEST_PATH, _LONGEST_NAME = 1024, 255
"""In characters, and in bytes: what file systems take."""


@dataclass(frozen=True)
class Capture:
    """Photos with their cameras, in the world of the file that they came from.

    Args:
        cameras ([`Cameras`]): One per photo, in the file's order.
        names (`tuple` of `str`): The photos' names as the file has them.
        image_paths (`tuple` of `Path` or `None`): Where the photos are; `None` where the format does not say.
        mask_paths (`tuple` of `Path` or `None`): Subject masks (black is ignored).
        distortion ([`Distortion`], *optional*): Lens distortion of the photos; the cameras are those without it.
    """

    cameras: Cameras
    names: tuple[str, ...]
    image_paths: tuple[Path | None, ...]
    mask_paths: tuple[Path | None, ...]
    distortion: Distortion | None = None

    def __post_init__(self) -> None:
        check_kind("cameras", self.cameras, Cameras)
        for name in ("names", "image_paths", "mask_paths"):
            if len(getattr(self, name)) != len(self.cameras):
                raise CamerasError(
                    f"{name}: expected one per camera ({len(self.cameras)}), got {len(getattr(self, name))}."
                )

    def __len__(self) -> int:
        return len(self.cameras)

    def with_cameras(self, cameras: Cameras) -> Capture:
        """The same photos with other cameras, such as normalised ones."""
        return replace(self, cameras=cameras)


def complete_paths(paths: Sequence[Path | None]) -> list[Path] | None:
    """All of the paths; `None` if one is not known."""
    known = [path for path in paths if path is not None]
    return known if len(known) == len(paths) else None


def inside_folder(folder: Path, path: object, source: Path) -> Path:
    """`folder / path` for a path named in the file `source`, refused if it leads out of `folder`."""
    if not isinstance(path, str) or "\0" in path or not (pure := PurePosixPath(path.replace("\\", "/"))).parts:
        raise MVCustomError(f"{source}: expected the path of a file, got {path!r}.")
    if len(path) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in pure.parts):
        raise MVCustomError(f"{source}: expected the path of a file, got one that is too long: {path[:80]!r} ...")
    # Judged by its text: caches of the Hub are folders of links.
    if pure.is_absolute() or ".." in pure.parts or (len(pure.parts[0]) == 2 and pure.parts[0][1] == ":"):
        raise MVCustomError(f"{source}: expected files inside {folder}, got {path!r}, which leads out of it.")
    return folder / pure


def one_size(source: Path, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The photos' common (height, width).

    Raises:
        CamerasError: naming the sizes and how often each occurs, if there are several.
    """
    counts = Counter(sizes)
    if len(counts) != 1:
        found = ", ".join(f"{count} of {width} × {height}" for (height, width), count in counts.most_common())
        raise CamerasError(
            f"{source}: expected photos of one size, got {found}. Resize or crop them (and their intrinsics) to one size."
        )
    return next(iter(counts))
