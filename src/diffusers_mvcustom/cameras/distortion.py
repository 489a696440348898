"""Lens distortion: OpenCV's radial-tangential and fisheye models, and how to undo them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CamerasError
from ..files.text_files import is_finite_number


@dataclass(frozen=True)
class Distortion:
    """Distortion coefficients that all photos of a capture share.

    Args:
        radial (`tuple` of `float`): k1, k2, ... (up to 6 radial ones, the 4th to 6th in the denominator, as in OpenCV; up
            to 4 for a fisheye lens).
        tangential (`tuple` of `float`): p1, p2.
        fisheye (`bool`): Whether the lens is OpenCV's equidistant fisheye.
    """

    radial: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)
    fisheye: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.radial, *self.tangential)
        if not all(map(is_finite_number, numbers)):
            raise CamerasError(f"distortion: expected finite coefficients, got {numbers}.")
        if len(self.radial) > (4 if self.fisheye else 6):
            raise CamerasError(
                f"distortion: expected at most 6 radial coefficients (4 for fisheye), got {len(self.radial)}."
            )

    @property
    def is_none(self) -> bool:
        """Whether all coefficients are 0 and the lens is no fisheye."""
        return not self.fisheye and not any((*self.radial, *self.tangential))

    def distort(self, points: Tensor) -> Tensor:
        """Normalised image points `(..., 2)` (at depth 1) of the pinhole camera, as the lens shows them."""
        x, y = points.unbind(-1)
        squared = x**2 + y**2
        k = (*self.radial, *(0.0,) * (6 - len(self.radial)))
        if self.fisheye:
            radius = squared.sqrt()
            theta = torch.atan(radius)
            bent = theta * (1 + theta**2 * (k[0] + theta**2 * (k[1] + theta**2 * (k[2] + theta**2 * k[3]))))
            return (
                points * torch.where(radius > 1e-9, bent / radius.clamp(min=1e-9), torch.ones_like(radius))[..., None]
            )
        p1, p2 = self.tangential
        radial = (1 + squared * (k[0] + squared * (k[1] + squared * k[2]))) / (
            1 + squared * (k[3] + squared * (k[4] + squared * k[5]))
        )
        return torch.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (squared + 2 * x**2),
                y * radial + p1 * (squared + 2 * y**2) + 2 * p2 * x * y,
            ],
            dim=-1,
        )


def undistort_image(
    image: Tensor,  # [C, H, W]
    intrinsics: Tensor,  # [3, 3]
    distortion: Distortion,
) -> Tensor:
    """The photo as the pinhole camera with the same intrinsics sees it; zeros where the lens saw nothing.

    Args:
        image (`torch.Tensor` of shape `(C, H, W)`): The photo.
        intrinsics (`torch.Tensor` of shape `(3, 3)`): In pixels, first pixel's centre at (0.5, 0.5).
        distortion ([`Distortion`]): The lens.
    """
    height, width = image.shape[-2:]
    intrinsics = intrinsics.double()
    focal, center = intrinsics.diagonal()[:2], intrinsics[:2, 2]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    points = (torch.stack([x, y], dim=-1) - center) / focal
    pixels = distortion.distort(points) * focal + center
    grid = pixels / torch.tensor([width, height], dtype=torch.float64) * 2 - 1
    return F.grid_sample(image[None].double(), grid[None], align_corners=False)[0].to(image.dtype)
