"""The photos of a folder as their owner sees them: found in natural order, upright, with what EXIF says of the lens."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps

from ..errors import MVCustomError, enumerated
from ..files.pictures import is_transparent, opened_picture
from .checks import check_count, check_no_duplicates, file_digest

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif")
_HEIC = (".heic", ".heif")
MANY_PHOTOS = 100
_DIAGONAL_35MM = math.hypot(36.0, 24.0)


@dataclass(frozen=True)
class Photo:
    """One photo as it is displayed (EXIF orientation applied).

    Args:
        path (`Path`): The user's file, which is only ever read.
        width (`int`), height (`int`): Displayed size in pixels.
        focal (`float`, *optional*): Focal length in pixels of the displayed size, if EXIF tells it.
        camera (`str`): Maker, model and focal length by EXIF, empty if it has none: photos with the same one share a lens.
        transparent (`bool`): Whether it has transparent pixels.
    """

    path: Path
    width: int
    height: int
    focal: float | None = None
    camera: str = ""
    transparent: bool = False

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name


def find_photos(folder: Path) -> list[Path]:
    """The photo files of a folder, not of folders in it, in natural order (2.jpg before 10.jpg).

    Raises:
        MVCustomError: if there are none, naming a folder inside that has some.
    """
    files = _photos_in(folder)
    if not files:
        inside = [child for child in sorted(folder.iterdir()) if child.is_dir() and _photos_in(child)]
        hint = f" Is it {enumerated([str(child) for child in inside])} that you mean?" if inside else ""
        raise MVCustomError(f"{folder}: expected photos ({', '.join(PHOTO_SUFFIXES)}), found none.{hint}")
    return files


def read_photos(source: Path, files: Sequence[Path]) -> list[Photo]:
    """Looks at all photos once, so that whatever is wrong with one is known before anything is computed.

    Args:
        source (`Path`): What messages name.
        files (sequence of `Path`): The photos.

    Raises:
        MVCustomError: for fewer than 3 photos, for one that is there twice, and naming each that cannot be read.

    Warns if there are more than 100: matching every photo with every other takes time with the square of their number.
    """
    check_count(source, len(files))
    photos, unreadable = [], []
    for file in files:
        try:
            photos.append(_look_at(file))
        except MVCustomError as error:
            if isinstance(error.__cause__, ImportError):
                raise
            unreadable.append(f"{file.name} ({error.__cause__ or error})")
    if unreadable:
        raise MVCustomError(
            f"{source}: {len(unreadable)} of {len(files)} photos cannot be read: {enumerated(unreadable)}. Mend them or take "
            "them away."
        )
    check_no_duplicates(source, [file.name for file in files], [file_digest(file) for file in files])
    if len(files) > MANY_PHOTOS:
        warnings.warn(
            f"{source}: {len(files)} photos; 10 to {MANY_PHOTOS} are enough, and every one is matched with every other.",
            stacklevel=2,
        )
    return photos


def open_photo(file: Path, mode: str = "RGB", *, upright: bool = True) -> Image.Image:
    """A photo's pixels.

    Args:
        file (`Path`): The photo.
        mode (`str`, defaults to `"RGB"`): Pillow's mode, `"RGB"`, `"RGBA"` or `"L"`.
        upright (`bool`, defaults to `True`): Whether to apply the EXIF orientation.

    Raises:
        MVCustomError: naming the file, if it cannot be read.
    """
    with _opened(file) as image:
        return (ImageOps.exif_transpose(image) if upright else image).convert(mode)


def exif_focal(exif: Image.Exif, width: int, height: int) -> float | None:
    """Focal length in pixels by EXIF, if it tells one that can be.

    The focal length "in 35 mm film" is the one that gives the same diagonal angle on 36 × 24 mm.
    """
    detail = exif.get_ifd(ExifTags.IFD.Exif)
    in_35mm = _positive(detail.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal = in_35mm * math.hypot(width, height) / _DIAGONAL_35MM if in_35mm else None
    if focal is None:
        millimetres = _positive(detail.get(ExifTags.Base.FocalLength))
        per_unit = _positive(detail.get(ExifTags.Base.FocalPlaneXResolution))
        unit = {2: 25.4, 3: 10.0, 4: 1.0}.get(detail.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))  # mm in one unit
        # The resolution is that of the sensor's own image: of no use for a photo that was made smaller since.
        unscaled = detail.get(ExifTags.Base.ExifImageWidth) in (width, height)
        focal = millimetres * per_unit / unit if millimetres and per_unit and unit and unscaled else None
    return focal if focal is not None and 0.2 <= focal / max(width, height) <= 10 else None


def _photos_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES and file.is_file()]
    return sorted((file for file in files if not file.name.startswith(".")), key=_natural)


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", file.name.lower())]


def _look_at(file: Path) -> Photo:
    with _opened(file) as image:
        image.load()  # a truncated file only fails here
        exif = image.getexif()
        width, height = image.size
        if exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
            width, height = height, width
        transparent = is_transparent(image)
        focal = exif_focal(exif, width, height)
    # Only EXIF of a real camera keeps photos apart; an editor's leaves the maker out.
    names = [str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    camera = " ".join([*names, "" if focal is None else f"{focal / max(width, height):.3f}"]).strip()
    return Photo(file, width, height, focal, camera, transparent)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    if file.suffix.lower() not in _HEIC:
        with opened_picture(file, "a photo") as image:
            yield image
        return
    try:
        from pillow_heif import open_heif
    except ImportError as error:
        raise MVCustomError(
            f"{file}: HEIC photos need pillow-heif (pip install 'diffusers-mvcustom[heic]'), or export them as JPEG."
        ) from error
    try:
        yield open_heif(io.BytesIO(file.read_bytes())).to_pillow()
    except MVCustomError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise MVCustomError(f"{file}: expected a photo, got something unreadable: {error}") from error


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
