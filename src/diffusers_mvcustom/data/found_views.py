"""From photos whose cameras were found to views of one size, without lens distortion, in the subject frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras import Cameras, Distortion, SubjectFrame, check_cameras_face_subject, normalize_cameras, undistort_image
from ..cameras.normalization import Up
from ..errors import CamerasError, MVCustomError
from ..subjects import ReferenceViews
from .photos import Photo, open_photo
from .structure_from_motion import FoundCameras

_NO_DISTORTION = 0.25
"""Pixels that a lens may move the corner by before its distortion is undone."""


@dataclass(frozen=True)
class _Plan:
    """What is done to one photo: resized to `size`, undistorted, and only the middle part is valid."""

    size: tuple[int, int]  # width, height
    intrinsics: Tensor  # [3, 3], of the resized photo
    distortion: Distortion
    valid: tuple[int, int, int, int]  # left, top, right, bottom


def views_of_found(
    source: Path,
    photos: Sequence[Photo],
    found: FoundCameras,
    *,
    up: Up,
    max_size: int,
    masks: Sequence[Path] | None,
) -> tuple[ReferenceViews, SubjectFrame]:
    """Views of the photos that have cameras.

    All photos of one size keep their shape. Where sizes or shapes differ (portrait among landscape ones), their shorter
    sides are made the same and each is cropped to what all have, around the subject.

    Args:
        source (`Path`): What messages name.
        photos (sequence of [`Photo`]): All photos.
        found ([`FoundCameras`]): The cameras of those that were placed.
        up (`str`, vector or `None`): See [`normalize_cameras`].
        max_size (`int`): Longer side of the views at most.
        masks (sequence of `Path`, *optional*): A mask file for each of `photos`; a photo's own path stands for its alpha
            channel.

    Raises:
        MVCustomError: if the photos have no point in common, or a mask does not have its photo's shape.
    """
    chosen = [photos[i] for i in found.indices]
    poses, frame = _subject_frame(source, chosen, found, up)
    plans = [
        _plan(photo, (focal.item(), radial.item()), size)
        for photo, focal, radial, size in zip(chosen, found.focal, found.radial, _sizes(chosen, max_size))
    ]
    width = min(plan.valid[2] - plan.valid[0] for plan in plans)
    height = min(plan.valid[3] - plan.valid[1] for plan in plans)
    images, intrinsics, mask_pixels = [], [], []
    for number, (photo, plan, pose) in enumerate(zip(chosen, plans, poses)):
        left, top = _window(plan, pose, width, height)
        images.append(_pixels(open_photo(photo.path), plan)[:, top : top + height, left : left + width])
        matrix = plan.intrinsics.clone()
        matrix[0, 2] -= left
        matrix[1, 2] -= top
        intrinsics.append(matrix)
        if masks is not None:
            mask = _mask(photo, masks[found.indices[number]])
            mask_pixels.append(_pixels(mask, plan)[:, top : top + height, left : left + width])
    views = ReferenceViews(
        torch.stack(images),
        Cameras(poses, torch.stack(intrinsics), height, width),
        torch.stack(mask_pixels) if mask_pixels else None,
        [photo.name for photo in chosen],
    )
    return views, frame


def _subject_frame(source: Path, photos: Sequence[Photo], found: FoundCameras, up: Up) -> tuple[Tensor, SubjectFrame]:
    """Camera-to-world poses `(K, 4, 4)` in the subject frame; refused if they do not look at one thing."""
    square = Cameras.from_focal(found.camera_to_world, 1.0, 1, 1)
    try:
        normalized, frame = normalize_cameras(square, up=up)
        facing = 0
        for camera in normalized:
            try:
                check_cameras_face_subject(camera)
                facing += 1
            except CamerasError:
                continue
    except CamerasError as error:
        raise MVCustomError(f"{source}: the cameras that were found do not look at one subject: {error}") from error
    if facing < len(photos) / 2:
        raise MVCustomError(
            f"{source}: cameras were found, but only {facing} of {len(photos)} look at the point that they have in common. "
            "Keep the subject in the middle of the photos and walk around it."
        )
    return normalized.camera_to_world, frame


def _sizes(photos: Sequence[Photo], max_size: int) -> list[tuple[int, int]]:
    """(width, height) that each photo is resized to; nothing is enlarged."""
    if len({(photo.width, photo.height) for photo in photos}) == 1:
        scales = [min(1.0, max_size / max(photos[0].width, photos[0].height))] * len(photos)
    else:
        side = min(max_size, *(min(photo.width, photo.height) for photo in photos))
        scales = [side / min(photo.width, photo.height) for photo in photos]
    return [(max(1, round(p.width * scale)), max(1, round(p.height * scale))) for p, scale in zip(photos, scales)]


def _plan(photo: Photo, lens: tuple[float, float], size: tuple[int, int]) -> _Plan:
    width, height = size
    focal_x, focal_y = (
        lens[0] * photo.width * side / full for side, full in ((width, photo.width), (height, photo.height))
    )
    intrinsics = torch.tensor([[focal_x, 0, width / 2], [0, focal_y, height / 2], [0, 0, 1]], dtype=torch.float64)
    distortion = Distortion((lens[1],))
    corner = torch.tensor([width / 2 / focal_x, height / 2 / focal_y], dtype=torch.float64)
    if ((distortion.distort(corner) - corner).norm() * focal_x).item() < _NO_DISTORTION:
        distortion = Distortion()
    return _Plan(size, intrinsics, distortion, _valid_part(size, corner, distortion))


def _valid_part(size: tuple[int, int], corner: Tensor, distortion: Distortion) -> tuple[int, int, int, int]:
    """The largest middle part, of the photo's shape, that the lens saw all of."""
    width, height = size
    if distortion.is_none:
        return 0, 0, width, height
    line = torch.linspace(-1, 1, 65, dtype=torch.float64)
    border = torch.cat(
        [torch.stack([line, torch.ones_like(line)], -1), torch.stack([torch.ones_like(line), line], -1)]
    )
    share = 1.0
    while share > 0.5 and not (distortion.distort(border * corner * share).abs() <= corner + 1e-9).all():
        share -= 0.005
    left, top = (int(np.ceil(side * (1 - share) / 2)) + 1 for side in size)  # the outermost row blends with nothing
    return left, top, width - left, height - top


