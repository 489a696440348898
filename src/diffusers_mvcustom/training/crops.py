"""Random crops of photos that keep the cameras right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras

_TRIES = 20


@dataclass(frozen=True)
class Crop:
    """A part of a photo, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def cameras(self, cameras: Cameras, height: int, width: int) -> Cameras:
        """The photo's camera for this part resampled to `height` × `width`."""
        return cameras.crop(self.top, self.left, self.height, self.width).resize(height, width)

    def pixels(
        self,
        pixels: Tensor,  # [N, C, H, W]
        height: int,
        width: int,
    ) -> Tensor:
        """This part of the photos resampled to `height` × `width`, `(N, C, height, width)`."""
        part = pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]
        resized = F.interpolate(part, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return resized.clamp(0, 1)


def largest_crop(photo_height: int, photo_width: int, height: int, width: int) -> Crop:
    """The largest central part of a photo with the aspect ratio of `height` × `width`, to whole pixels."""
    scale = min(photo_height / height, photo_width / width)
    crop_height = min(photo_height, round(height * scale))
    crop_width = min(photo_width, round(width * scale))
    return Crop((photo_height - crop_height) // 2, (photo_width - crop_width) // 2, crop_height, crop_width)


def random_crop(
    photo_height: int,
    photo_width: int,
    height: int,
    width: int,
    *,
    min_crop: float,
    generator: torch.Generator,
    mask: Tensor | None = None,  # [H, W]
) -> Crop:
    """A random part of a photo with the aspect ratio of `height` × `width`.

    Its side is between `min_crop` and 1 times that of the largest such part, its place anywhere. With a mask, of a few
    draws the first that holds at least three quarters of the subject is taken, else the one that holds most.

    Args:
        photo_height, photo_width (`int`): Size of the photo in pixels.
        height, width (`int`): Size that the part will be resampled to.
        min_crop (`float`): Smallest side, as a share of the largest.
        generator (`torch.Generator`): Draws size and place.
        mask (`torch.Tensor` of shape `(H, W)`, *optional*): The photo's subject mask.
    """
    largest = largest_crop(photo_height, photo_width, height, width)
    subject = None if mask is None else mask.double().sum().item()
    best, best_share = largest, -1.0
    for _ in range(_TRIES):
        size, down, across = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        side = min_crop + (1 - min_crop) * size
        crop_height, crop_width = max(1, round(largest.height * side)), max(1, round(largest.width * side))
        crop = Crop(
            round(down * (photo_height - crop_height)),
            round(across * (photo_width - crop_width)),
            crop_height,
            crop_width,
        )
        if mask is None or not subject:
            return crop
        held = mask[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].double().sum().item()
        if held / subject >= 0.75:
            return crop
        if held / subject > best_share:
            best, best_share = crop, held / subject
    return best
