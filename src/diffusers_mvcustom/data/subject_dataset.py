"""`SubjectDataset`: the posed photos of a subject, ready to train on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..cameras import Cameras, Capture, SubjectFrame, load_capture, normalize_cameras, undistort_image
from ..cameras.capture import complete_paths
from ..cameras.normalization import Up
from ..errors import CamerasError, MVCustomError, enumerated
from ..subjects import ReferenceViews
from ..subjects.reference_files import read_image
from ..subjects.reference_views import resample
from .checks import (
    MINIMUM_PHOTOS,
    check_cameras_of_capture,
    check_count,
    check_files,
    check_no_duplicates,
    file_digest,
    pixel_digest,
)
from .manifest import SubjectRecord, frame_texts, manifest_file, read_manifest
from .masks import has_alpha, masks_in_folder
from .silhouettes import convention_that_fits

_MASK_CHOICES = ("auto", "required", "none")


@dataclass(frozen=True, eq=False)
class SubjectDataset:
    """Posed photos of one subject in the subject frame.

    Args:
        views ([`ReferenceViews`]): Images, cameras in the subject frame, masks and captions where there are some, names.
        subject_frame ([`SubjectFrame`]): From the subject frame to the world of the photos' own cameras.
        class_noun (`str`, *optional*): What the subject is: mug, car, chair ...
        token (`str`, *optional*): The new token that is to name it.
        source (`Path`, *optional*): Where it was read from, for messages.
    """

    views: ReferenceViews
    subject_frame: SubjectFrame
    class_noun: str | None = None
    token: str | None = None
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int | slice | Iterable[int]) -> SubjectDataset:
        """The photos selected by `index`, always a dataset: `dataset[3]` holds one photo."""
        return replace(self, views=self.views[index])

    def split(self, held_out: int) -> tuple[SubjectDataset, SubjectDataset]:
        """Photos to train on and photos held out, the latter's viewing directions spread evenly.

        Args:
            held_out (`int`): How many photos to hold out, at least 1; at least 3 have to be left to train on.
        """
        most = len(self) - MINIMUM_PHOTOS
        if isinstance(held_out, bool) or not isinstance(held_out, int) or not 1 <= held_out <= most:
            raise MVCustomError(
                f"held_out: expected a whole number from 1 to {most} ({len(self)} photos, at least {MINIMUM_PHOTOS} of "
                f"them to train on), got {held_out!r}."
            )
        numbered = replace(self.views, names=[str(i) for i in range(len(self))])
        chosen = [int(name) for name in numbered.select(held_out).names]
        return self[[i for i in range(len(self)) if i not in chosen]], self[chosen]


def load_subject_dataset(
    path: str | PathLike[str],
    *,
    height: int | None = None,
    width: int | None = None,
    up: Up = "auto",
    masks: str | PathLike[str] = "auto",
    sequence: str | None = None,
) -> SubjectDataset:
    """Reads posed photos of a subject.

    Args:
        path (`str` or path):
            A folder that `mvcustom prepare` made, or any posed capture that [`load_capture`] reads (transforms.json,
            COLMAP, CO3Dv2), which is brought into the subject frame.
        height (`int`, *optional*), width (`int`, *optional*):
            Size of the views; photos are resized to cover it and cropped at the centre, with their intrinsics. By
            default the photos' own size.
        up (`str`, vector or `None`, defaults to `"auto"`):
            World up of a capture, see [`normalize_cameras`]. A prepared folder has it settled.
        masks (`str` or path, defaults to `"auto"`):
            `"auto"` takes the capture's masks, else the photos' alpha channels, else none; `"required"` is the same but
            refuses a capture without; `"none"` ignores them; or a folder with a mask of each photo's name (black is
            ignored).
        sequence (`str`, *optional*): The sequence of a CO3Dv2 file.

    Returns:
        [`SubjectDataset`].

    Raises:
        MVCustomError: naming the file, for fewer than 3 photos, a photo that is there twice, files that are missing or
            unreadable, masks of only some photos or without any subject, cameras in another convention.

    Examples:
        ```py
        >>> from diffusers_mvcustom.data import load_subject_dataset

        >>> dataset = load_subject_dataset("my-mug/", height=512, width=512)  # doctest: +SKIP
        >>> len(dataset), dataset.views.images.shape  # doctest: +SKIP
        (24, torch.Size([24, 3, 512, 512]))
        ```
    """
    path = Path(path)
    capture = load_capture(path, sequence=sequence)
    check_count(path, len(capture))
    record, names, captions = _manifest_of(path, capture)
    photos = complete_paths(capture.image_paths)
    if photos is None:
        without = [name for name, file in zip(names, capture.image_paths) if file is None]
        raise MVCustomError(f"{path}: expected a photo for every camera, there is none for {enumerated(without)}.")
    check_files(path, "photos", photos)
    check_no_duplicates(path, names, [file_digest(file) for file in photos])
    read = capture.cameras
    capture, alpha = _with_masks(path, capture, photos, names, masks)
    cameras, subject_frame = _in_subject_frame(path, capture, record, up)
    check_cameras_of_capture(path, cameras, names)
    capture = capture.with_cameras(cameras)
    views = ReferenceViews.from_capture(capture, height=height, width=width)
    check_no_duplicates(path, names, [pixel_digest(image) for image in views.images])
    if alpha:
        views = replace(views, masks=_alpha_masks(capture, photos, views))
    _check_masks(path, views, names)
    if record is None and views.masks is not None:
        _check_silhouettes(path, read, views, views.masks)
    return SubjectDataset(
        views=replace(views, names=names, captions=captions),
        subject_frame=subject_frame,
        class_noun=None if record is None else record.class_noun,
        token=None if record is None else record.token,
        source=path,
    )


def _manifest_of(path: Path, capture: Capture) -> tuple[SubjectRecord | None, tuple[str, ...], list[str] | None]:
    """The record of a prepared folder, the photos' names, and captions if the capture has some."""
    file = manifest_file(path)
    if file is None:
        return None, capture.names, None
    record, frames = read_manifest(file)
    names = frame_texts(file, frames, "name")
    return record, capture.names if names is None else tuple(names), frame_texts(file, frames, "caption")


