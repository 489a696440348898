"""`prepare_subject`: from photos, a video or a posed capture to one prepared folder."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cameras import Capture, SubjectFrame, load_capture
from ..cameras.files import recognise_format
from ..cameras.normalization import Up
from ..errors import MVCustomError, enumerated
from ..subjects import ReferenceViews
from .captions import read_captions, sidecars
from .checks import check_files, file_digest
from .found_views import views_of_found
from .manifest import MANIFEST_NAME, SUBJECT_KEY, SubjectRecord
from .masks import check_background_removal, masks_in_folder, removed_background
from .output_folder import check_output, digests_of, recorded_preparation, written_at_once
from .photos import Photo, find_photos, read_photos
from .structure_from_motion import find_cameras
from .subject_dataset import load_subject_dataset
from .video import VIDEO_SUFFIXES, sharpest_frames

_VERSION = 1


@dataclass(frozen=True)
class Preparation:
    """What [`prepare_subject`] made.

    Args:
        folder (`Path`): The prepared folder.
        photos (`int`): How many photos there were.
        registered (`int`): How many of them have a camera.
        left_out (`tuple` of `str`): Names of those that have none.
        size (`tuple` of `int`): Height and width of the views.
        masks (`bool`), captions (`bool`): Whether it has some.
        reprojection_error (`float`, *optional*): Mean, in pixels; `None` if the capture had its cameras.
        up_to_date (`bool`): Whether it was there already.
    """

    folder: Path
    photos: int
    registered: int
    left_out: tuple[str, ...]
    size: tuple[int, int]
    masks: bool
    captions: bool
    reprojection_error: float | None = None
    up_to_date: bool = False

    def __str__(self) -> str:
        cameras = "given"
        if self.reprojection_error is not None:
            cameras = f"found, mean reprojection error {self.reprojection_error:.2f} px"
        return (
            f"{self.registered} of {self.photos} photos, {self.size[1]} × {self.size[0]}, cameras {cameras}, "
            f"{'masks' if self.masks else 'no masks'}, {'captions' if self.captions else 'no captions'} → {self.folder}"
            f"{' (up to date, nothing done)' if self.up_to_date else ''}"
        )


@dataclass(frozen=True)
class _Settings:
    class_noun: str | None
    token: str | None
    masks: str | Path
    caption: str | None
    up: Any
    max_size: int
    sequence: str | None
    frames: int
    features_in_masks: bool

    def digest_of(self, *content: object) -> str:
        """A key of photos and settings."""
        up = self.up.tolist() if isinstance(self.up, Tensor) else self.up
        masks = str(self.masks) if isinstance(self.masks, str) else "folder"  # its files are part of the content
        values = [_VERSION, self.class_noun, self.token, masks, self.caption, up, self.max_size, self.frames]
        values += [self.features_in_masks, *content]
        return hashlib.sha256(json.dumps(values, default=list).encode()).hexdigest()


@dataclass(frozen=True)
class _Prepared:
    """Views and what is known about how they came to be."""

    views: ReferenceViews
    frame: SubjectFrame
    names: Sequence[str]  # of all photos
    record: dict[str, Any]


def prepare_subject(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    class_noun: str | None = None,
    token: str | None = None,
    masks: str | PathLike[str] = "auto",
    caption: str | None = None,
    up: Up = "auto",
    max_size: int = 1024,
    sequence: str | None = None,
    frames: int = 40,
    features_in_masks: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
) -> Preparation:
    """Makes a folder that [`load_subject_dataset`] and the trainer take.

    Nothing of the user's is changed. The folder is written beside its place and renamed when it is complete, so an error,
    a full disk or Ctrl-C leave what was there. Made again from the same photos with the same settings, it stays as it is.

    Args:
        source (`str` or path):
            A folder of photos (JPEG, PNG, WebP, TIFF, HEIC), a video, or a posed capture (transforms.json, COLMAP, CO3Dv2,
            Polycam), whose cameras are taken as they are. Cameras of photos and videos are found by COLMAP.
        output (`str` or path): The folder to make.
        class_noun (`str`, *optional*): What the subject is: mug, car, chair ...
        token (`str`, *optional*): The subject's new word.
        masks (`str` or path, defaults to `"auto"`):
            `"auto"` takes the capture's masks, else the photos' alpha channels, else none; `"required"` refuses to go on
            without; `"none"`; `"rembg"` removes the background; or a folder with a mask of each photo's name.
        caption (`str`, *optional*):
            Text of every photo that has no .txt file of its name beside it; with `{token}` and, if wanted, `{noun}`.
            Without it and such files there are no captions, and training uses its own prompts.
        up (`str`, vector or `None`, defaults to `"auto"`): World up, see [`normalize_cameras`].
        max_size (`int`, defaults to 1024): Longer side of the prepared photos at most.
        sequence (`str`, *optional*): The sequence of a CO3Dv2 file.
        frames (`int`, defaults to 40): How many frames of a video to take.
        features_in_masks (`bool`, defaults to `False`):
            Find cameras by the subject alone, for a subject that was turned before a background that stood still. Needs
            masks that are given or in the alpha channels.
        overwrite (`bool`, defaults to `False`): Whether to replace a folder that was prepared before.
        report (callable, *optional*): Is given lines of progress.

    Returns:
        [`Preparation`].

    Raises:
        MVCustomError: naming the argument or the file and what to do.

    Examples:
        ```py
        >>> from diffusers_mvcustom.data import prepare_subject

        >>> print(prepare_subject("photos/", "my-mug/", class_noun="mug"))  # doctest: +SKIP
        24 of 24 photos, 1024 × 768, cameras found, mean reprojection error 0.61 px, no masks, no captions → my-mug
        ```
    """
    source, output = Path(source), Path(output)
    report = report or (lambda line: None)
    settings = _checked(
        _Settings(
            class_noun,
            token,
            masks if isinstance(masks, str) else Path(masks),
            caption,
            up,
            max_size,
            sequence,
            frames,
            features_in_masks,
        )
    )
    format = recognise_format(source) if source.is_dir() or source.suffix.lower() not in VIDEO_SUFFIXES else None
    if not source.exists():
        raise MVCustomError(f"{source}: there is no such file or folder.")
    check_output(source, output, None, overwrite)
    if format == "real_estate10k":
        raise MVCustomError(f"{source}: RealEstate10K files hold cameras of videos, not photos of a subject.")
    prepare = _prepare_photos if format is None else _prepare_capture
    with tempfile.TemporaryDirectory(prefix="mvcustom-prepare-") as temporary:
        files: Any = source
        if format is None:
            files = find_photos(source) if source.is_dir() else _frames(source, Path(temporary), settings, report)
        else:
            files = load_capture(source, sequence=sequence)
        fingerprint = _fingerprint(source, files, settings)
        if check_output(source, output, fingerprint, overwrite):
            return _existing(output)
        prepared = prepare(source, files, settings, report)
        report("writing")
        with written_at_once(output) as folder:
            _write(folder, prepared, settings, fingerprint)
    return _existing(output, up_to_date=False)


def _checked(settings: _Settings) -> _Settings:
    for name, least in (("max_size", 64), ("frames", 3)):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise MVCustomError(f"{name}: expected a whole number of at least {least}, got {value!r}.")
    if settings.token is not None and (not settings.token.strip() or any(c.isspace() for c in settings.token)):
        raise MVCustomError(f"token: expected one word such as '<my-mug>', got {settings.token!r}.")
    read_captions([], settings.caption, settings.token)
    if settings.masks not in ("auto", "required", "none", "rembg"):
        folder = Path(settings.masks)
        if not folder.is_dir():
            raise MVCustomError(
                f"masks: expected auto, required, none, rembg or a folder with masks, got {folder}, which is none."
            )
        settings = replace(settings, masks=folder)
    if settings.masks == "rembg":
        check_background_removal()
    if isinstance(settings.up, (list, tuple)):
        settings = replace(settings, up=tuple(float(value) for value in settings.up))
    return settings


def _frames(source: Path, folder: Path, settings: _Settings, report: Callable[[str], None]) -> list[Path]:
    if not isinstance(settings.masks, str):
        raise MVCustomError("masks: frames of a video have no names that masks could have; use rembg or none.")
    files = sharpest_frames(source, folder, settings.frames)
    report(f"took {len(files)} frames of {source.name}, the sharpest of equal stretches")
    return files


def _fingerprint(source: Path, files: list[Path] | Capture, settings: _Settings) -> str:
    cameras = None
    if isinstance(files, Capture):
        cameras = [files.cameras.camera_to_world.tolist(), files.cameras.intrinsics.tolist(), repr(files.distortion)]
        photos = [file for file in files.image_paths if file is not None]
        others = [file for file in files.mask_paths if file is not None]
    else:
        photos, others = list(files), []
    check_files(source, "photos", photos)
    if not isinstance(settings.masks, str):
        others = masks_in_folder(settings.masks, photos)
    others = [file for file in [*others, *sidecars(photos)] if file.is_file()]
    return settings.digest_of([(file.name, file_digest(file)) for file in [*photos, *others]], cameras)


def _prepare_capture(source: Path, capture: Capture, settings: _Settings, report: Callable[[str], None]) -> _Prepared:
    """A posed capture: its own cameras."""
    report(f"cameras are given for {len(capture)} photos")
    cameras = capture.cameras
    scale = min(1.0, settings.max_size / max(cameras.height, cameras.width))
    size = {"height": max(1, round(cameras.height * scale)), "width": max(1, round(cameras.width * scale))}
    removed = settings.masks == "rembg"
    dataset = load_subject_dataset(
        source,
        **(size if scale < 1 else {}),
        up=settings.up,
        masks="none" if removed else settings.masks,
        sequence=settings.sequence,
    )
    views = dataset.views
    if removed:
        views = replace(views, masks=removed_background(views.images))
    photos = [file for file in capture.image_paths if file is not None]  # a dataset has all of them
    captions = views.captions or read_captions(photos, settings.caption, settings.token)
    record = {"cameras": "given", "left_out": []}
    return _Prepared(replace(views, captions=captions), dataset.subject_frame, views.names, record)


def _prepare_photos(source: Path, files: list[Path], settings: _Settings, report: Callable[[str], None]) -> _Prepared:
    """Photos alone: cameras by structure from motion."""
    photos = read_photos(source, files)
    captions = read_captions(files, settings.caption, settings.token)
    masks = _mask_files(source, photos, settings)
    in_masks = settings.features_in_masks or (masks is not None and masks[0] == photos[0].path)
    if settings.features_in_masks and masks is None:
        raise MVCustomError("features_in_masks: expected masks (a folder, or alpha channels) to find features in.")
    found = find_cameras(source, photos, masks=masks if in_masks else None, report=report)
    left_out = [photo.name for i, photo in enumerate(photos) if i not in found.indices]
    if left_out:
        warnings.warn(
            f"{source}: {len(left_out)} of {len(photos)} photos could not be placed and are left out: "
            f"{enumerated(left_out)}. Photos between them and their neighbours would help.",
            stacklevel=3,
        )
    views, frame = views_of_found(source, photos, found, up=settings.up, max_size=settings.max_size, masks=masks)
    if settings.masks == "rembg":
        views = replace(views, masks=removed_background(views.images))
    if views.masks is not None and (empty := [n for n, m in zip(views.names, views.masks) if not (m > 0.5).any()]):
        raise MVCustomError(
            f"{source}: masks: expected the subject (white) in every mask, none in {enumerated(empty)}."
        )
    if captions is not None:
        views = replace(views, captions=[captions[i] for i in found.indices])
    record = {
        "cameras": "found",
        "left_out": left_out,
        "reprojection_error": found.reprojection_error,
        "points": found.points,
        "attempts": list(found.attempts),
    }
    return _Prepared(views, frame, [photo.name for photo in photos], record)


def _mask_files(source: Path, photos: Sequence[Photo], settings: _Settings) -> list[Path] | None:
    """A mask file for each photo (its own path for its alpha channel), or none."""
    if not isinstance(settings.masks, str):
        return masks_in_folder(settings.masks, [photo.path for photo in photos])
    if settings.masks in ("none", "rembg"):
        return None
    without = [photo.name for photo in photos if not photo.transparent]
    if not without:
        return [photo.path for photo in photos]
    if settings.masks == "required":
        raise MVCustomError(
            f"{source}: masks: expected transparent photos or a folder of masks, none for {enumerated(without)}."
        )
    if len(without) < len(photos):
        raise MVCustomError(
            f"{source}: masks: expected all photos to be transparent or none, {len(without)} of {len(photos)} are not: "
            f"{enumerated(without)}. Or ignore it with masks='none'."
        )
    return None


def _write(folder: Path, prepared: _Prepared, settings: _Settings, fingerprint: str) -> None:
    views = prepared.views
    views.save(folder)
    preparation = {
        "fingerprint": fingerprint,
        "photos": len(prepared.names),
        "registered": len(views),
        "size": [views.height, views.width],
        "masks": views.masks is not None,
        "captions": views.captions is not None,
        **prepared.record,
        "files": digests_of(folder),
    }
    manifest = folder / MANIFEST_NAME
    content = json.loads(manifest.read_text(encoding="utf-8"))
    record = SubjectRecord(prepared.frame, settings.class_noun, settings.token, preparation)
    content = {SUBJECT_KEY: record.to_dict(), **content}
    manifest.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _existing(output: Path, up_to_date: bool = True) -> Preparation:
    record = recorded_preparation(output) or {}
    return Preparation(
        folder=output,
        photos=record["photos"],
        registered=record["registered"],
        left_out=tuple(record["left_out"]),
        size=tuple(record["size"]),
        masks=record["masks"],
        captions=record["captions"],
        reprojection_error=record.get("reprojection_error"),
        up_to_date=up_to_date,
    )
