"""The posed photos of a subject that travel with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..cameras.capture import complete_paths
from ..cameras.distortion import undistort_image
from ..errors import MVCustomError
from .reference_files import load_reference_views, read_image, save_reference_views

if TYPE_CHECKING:
    from ..cameras import Capture


@dataclass(frozen=True, eq=False)
class ReferenceViews:
    """N posed images of one size, in the subject frame.

    Pixel values are kept at 8 bits (rounded to multiples of 1/255): what is saved is exactly what is used.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        cameras ([`Cameras`]): The images' cameras, of the same height and width.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): 1 where the subject is, 0 elsewhere.
        names (`list[str]`, defaults to `["view 0", ...]`): The photos' names, for messages and the record.
        captions (`list[str]`, *optional*): A text for each photo.

    Raises:
        MVCustomError: naming the argument, if shapes do not fit or values are not in [0, 1].
    """

    images: Tensor  # [N, 3, H, W]
    cameras: Cameras
    masks: Tensor | None = None  # [N, 1, H, W]
    names: Sequence[str] = ()
    captions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        cameras = self.cameras
        for name, channels in (("images", 3), ("masks", 1)):
            pixels = getattr(self, name)
            if pixels is None and name == "masks":
                continue
            expected = (len(cameras), channels, cameras.height, cameras.width)
            if not isinstance(pixels, Tensor) or tuple(pixels.shape) != expected:
                got = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
                raise MVCustomError(f"{name}: expected shape {expected} to match the cameras, got {got}.")
            pixels = pixels.float()
            if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
                low, high = pixels.min().item(), pixels.max().item()
                raise MVCustomError(f"{name}: expected values in [0, 1], got {low:.4g} to {high:.4g}.")
            object.__setattr__(self, name, (pixels * 255).round() / 255)
        names = self.names or [f"view {i}" for i in range(len(cameras))]
        object.__setattr__(self, "names", _texts("names", names, len(cameras)))
        if self.captions is not None:
            object.__setattr__(self, "captions", _texts("captions", self.captions, len(cameras)))
        object.__setattr__(self, "cameras", cameras.to(device=self.images.device, dtype=torch.float32))

    @classmethod
    def from_capture(cls, capture: Capture, *, height: int | None = None, width: int | None = None) -> ReferenceViews:
        """Reads the photos and masks of a capture.

        Args:
            capture ([`Capture`]): Cameras in the subject frame with the paths of their images, for example
                `loaded.with_cameras(normalize_cameras(loaded.cameras)[0])`. Lens distortion is undone.
            height (`int`, *optional*), width (`int`, *optional*): Size of the views; photos of another size are
                covered (see [`~ReferenceViews.cover`]) one by one, so large photos fit into memory. By default the
                photos' own size.

        Raises:
            MVCustomError: naming the file, if an image cannot be read or its size is not that of its camera.

        A camera file's poses may refer to the pixels as stored in the file or as displayed, which differ when the
        photo carries an EXIF orientation. Whichever of the two has the camera's size is taken; if both have it, the
        photo is refused, because a guess would silently turn it upside down.
        """
        if (height is None) != (width is None):
            raise MVCustomError(f"height, width: expected both or neither, got {height} and {width}.")
        cameras = capture.cameras.to(dtype=torch.float32)
        without_image = [name for name, path in zip(capture.names, capture.image_paths) if path is None]
        without_mask = [name for name, path in zip(capture.names, capture.mask_paths) if path is None]
        images_at, masks_at = complete_paths(capture.image_paths), complete_paths(capture.mask_paths)
        if images_at is None:
            raise MVCustomError(f"capture: expected an image for every camera, there is none for {without_image}.")
        if masks_at is None and len(without_mask) < len(capture):
            raise MVCustomError(f"capture: expected masks for all photos or for none, they lack for {without_mask}.")
        target = cameras if height is None or width is None else cameras.cover(height, width)

        def read(path: Path, mode: str, index: int) -> Tensor:
            pixels = read_image(path, mode, (cameras.height, cameras.width))
            if capture.distortion is not None:
                pixels = undistort_image(pixels, capture.cameras.intrinsics[index], capture.distortion)
            return pixels if height is None else resample(pixels[None], cameras[index], target[index])[0]

        images = torch.stack([read(path, "RGB", i) for i, path in enumerate(images_at)])
        masks = None
        if masks_at is not None:
            masks = torch.stack([read(path, "L", i) for i, path in enumerate(masks_at)])
        return cls(images, target, masks, capture.names)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: int | slice | Iterable[int]) -> ReferenceViews:
        """The views selected by `index`, always a batch."""
        if isinstance(index, int):
            indices = [range(len(self))[index]]
        else:
            indices = list(range(len(self))[index]) if isinstance(index, slice) else [int(i) for i in index]
        return ReferenceViews(
            self.images[indices],
            self.cameras[indices],
            None if self.masks is None else self.masks[indices],
            [self.names[i] for i in indices],
            None if self.captions is None else [self.captions[i] for i in indices],
        )

    @property
    def height(self) -> int:
        """Height of the views in pixels."""
        return self.cameras.height

    @property
    def width(self) -> int:
        """Width of the views in pixels."""
        return self.cameras.width

    def to(self, device: torch.device | str) -> ReferenceViews:
        """The same views on another device."""
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, images=self.images.to(device), masks=masks, cameras=self.cameras.to(device))

    def select(self, count: int) -> ReferenceViews:
        """`count` views, their directions from the subject spread as evenly as the photos allow, in the photos' order.

        Farthest-point selection from the view nearest to the mean direction: deterministic, and all views if there
        are no more than `count`.
        """
        if isinstance(count, bool) or count != int(count) or count < 1:
            raise MVCustomError(f"count: expected a whole number of views of at least 1, got {count!r}.")
        if count >= len(self):
            return self
        directions = _viewing_directions(self.cameras)
        chosen = [int((directions @ directions.mean(dim=0)).argmax())]
        while len(chosen) < count:
            nearest = (directions @ directions[chosen].T).amax(dim=1)  # cosine to the nearest chosen view
            nearest[chosen] = math.inf
            chosen.append(int(nearest.argmin()))
        return self[sorted(chosen)]

    def resize(self, height: int, width: int) -> ReferenceViews:
        """The views resampled to `height` × `width`, each axis on its own, with their cameras."""
        return self._resampled(self.cameras.resize(height, width))

    def cover(self, height: int, width: int) -> ReferenceViews:
        """The views resized evenly to cover `height` × `width` and cropped at the centre; see [`Cameras.cover`]."""
        return self._resampled(self.cameras.cover(height, width))

    def fit_area(self, area: int, multiple: int) -> ReferenceViews:
        """The views at about `area` pixels with their own aspect ratio, both sides multiples of `multiple`."""
        scale = math.sqrt(area / (self.height * self.width))
        height, width = (max(1, round(side * scale / multiple)) * multiple for side in (self.height, self.width))
        return self.cover(height, width)

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes `transforms.json` (nerfstudio's format), `images/` and `masks/` as PNG, without any loss."""
        save_reference_views(self, Path(folder))

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> ReferenceViews:
        """Reads what [`~ReferenceViews.save`] wrote.

        Raises:
            MVCustomError: naming the file, if something is missing, malformed, or outside of the folder.
        """
        return load_reference_views(cls, Path(folder))

    def _resampled(self, cameras: Cameras) -> ReferenceViews:
        if (cameras.height, cameras.width) == (self.height, self.width) and cameras.allclose(self.cameras):
            return self
        images = resample(self.images, self.cameras, cameras)
        masks = None if self.masks is None else resample(self.masks, self.cameras, cameras)
        return replace(self, images=images, masks=masks, cameras=cameras)


