"""Subject masks: given ones, the photos' alpha channels, or background removal by rembg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import MVCustomError
from .checks import enumerated

_MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MASK_ENDINGS = ("", "_mask", "-mask", ".mask")


def masks_in_folder(folder: Path, photos: Sequence[Path]) -> list[Path]:
    """The mask file of each photo: of its name (`mug.png`, `mug.jpg.png`, `mug_mask.png`), whatever the image format.

    Raises:
        MVCustomError: if the folder is not there, or naming the photos that have no mask.
    """
    if not folder.is_dir():
        raise MVCustomError(f"masks: expected auto, required, none or a folder with masks; {folder} is no folder.")
    files = {file.stem.lower(): file for file in sorted(folder.iterdir()) if file.suffix.lower() in _MASK_SUFFIXES}
    found, missing = [], []
    for photo in photos:
        stems = [name + ending for name in (photo.stem, photo.name) for ending in _MASK_ENDINGS]
        file = next((files[stem.lower()] for stem in stems if stem.lower() in files), None)
        (missing if file is None else found).append(photo.name if file is None else file)
    if missing:
        raise MVCustomError(
            f"{folder}: expected a mask of each photo's name, {len(missing)} of {len(photos)} have none: "
            f"{enumerated(missing)}."
        )
    return found


def has_alpha(file: Path) -> bool:
    """Whether an image has transparent pixels.

    Raises:
        MVCustomError: naming the file, if it cannot be read.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
                return False
            return image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MVCustomError(f"{file}: expected an image, got something unreadable: {error}") from error
