"""Frames of a video by their numbers, decoded with PyAV, or read from image files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from ..errors import MVCustomError
from .video_sources import StoredFile, VideoSource

if TYPE_CHECKING:
    import av

_REMEMBERED = 4096


class UnreadableVideo(MVCustomError):
    """A video that cannot be decoded, or is too short."""


class VideoReader:
    """Reads frames by their numbers, and remembers when the frames of the last few thousand videos are shown."""

    def __init__(self) -> None:
        self._times: dict[StoredFile, tuple[int, ...]] = {}

    def read(
        self, source: VideoSource, choose: Callable[[int], Sequence[int]]
    ) -> np.ndarray:  # [F, H, W, 3] of 8 bits, RGB
        """Chosen frames of a video.

        Args:
            source ([`VideoSource`]): The video.
            choose (callable): From the number of frames that there are to the numbers of those wanted, each larger than
                the one before. It may raise [`UnreadableVideo`].

        Returns:
            `np.ndarray` of shape `(F, H, W, 3)`: RGB, 8 bits, turned as the file says (phones).

        Raises:
            UnreadableVideo: naming the video and what is wrong with it.
            MVCustomError: if PyAV is not installed.
        """
        with _named(source):
            length = len(source.files) if source.is_frames else len(self._frame_times(source.files[0]))
        try:
            numbers = choose(length)
        except UnreadableVideo as error:
            raise UnreadableVideo(f"{source.name}: {error}") from error
        with _named(source):
            if source.is_frames:
                frames = [_read_image(source.files[n]) for n in numbers]
            else:
                times = self._frame_times(source.files[0])
                frames = _decode(source.files[0], [times[n] for n in numbers], start=times[0])
            sizes = {frame.shape for frame in frames}
            if len(sizes) > 1:
                raise UnreadableVideo(f"its frames have different sizes, {sorted(sizes)}")
        return np.stack(frames)

    def _frame_times(self, file: StoredFile) -> tuple[int, ...]:
        if file not in self._times:
            if len(self._times) >= _REMEMBERED:
                self._times.clear()
            self._times[file] = _read_frame_times(file)
        return self._times[file]


@contextmanager
def _named(source: VideoSource) -> Iterator[None]:
    """Errors of decoding as [`UnreadableVideo`] with the video's name.

    Damaged files make decoders raise almost anything: PyAV also `IndexError` and `EOFError`, Pillow also `SyntaxError`.
    """
    try:
        yield
    except UnreadableVideo as error:
        raise UnreadableVideo(f"{source.name}: {error}") from error
    except MVCustomError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableVideo(f"{source.name}: cannot be decoded ({reason})") from error


def _read_image(file: StoredFile) -> np.ndarray:
    with Image.open(io.BytesIO(file.read())) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _open(file: StoredFile) -> av.container.InputContainer:
    try:
        import av
    except ImportError as error:
        raise MVCustomError(
            'videos need PyAV: pip install "diffusers-mvcustom[video]". Folders of frames are read without it.'
        ) from error
    return av.open(file.path if file.offset is None else io.BytesIO(file.read()), mode="r", metadata_errors="ignore")


def _read_frame_times(file: StoredFile) -> tuple[int, ...]:
    """When each frame is shown, in the stream's time base. Only packets are read; nothing is decoded.

    Containers' own frame counts are often missing (webm) or wrong.
    """
    with _open(file) as container:
        if not container.streams.video:
            raise UnreadableVideo("it has no picture")
        stream = container.streams.video[0]
        times = [p.pts for p in container.demux(stream) if p.pts is not None and p.size and not p.is_discard]
    if not times:
        raise UnreadableVideo("it has no frames with times")
    return tuple(sorted(set(times)))


def _decode(file: StoredFile, times: Sequence[int], start: int) -> list[np.ndarray]:
    """The frames at these times, in increasing order."""
    wanted, found = set(times), {}
    for seek in (True, False) if times[0] > start else (False,):
        with _open(file) as container:
            stream = container.streams.video[0]
            if seek:
                container.seek(times[0], stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts in wanted and frame.pts not in found:
                    if frame.is_corrupt:
                        raise UnreadableVideo(f"its frame at time {frame.pts} is damaged")
                    found[frame.pts] = _upright(frame)
                if frame.pts is not None and frame.pts >= times[-1]:
                    break
        if len(found) == len(wanted):  # some formats land behind where they were sent: then from the start
            return [found[time] for time in times]
    raise UnreadableVideo(f"only {len(found)} of {len(wanted)} frames could be decoded")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB, turned counter-clockwise by what the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.rot90(pixels, turns) if turns else pixels
