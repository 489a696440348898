"""Subject masks: given ones, the photos' alpha channels, or background removal by rembg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import MVCustomError, enumerated
from ..files.pictures import is_transparent, opened_picture
from .checks import is_installed

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
    found: list[Path] = []
    missing: list[str] = []
    for photo in photos:
        stems = [name + ending for name in (photo.stem, photo.name) for ending in _MASK_ENDINGS]
        file = next((files[stem.lower()] for stem in stems if stem.lower() in files), None)
        if file is None:
            missing.append(photo.name)
        else:
            found.append(file)
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
    with opened_picture(file) as image:
        return is_transparent(image)


def check_background_removal() -> None:
    """Raises if rembg is not installed or cannot get its model, before anything is computed."""
    if not is_installed("rembg"):
        raise MVCustomError(
            "masks: 'rembg' needs the package rembg (pip install 'diffusers-mvcustom[masks]'), or give a folder of masks."
        )
    _rembg_session()


def _rembg_session() -> Any:
    from rembg import new_session

    try:
        return new_session()
    except (OSError, RuntimeError, ValueError) as error:
        raise MVCustomError(
            f"masks: rembg cannot load its model: {error}. Without a network it cannot fetch it; give a folder of masks."
        ) from error


def removed_background(images: Tensor) -> Tensor:
    """Subject masks by rembg, which fetches its model the first time.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): Photos in [0, 1].

    Returns:
        `torch.Tensor` of shape `(N, 1, H, W)`: 1 where the subject is.

    Raises:
        MVCustomError: if rembg is not installed, or cannot get its model.
    """
    from rembg import remove

    session = _rembg_session()
    try:
        masks = []
        for image in images:
            pixels = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())
            masks.append(torch.from_numpy(np.array(remove(pixels, session=session, only_mask=True), dtype=np.float32)))
    except (OSError, RuntimeError, ValueError) as error:
        raise MVCustomError(f"masks: rembg did not work: {error}.") from error
    return torch.stack(masks)[:, None] / 255