def _in_subject_frame(
    path: Path, capture: Capture, record: SubjectRecord | None, up: Up
) -> tuple[Cameras, SubjectFrame]:
    if record is None:
        try:
            return normalize_cameras(capture.cameras, up=up)
        except MVCustomError as error:
            raise type(error)(f"{path}: {error}") from error
    if not (isinstance(up, str) and up == "auto"):
        raise MVCustomError(
            f"up: {path} is prepared, which way is up is settled in it; prepare it again with another --up."
        )
    return capture.cameras, record.subject_frame


def _with_masks(
    path: Path, capture: Capture, photos: list[Path], names: tuple[str, ...], masks: str | PathLike[str]
) -> tuple[Capture, bool]:
    """The capture with the mask files that are to be used, and whether to take the alpha channels instead."""
    if not isinstance(masks, str) or masks not in _MASK_CHOICES:
        return replace(capture, mask_paths=tuple(masks_in_folder(Path(masks), photos))), False
    if masks == "none":
        return replace(capture, mask_paths=(None,) * len(capture)), False
    files = complete_paths(capture.mask_paths)
    if files is not None:
        check_files(path, "masks", files)
        return capture, False
    without = [name for name, file in zip(names, capture.mask_paths) if file is None]
    if len(without) == len(capture):
        without = [name for name, file in zip(names, photos) if not has_alpha(file)]
        if not without:
            return capture, True
        if len(without) == len(capture):
            if masks == "required":
                raise MVCustomError(
                    f"{path}: masks: expected a mask for every photo, there are none; name a folder that holds them, or let "
                    "`mvcustom prepare --masks rembg` make them."
                )
            return capture, False
    raise MVCustomError(
        f"{path}: masks: expected masks for all photos or for none, {len(without)} of {len(capture)} have none: "
        f"{enumerated(without)}. Add them, or ignore all with masks='none'."
    )


def _alpha_masks(capture: Capture, photos: list[Path], views: ReferenceViews) -> Tensor:
    """The photos' alpha channels `(N, 1, H, W)`, brought to the views' size as the photos are."""
    masks = []
    for i, file in enumerate(photos):
        alpha = read_image(file, "RGBA", (capture.cameras.height, capture.cameras.width))[3:]
        if capture.distortion is not None:
            alpha = undistort_image(alpha, capture.cameras.intrinsics[i], capture.distortion)
        if (views.height, views.width) != (capture.cameras.height, capture.cameras.width):
            alpha = resample(alpha[None], capture.cameras[i].to(dtype=torch.float32), views.cameras[i])[0]
        masks.append(alpha)
    return torch.stack(masks)


def _check_masks(path: Path, views: ReferenceViews, names: tuple[str, ...]) -> None:
    if views.masks is None:
        return
    empty = [name for name, mask in zip(names, views.masks) if not (mask > 0.5).any()]
    if empty:
        raise MVCustomError(
            f"{path}: masks: expected the subject (white) in every mask, there is none in {len(empty)} of {len(views)}: "
            f"{enumerated(empty)}."
        )


def _check_silhouettes(path: Path, read: Cameras, views: ReferenceViews, masks: Tensor) -> None:
    mistake = convention_that_fits(replace(views.cameras, camera_to_world=read.camera_to_world.float()), masks)
    if mistake is not None:
        raise CamerasError(
            f"{path}: the masks and the cameras contradict each other. {mistake}. Give the poses in the file's own "
            "convention, or leave the masks out (masks='none') if it is them that are wrong."
        )
