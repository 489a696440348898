"""Where training clips come from: folders of videos, folders of frames, and webdataset shards."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import MVCustomError
from .clip_geometry import GEOMETRY_SUFFIX
from .video_captions import METADATA_NAMES, SIDECAR_SUFFIXES, read_metadata, read_sidecar

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".gif",
        ".mpg",
        ".mpeg",
        ".ogv",
        ".ts",
        ".mts",
        ".wmv",
        ".flv",
        ".3gp",
    ]
)
FRAME_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
_SHARD_SUFFIX = ".tar"


@dataclass(frozen=True)
class StoredFile:
    """A file, or a part of a tar archive.

    Args:
        path (`str`): The file or the archive.
        size (`int`): Bytes.
        offset (`int`, *optional*): First byte of a part of an archive; `None` is the whole file.
    """

    path: str
    size: int
    offset: int | None = None

    def read(self) -> bytes:
        """Its content."""
        with open(self.path, "rb") as file:
            file.seek(self.offset or 0)
            return file.read(self.size)


@dataclass(frozen=True)
class VideoSource:
    """A video to take clips from: one file, or its frames as images in order.

    Args:
        name (`str`): For messages, and part of what a resumed training must have in common.
        files (`tuple` of [`StoredFile`]): One video, or its frames.
        is_frames (`bool`): Which of the two.
        captions (`tuple` of `str`): Texts from a metadata file.
        sidecar ([`StoredFile`], *optional*): A text or json file beside it, read when the clip is.
        sidecar_suffix (`str`): Its kind.
        geometry ([`StoredFile`], *optional*): Depth and cameras of its frames ([`ClipGeometry`]).
    """

    name: str
    files: tuple[StoredFile, ...]
    is_frames: bool = False
    captions: tuple[str, ...] = ()
    sidecar: StoredFile | None = None
    sidecar_suffix: str = ""
    geometry: StoredFile | None = None

    @property
    def size(self) -> int:
        """Bytes of the video, or of its frames together."""
        return sum(file.size for file in self.files)

    def read_captions(self, column: str | None = None) -> tuple[str, ...]:
        """Its texts: a sidecar's before a metadata file's; empty if there is none.

        Args:
            column (`str`, *optional*): Key of a json sidecar that holds the text.
        """
        if self.sidecar is not None:
            return read_sidecar(self.sidecar.read(), self.sidecar_suffix, column, self.name)
        return self.captions


def find_videos(data: str | Sequence[str], caption_column: str | None = None) -> list[VideoSource]:
    """All videos of some folders and webdataset shards, in the order of their names.

    A folder is searched with the folders in it. A folder of two or more images (and no video) is one video, its frames in
    the order of their names. Captions are, as in Hugging Face's `videofolder`, in a `metadata.jsonl` or `metadata.csv`
    with a column `file_name`; or in a `.txt`, `.caption` or `.json` file beside a video (or beside a folder of frames).
    In shards (uncompressed `.tar`, files of one sample share their name up to the first dot) likewise. A file
    `NAME.geometry.safetensors` in the same place holds the depth and cameras of its frames.

    Args:
        data (`str` or list of `str`): Folders, shards, or patterns of shards such as `shards/clips-{0000..0041}.tar`
            or `shards/*.tar`. A folder may hold shards too.
        caption_column (`str`, *optional*): Column or key of the captions: `caption`, `text`, `prompt` or `description`,
            whichever there is, if not given.

    Raises:
        MVCustomError: if nothing is found, or a metadata file or shard is damaged.
    """
    sources: list[VideoSource] = []
    places = [data] if isinstance(data, str) else list(data)
    for place in places:
        paths = sorted(_expanded(place))
        if not paths:
            raise MVCustomError(f"data: there is nothing at {place}.")
        for path in paths:
            if path.is_dir():
                sources += _in_folder(path, caption_column)
            elif path.suffix.lower() == _SHARD_SUFFIX:
                sources += _in_shard(path)
            else:
                raise MVCustomError(
                    f"data: expected a folder or an uncompressed {_SHARD_SUFFIX} shard, got {path}. Single videos go into "
                    "a folder; compressed archives cannot be read from the middle, unpack them."
                )
    if not sources:
        raise MVCustomError(
            f"data: no videos in {', '.join(places)}; looked for {' '.join(sorted(VIDEO_SUFFIXES))}, folders of images, "
            f"and {_SHARD_SUFFIX} shards of them."
        )
    return sources


# --- folders ---


def _in_folder(root: Path, caption_column: str | None) -> Iterator[VideoSource]:
    for folder, names, files in _walk(root):
        stored = {entry.name: StoredFile(entry.path, entry.stat().st_size) for entry in files}
        metadata = None
        for name in METADATA_NAMES:
            if name in stored:
                metadata = read_metadata(folder / name, caption_column)
                break
        if metadata is not None:
            yield from _of_metadata(root, folder, metadata)
            names.clear()  # what lies deeper is the metadata's too
            continue
        videos = [name for name in stored if _suffix(name) in VIDEO_SUFFIXES]
        for name in videos:
            stem = PurePosixPath(name).stem
            suffix = next((suffix for suffix in SIDECAR_SUFFIXES if stem + suffix in stored), "")
            yield VideoSource(
                _relative(root, folder / name),
                (stored[name],),
                sidecar=stored[stem + suffix] if suffix else None,
                sidecar_suffix=suffix,
                geometry=stored.get(stem + GEOMETRY_SUFFIX),
            )
        for name in stored:
            if _suffix(name) == _SHARD_SUFFIX:
                yield from _in_shard(folder / name)
        if not videos and (frames := _frames(stored)):
            sidecar = next((s for s in SIDECAR_SUFFIXES if folder.with_name(folder.name + s).is_file()), "")
            yield VideoSource(
                _relative(root, folder),
                frames,
                is_frames=True,
                sidecar=_file(folder.with_name(folder.name + sidecar)) if sidecar else None,
                sidecar_suffix=sidecar,
                geometry=_file(folder.with_name(folder.name + GEOMETRY_SUFFIX)),
            )


def _of_metadata(root: Path, folder: Path, metadata: dict[str, tuple[str, ...]]) -> Iterator[VideoSource]:
    for name, captions in metadata.items():
        path = folder / name
        if path.is_dir():
            files = {
                entry.name: StoredFile(entry.path, entry.stat().st_size)
                for entry in _sorted_entries(path)
                if entry.is_file()
            }
            frames = _frames(files)
            if not frames:
                raise MVCustomError(f"data: {path}, named in the metadata of {folder}, is a folder without frames.")
            geometry = _file(path.with_name(path.name + GEOMETRY_SUFFIX))
            yield VideoSource(_relative(root, path), frames, is_frames=True, captions=captions, geometry=geometry)
        elif (file := _file(path)) is not None:
            geometry = _file(path.with_name(path.stem + GEOMETRY_SUFFIX))
            yield VideoSource(_relative(root, path), (file,), captions=captions, geometry=geometry)
        else:
            raise MVCustomError(f"data: the metadata of {folder} names {name}, which is not there.")


def _file(path: Path) -> StoredFile | None:
    return StoredFile(str(path), path.stat().st_size) if path.is_file() else None


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[os.DirEntry]]]:
    """Folders from the top, names sorted and hidden ones left out; the caller may clear the folders to descend into."""
    entries = _sorted_entries(root)
    names = [entry.name for entry in entries if entry.is_dir()]
    yield root, names, [entry for entry in entries if entry.is_file()]
    for name in names:
        yield from _walk(root / name)


def _sorted_entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _frames(stored: dict[str, StoredFile]) -> tuple[StoredFile, ...]:
    frames = [name for name in stored if _suffix(name) in FRAME_SUFFIXES]
    return tuple(stored[name] for name in sorted(frames, key=_natural)) if len(frames) > 1 else ()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers by value: frame 9 comes before frame 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _relative(root: Path, path: Path) -> str:
    return PurePosixPath(path.relative_to(root)).as_posix() if path != root else root.name


# --- shards ---


def _in_shard(path: Path) -> Iterator[VideoSource]:
    """Its samples; the archive's directory is read once, and later only the parts that are needed."""
    members: dict[str, dict[str, StoredFile]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isfile() and not name.name.startswith("."):
                    stem, _, suffix = name.name.partition(".")
                    key = (name.parent / stem).as_posix()
                    part = StoredFile(str(path), member.size, member.offset_data)
                    members.setdefault(key, {})["." + suffix.lower()] = part
    except (tarfile.TarError, OSError) as error:
        raise MVCustomError(
            f"data: {path} is not a whole uncompressed tar archive ({error}). An interrupted download?"
        ) from error
    for key, parts in members.items():
        video = next((suffix for suffix in parts if suffix in VIDEO_SUFFIXES), None)
        if video is None:
            continue
        sidecar = next((suffix for suffix in SIDECAR_SUFFIXES if suffix in parts), None)
        yield VideoSource(
            f"{path.name}/{key}{video}",
            (parts[video],),
            sidecar=None if sidecar is None else parts[sidecar],
            sidecar_suffix=sidecar or "",
            geometry=parts.get(GEOMETRY_SUFFIX),
        )


def _expanded(place: str) -> Iterable[Path]:
    """The paths of a pattern: `{first..last}` counts, `*` and `?` match."""
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", place):
        first, last = match[1], match[2]
        numbers = range(int(first), int(last) + 1)
        replaced = (f"{place[: match.start()]}{n:0{len(first)}d}{place[match.end() :]}" for n in numbers)
        return [path for each in replaced for path in _expanded(each)]
    path = Path(place)
    if not path.exists() and any(c in path.name for c in "*?"):
        return list(path.parent.glob(path.name))
    if not path.exists():
        raise MVCustomError(f"data: there is no {place}.")
    return [path]
