"""Pictures, opened within bounds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from PIL import Image

from ..errors import MVCustomError

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""What is read, by content. Pillow knows more: some of it runs other programs (EPS), none of it is a photo's."""


@contextmanager
def opened_picture(file: str | PathLike[str], expected: str = "an image") -> Iterator[Image.Image]:
    """An image file for the length of the context; what fails while it is opened or decoded there names the file.

    Only the header is read before the pixels are asked for, so that a size can be refused first.

    Args:
        file (`str` or path): The file.
        expected (`str`): What messages say was expected.

    Raises:
        MVCustomError: naming the file, if it is not there, damaged, in none of `PICTURE_FORMATS`, or of so many pixels that
            only a decompression bomb has them (Pillow's limit, 179 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=PICTURE_FORMATS) as image:
                yield image
    except MVCustomError:
        raise
    except FileNotFoundError as error:
        raise MVCustomError(f"{file}: there is no such image.") from error
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise MVCustomError(f"{file}: expected {expected}, got something unreadable: {error}") from error


def is_transparent(image: Image.Image) -> bool:
    """Whether an image has pixels that are not opaque."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return False
    return any(image.convert("RGBA").getchannel("A").histogram()[:255])
