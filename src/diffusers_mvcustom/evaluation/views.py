"""What all metrics of views need: that images and cameras fit, which pairs to compare, 8-bit pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..cameras.checks import check_kind
from ..cameras.normalization import nearest_point_to_axes
from ..errors import CamerasError, MVCustomError

_ROUNDING = 0.01
"""Degrees: an orbit of 12 cameras is 30° apart but for rounding."""


def check_images(
    name: str,
    images: Tensor,  # [N, 3, H, W]
) -> None:
    """Refuses what is not a batch of RGB images in [0, 1]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise MVCustomError(f"{name}: expected RGB images of shape (N, 3, H, W), got {got}.")
    if not (images.isfinite().all() and images.min() >= 0 and images.max() <= 1):
        raise MVCustomError(
            f"{name}: expected values in [0, 1], got {images.min().item():.4g} to {images.max().item():.4g}."
        )


def check_views(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
) -> None:
    """Refuses images that are not RGB in [0, 1] of the cameras' number and size."""
    check_images("images", images)
    expected = (len(cameras), 3, cameras.height, cameras.width)
    if tuple(images.shape) != expected:
        raise MVCustomError(f"images: expected shape {expected} to match the cameras, got {tuple(images.shape)}.")


def check_masks(
    name: str,
    masks: Tensor,  # [N, 1, H, W]
    images: Tensor,  # [N, 3, H, W]
) -> None:
    """Refuses masks that are not one channel of the images' number and size."""
    expected = (len(images), 1, *images.shape[2:])
    if not isinstance(masks, Tensor) or tuple(masks.shape) != expected:
        got = tuple(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
        raise MVCustomError(f"{name}: expected shape {expected} as the images, got {got}.")


def to_bytes(
    images: Tensor,  # [..., C, H, W]
) -> np.ndarray:
    """Images in [0, 1] as `(..., H, W, C)` uint8."""
    return (images.detach().float().cpu() * 255).round().clamp(0, 255).byte().movedim(-3, -1).numpy()


def view_pairs(cameras: Cameras, max_angle: float = 30.0) -> list[tuple[int, int]]:
    """Pairs of views that see the scene's middle from directions at most `max_angle` degrees apart, and all neighbours.

    The middle is where the optical axes (nearly) meet; for parallel axes the neighbours and next neighbours are taken.
    Neighbours are views next to each other in order.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation import view_pairs
        >>> view_pairs(Cameras.orbit(4, azimuth=(0.0, 60.0)), max_angle=45.0)
        [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    """
    check_kind("cameras", cameras, Cameras)
    count = len(cameras)
    chosen = {(i, i + 1) for i in range(count - 1)}
    try:
        middle = nearest_point_to_axes(cameras.to("cpu", torch.float64))
    except CamerasError:
        return sorted(chosen | {(i, i + 2) for i in range(count - 2)})
    directions = F.normalize(cameras.centers.cpu().double() - middle, dim=-1)
    near = directions @ directions.T >= math.cos(math.radians(max_angle + _ROUNDING))
    return sorted(chosen | {(i, j) for i, j in near.nonzero().tolist() if i < j})
