"""Views as a moving picture: MP4, GIF or WebP."""

from __future__ import annotations

from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import PIL.Image

from ..errors import MVCustomError
from ..files.whole import replaced_file
from .pictures import Views

ANIMATIONS = ("gif", "mp4", "webp")
"""Endings of the moving pictures that are written."""


def has_video_writer() -> bool:
    """Whether MP4 can be written: imageio and imageio-ffmpeg, the extra `video`, are installed."""
    return find_spec("imageio") is not None and find_spec("imageio_ffmpeg") is not None


def check_animation(kind: str, fps: int) -> None:
    """Raises if a moving picture of this kind cannot be written.

    Raises:
        MVCustomError: for an unknown kind, a rate that is no whole number above 0, or MP4 without the extra `video`.
    """
    if kind not in ANIMATIONS:
        raise MVCustomError(f"format: expected one of {', '.join(ANIMATIONS)}, got {kind!r}.")
    if isinstance(fps, bool) or not isinstance(fps, int) or not 1 <= fps <= 1000:
        raise MVCustomError(f"fps: expected a whole number from 1 to 1000, got {fps!r}.")
    if kind == "mp4" and not has_video_writer():
        raise MVCustomError(
            "format: mp4 needs imageio and imageio-ffmpeg, which are not installed: "
            "`pip install 'diffusers-mvcustom[video]'`. gif and webp need nothing."
        )


def save_animation(path: str | PathLike[str], views: Views, fps: int = 8) -> None:
    """Writes views one after the other, as a loop; the name's ending says what: .gif, .mp4 (H.264) or .webp.

    GIF has 256 colours a view; WebP and MP4 all. An MP4's sides are even: a view of odd size gets one more row or column
    of its last pixels. What is there is replaced only after all is written.

    Args:
        path (`str` or path): The file.
        views (sequence of `PIL.Image.Image`): Of one size.
        fps (`int`, defaults to 8): Views a second.

    Raises:
        MVCustomError: see [`check_animation`].

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from diffusers_mvcustom.export import save_animation
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_animation(Path(folder) / "views.webp", [Image.new("RGB", (8, 6), color) for color in ("red", "blue")])
        ...     Image.open(Path(folder) / "views.webp").n_frames
        2
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    check_animation(kind, fps)
    if not views:
        raise MVCustomError("views: expected at least one, got none.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as new:
        if kind == "mp4":
            new.write_bytes(_mp4(views, fps))
        else:
            options = {"quality": 90, "method": 4} if kind == "webp" else {}
            views[0].save(
                new,
                format=kind.upper(),
                save_all=True,
                append_images=list(views[1:]),
                duration=round(1000 / fps),
                loop=0,
                **options,
            )


def _mp4(views: Views, fps: int) -> bytes:
    import imageio.v3 as imageio

    frames = [_even(view) for view in views]
    return imageio.imwrite(
        "<bytes>", frames, extension=".mp4", plugin="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=1
    )


def _even(view: PIL.Image.Image) -> np.ndarray:
    pixels = np.asarray(view.convert("RGB"))
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
