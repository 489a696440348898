"""Training clips by number: which video, where in it, how cropped, with which text. A pure function of seed and number."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import MVCustomError
from .clip_geometry import ClipGeometry
from .sampling import derived_seed
from .video_decoding import UnreadableVideo, VideoReader
from .video_sources import VideoSource

_MOST_ATTEMPTS = 32


@dataclass(frozen=True)
class ClipSettings:
    """How clips are taken from videos.

    Args:
        num_frames (`int`): F, frames of a clip.
        frame_stride (`int`): Frames of the video from one frame of the clip to the next; smaller where the video is too
            short for it.
        height (`int`), width (`int`): Size of the frames in pixels.
        min_crop (`float`): Smallest crop, as the share of the largest one of this shape.
        random_crop (`bool`): Whether crops lie anywhere; otherwise in the middle.
        horizontal_flip (`float`): Share of clips that are mirrored.
        image_share (`float`): Share of samples that are a single frame.
        text_dropout (`float`): Share of samples without text.
        default_caption (`str`): Text of videos that have none.
        caption_column (`str`, *optional*): Key of the text in json files beside videos.
        skip_unreadable (`bool`): Whether another video takes the place of one that cannot be read; otherwise it is an
            error.
        geometry (`bool`): Whether depth and cameras are read, where a video has them.
        seed (`int`): Of all that is random.
    """

    num_frames: int
    frame_stride: int
    height: int
    width: int
    min_crop: float = 1.0
    random_crop: bool = True
    horizontal_flip: float = 0.0
    image_share: float = 0.0
    text_dropout: float = 0.0
    default_caption: str = ""
    caption_column: str | None = None
    skip_unreadable: bool = True
    geometry: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ClipSample:
    """One training sample.

    Args:
        number (`int`): Its number in the whole training.
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): RGB, 8 bits; F is 1 for a single image.
        text (`str`): Its text; empty if dropped.
        source (`str`): The video's name.
        unreadable (`tuple` of `str`): Why videos were passed over for this one, each beginning with the video's name.
        geometry ([`ClipGeometry`], *optional*): Depth and cameras of the frames.
    """

    number: int
    frames: Tensor  # [F, 3, H, W] of 8 bits
    text: str
    source: str
    unreadable: tuple[str, ...] = ()
    geometry: ClipGeometry | None = None


class VideoClips(Dataset):
    """Clips by number; there is one for each number from 0 on.

    Every video comes up once before any comes up again, in an order that the seed gives to each round. Nothing has to be
    remembered to go on anywhere, and processes take the numbers that are theirs.

    Args:
        sources (sequence of [`VideoSource`]): The videos.
        settings ([`ClipSettings`]): How clips are taken from them.
    """

    def __init__(self, sources: Sequence[VideoSource], settings: ClipSettings) -> None:
        self.sources = sources
        self.settings = settings
        self._reader = VideoReader()
        self._round: tuple[int, Tensor] | None = None

    def __getitem__(self, number: int) -> ClipSample:
        """The sample with this number.

        Raises:
            UnreadableVideo: if its video cannot be read and is not to be skipped, or very many in a row cannot.
        """
        unreadable: list[str] = []
        for attempt in range(_MOST_ATTEMPTS):
            source = self.sources[self.source_index(number, attempt)]
            try:
                return self._sample(number, source, tuple(unreadable))
            except UnreadableVideo as error:
                if not self.settings.skip_unreadable:
                    raise
                unreadable.append(str(error))
        raise UnreadableVideo(
            f"data: {_MOST_ATTEMPTS} videos in a row cannot be used. The last: {unreadable[-1]}. Is the data whole, and are "
            f"the videos at least {self.settings.num_frames} frames long?"
        )

    def source_index(self, number: int, attempt: int = 0) -> int:
        """The video of a sample, or the one that takes its place after some that cannot be read."""
        if attempt:
            generator = torch.Generator().manual_seed(derived_seed(self.settings.seed, f"video {attempt}", number))
            return int(torch.randint(len(self.sources), (), generator=generator))
        round_, place = divmod(number, len(self.sources))
        if self._round is None or self._round[0] != round_:
            generator = torch.Generator().manual_seed(derived_seed(self.settings.seed, "videos", round_))
            self._round = round_, torch.randperm(len(self.sources), generator=generator)
        return int(self._round[1][place])

    def _sample(self, number: int, source: VideoSource, unreadable: tuple[str, ...]) -> ClipSample:
        settings = self.settings
        generator = torch.Generator().manual_seed(derived_seed(settings.seed, "clip", number))
        image, drop_text, flip, start, size, row, column, caption = torch.rand(
            8, generator=generator, dtype=torch.float64
        ).tolist()
        count = 1 if image < settings.image_share else settings.num_frames
        numbers: list[int] = []

        def choose(length: int) -> Sequence[int]:
            numbers[:] = _frame_numbers(length, count, settings.frame_stride, start)
            return numbers

        frames = torch.from_numpy(self._reader.read(source, choose)).permute(0, 3, 1, 2)
        place = (row, column) if settings.random_crop else (0.5, 0.5)
        scale = settings.min_crop + (1 - settings.min_crop) * size if settings.random_crop else 1.0
        crop = _crop(frames.shape[-2:], settings.height, settings.width, scale, place)
        geometry = self._geometry(source, numbers, crop, frames.shape[-2:]) if count > 1 else None
        frames = _resized(frames, crop, settings.height, settings.width)
        if flip < settings.horizontal_flip:
            frames = frames.flip(-1)
            geometry = None if geometry is None else replace(geometry, mirrored=True)
        captions = source.read_captions(settings.caption_column) or (settings.default_caption,)
        text = "" if drop_text < settings.text_dropout else captions[int(caption * len(captions))]
        return ClipSample(number, frames.contiguous(), text, source.name, unreadable, geometry)

    def _geometry(
        self, source: VideoSource, numbers: list[int], crop: _Crop, size: Sequence[int]
    ) -> ClipGeometry | None:
        """Depth and cameras of a clip, if they are asked for and there are any."""
        if not self.settings.geometry or source.geometry is None:
            return None
        try:
            whole = ClipGeometry.from_bytes(source.geometry.read())
            if len(whole.depth) <= max(numbers):
                raise MVCustomError(f"it has {len(whole.depth)} frames, the video frame {max(numbers)}.")
        except (MVCustomError, OSError) as error:
            raise UnreadableVideo(f"{source.name}: its geometry: {error}") from error
        rows, columns = size
        return whole.frames(numbers).cropped(
            crop.top / rows, crop.left / columns, crop.height / rows, crop.width / columns
        )


def _frame_numbers(length: int, count: int, stride: int, start: float) -> range:
    """`count` frames of a video, `stride` apart or as far as it has room for, beginning at a share of what is left."""
    if length < count:
        raise UnreadableVideo(f"it has {length} frames, a clip has {count}")
    if count > 1:
        stride = min(stride, (length - 1) // (count - 1))
    first = int(start * (length - (count - 1) * stride))
    return range(first, first + (count - 1) * stride + 1, stride)


class _Crop(NamedTuple):
    """A part of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def _crop(size: Sequence[int], height: int, width: int, scale: float, place: tuple[float, float]) -> _Crop:
    """A crop of the wanted shape, `scale` times the largest such, at a share of the room that is left."""
    rows, columns = size
    factor = scale * min(rows / height, columns / width)
    crop = max(1, min(rows, round(height * factor))), max(1, min(columns, round(width * factor)))
    top, left = (int(share * (room - side + 1)) for share, room, side in zip(place, (rows, columns), crop))
    return _Crop(top, left, *crop)