def _window(plan: _Plan, pose: Tensor, width: int, height: int) -> tuple[int, int]:
    """Left and top of the part of `width` × `height` that has the subject's origin in its middle, as far as there is room."""
    origin = plan.intrinsics @ (-pose[:3, :3].T @ pose[:3, 3])
    left, top, right, bottom = plan.valid
    middle = origin[:2] / origin[2] if origin[2] > 1e-6 else plan.intrinsics[:2, 2]
    return (
        min(max(round(middle[0].item() - width / 2), left), right - width),
        min(max(round(middle[1].item() - height / 2), top), bottom - height),
    )


def _pixels(image: Image.Image, plan: _Plan) -> Tensor:
    """A photo or mask as the pinhole camera sees it, `(C, H, W)` in [0, 1]."""
    resized = image if image.size == plan.size else image.resize(plan.size, Image.Resampling.LANCZOS)
    array = np.array(resized, dtype=np.float32) / 255
    pixels = torch.from_numpy(array).reshape(plan.size[1], plan.size[0], -1).permute(2, 0, 1)
    return pixels if plan.distortion.is_none else undistort_image(pixels, plan.intrinsics, plan.distortion).clamp(0, 1)


def _mask(photo: Photo, file: Path) -> Image.Image:
    if file == photo.path:
        return open_photo(file, "RGBA").getchannel("A")
    mask = open_photo(file, "L")
    if abs(mask.width * photo.height - mask.height * photo.width) > max(photo.width, photo.height):
        raise MVCustomError(
            f"{file}: expected a mask of its photo's shape, {photo.width} × {photo.height} as {photo.name} is displayed, "
            f"got {mask.width} × {mask.height}."
        )
    return mask
