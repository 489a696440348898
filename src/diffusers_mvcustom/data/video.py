"""Photos from a video: the sharpest frames, spread over its time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MVCustomError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm")
_SHARPNESS_SIDE = 480


def sharpest_frames(file: Path, folder: Path, count: int) -> list[Path]:
    """Writes the sharpest frame of each of `count` equal stretches of a video.

    Args:
        file (`Path`): The video.
        folder (`Path`): Where the frames are written, as PNG named by their number in the video.
        count (`int`): How many; all frames if the video has no more.

    Raises:
        MVCustomError: if the video cannot be read, or the extra `video` is not installed.
    """
    sharpness = [_sharpness(frame) for frame in _frames(file)]  # reading twice, as all frames would not fit in memory
    if not sharpness:
        raise MVCustomError(f"{file}: expected a video, found no frames in it.")
    edges = np.linspace(0, len(sharpness), min(count, len(sharpness)) + 1).round().astype(int)
    chosen = {first + int(np.argmax(sharpness[first:last])) for first, last in pairwise(edges)}
    files = []
    for number, frame in enumerate(_frames(file)):
        if number in chosen:
            files.append(folder / f"frame_{number:06d}.png")
            Image.fromarray(frame).save(files[-1], compress_level=1)
    return files


def _frames(file: Path) -> Iterator[np.ndarray]:
    """The frames, `(H, W, 3)` bytes each, upright."""
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401  (imageio's message about it names no package)
    except ImportError as error:
        raise MVCustomError(
            f"{file}: videos need imageio (pip install 'diffusers-mvcustom[video]'), or a folder of frames as images."
        ) from error
    try:
        yield from imageio.imiter(file, plugin="FFMPEG")
    except (OSError, RuntimeError, ValueError, IndexError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MVCustomError(f"{file}: expected a video, got something unreadable: {reason[-1]}") from error


def _sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian, at a size at which noise and the codec's blocks count for little."""
    image = Image.fromarray(frame).convert("L")
    image.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE))
    grey = np.asarray(image, dtype=np.float32)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var()) if laplacian.size else 0.0