def _resized(
    frames: Tensor,  # [F, 3, H, W] of 8 bits
    crop: _Crop,
    height: int,
    width: int,
) -> Tensor:
    """A crop of the frames at the wanted size."""
    frames = frames[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if (crop.height, crop.width) == (height, width):
        return frames
    return F.interpolate(frames.contiguous(), (height, width), mode="bilinear", antialias=True)


class ClipNumbers:
    """The numbers of the samples of one process, batch by batch.

    Args:
        first_step (`int`), last_step (`int`): The steps to make, from the first on and without the last.
        batch_size (`int`): Samples of a batch on each process.
        accumulation (`int`): Batches of a step.
        process (`int`), num_processes (`int`): Which part is whose.

    Example:

        >>> list(ClipNumbers(1, 3, batch_size=2, accumulation=1, process=1, num_processes=2))
        [[6, 7], [10, 11]]
    """

    def __init__(
        self, first_step: int, last_step: int, *, batch_size: int, accumulation: int, process: int, num_processes: int
    ) -> None:
        self.batches = range(first_step * accumulation, last_step * accumulation)
        self.batch_size = batch_size
        self.process = process
        self.num_processes = num_processes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            first = (batch * self.num_processes + self.process) * self.batch_size
            yield list(range(first, first + self.batch_size))


class ClipLoader:
    """Batches of clips in the order of their numbers, prepared by other processes ahead of time.

    Args:
        clips ([`VideoClips`]): The clips.
        numbers (iterable of lists of `int`): The batches.
        num_workers (`int`): Processes that decode; 0 decodes in this one.
    """

    def __init__(self, clips: VideoClips, numbers: Iterable[list[int]], num_workers: int) -> None:
        self._loader = DataLoader(
            _ErrorsAsValues(clips),
            batch_sampler=numbers,
            num_workers=num_workers,
            collate_fn=list,
            worker_init_fn=_leave_signals_alone,
            generator=torch.Generator(),  # the global one is not to depend on the number of workers
        )
        self._iterator: Iterator | None = None

    def __next__(self) -> list[ClipSample]:
        """The next batch.

        Raises:
            MVCustomError: see [`VideoClips`].
        """
        if self._iterator is None:
            self._iterator = iter(self._loader)
        batch = next(self._iterator)
        for sample in batch:
            if isinstance(sample, MVCustomError):
                raise sample
        return batch

    def close(self) -> None:
        """Ends the workers."""
        self._iterator = None


class _ErrorsAsValues(Dataset):
    """A worker's exceptions arrive as texts with tracebacks; the user's errors are to arrive as they are."""

    def __init__(self, clips: VideoClips) -> None:
        self.clips = clips

    def __getitem__(self, number: int) -> ClipSample | MVCustomError:
        try:
            return self.clips[number]
        except MVCustomError as error:
            return type(error)(str(error))


def _leave_signals_alone(worker: int) -> None:
    """Ctrl-C reaches all processes; the trainer finishes its step, for which it needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