def resample(
    pixels: Tensor,  # [N, C, H, W]
    before: Cameras,
    after: Cameras,
) -> Tensor:
    """Images of the cameras `before` as images of `after`, where `after = before.resize(...)` or `.cover(...)`.

    The new size and the crop are read off the intrinsics, so images and cameras cannot disagree.
    """
    scale = (after.focal / before.focal)[0]
    width, height = round(before.width * scale[0].item()), round(before.height * scale[1].item())
    shift = before.intrinsics[0, :2, 2] * scale - after.intrinsics[0, :2, 2]
    left, top = (round(value) for value in shift.tolist())
    resized = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized[..., top : top + after.height, left : left + after.width].clamp(0, 1)


def _viewing_directions(cameras: Cameras) -> Tensor:
    """Unit directions from the subject (the origin) to each camera, `(N, 3)`."""
    distance = cameras.centers.norm(dim=-1, keepdim=True)
    at_origin = distance < 1e-6
    return torch.where(at_origin, -cameras.optical_axes, cameras.centers / distance.clamp(min=1e-6))


def _texts(name: str, texts: Iterable[str], count: int) -> tuple[str, ...]:
    texts = tuple(texts)
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise MVCustomError(f"{name}: expected {count} texts, one for each view, got {texts!r}.")
    return texts
