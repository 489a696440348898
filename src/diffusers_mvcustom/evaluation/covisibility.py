"""Whether views show the same thing where they see the same surface, for worlds whose depth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry import camera_rays, pixel_centers, project
from .metric import Metric
from .views import check_masks, check_views, view_pairs

_SMALLEST_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class Covisibility:
    """Where the pixels of one view are seen in another, by true depth.

    Args:
        pixels (`torch.Tensor` of shape `(H, W, 2)`): Positions (x, y) in the other view.
        visible (`torch.Tensor` of shape `(H, W)`, bool): Where the other view sees the same surface.
    """

    pixels: Tensor  # [H, W, 2]
    visible: Tensor  # [H, W]


def covisible_pixels(
    depth: Tensor,  # [H, W]
    depth_other: Tensor,  # [H, W]
    camera: Cameras,
    other: Cameras,
    *,
    tolerance: float = 0.02,
) -> Covisibility:
    """Follows every pixel's surface point into another view.

    Args:
        depth (`torch.Tensor` of shape `(H, W)`): z-depth at the pixels' centres.
        depth_other (`torch.Tensor` of shape `(H, W)`): The other view's.
        camera ([`Cameras`]), other ([`Cameras`]): One camera each.
        tolerance (`float`, defaults to 0.02): A point is seen if its depth in the other view is that of the pixel it falls
            on, up to this share. It has to be so for all four pixels around it, so that edges do not count.
    """
    height, width = depth.shape
    centers = pixel_centers(height, width, device=depth.device, dtype=depth.dtype)
    origins, directions = camera_rays(
        camera.camera_to_world[0], camera.intrinsics[0], centers.view(-1, 2), normalize=False
    )
    points = origins + directions * depth.reshape(-1, 1)
    pixels, z = project(points, other.world_to_camera[0], other.intrinsics[0])
    pixels, z = pixels.view(height, width, 2), z.view(height, width)
    inside = (pixels >= 0.5).all(-1) & (pixels[..., 0] <= width - 0.5) & (pixels[..., 1] <= height - 0.5) & (z > 0)
    low = torch.where(inside[..., None], pixels - 0.5, 0.0).floor().long()
    column, row = low.unbind(dim=-1)
    below, right = (row + 1).clamp(max=height - 1), (column + 1).clamp(max=width - 1)
    around = torch.stack([depth_other[r, c] for r in (row, below) for c in (column, right)])  # [4, H, W]
    same = ((around - z).abs() <= tolerance * z.abs()).all(dim=0)
    return Covisibility(pixels, inside & same)


@dataclass(frozen=True)
class ReprojectionAgreement:
    """What one view and another show where they see the same surface.

    Args:
        pair (`tuple` of `int`): The views.
        share (`float`): Of the first view's pixels that the other sees too.
        color_error (`float`): Mean absolute difference of RGB in [0, 1] there.
        still_error (`float`): The same with the pixel at the same place of the other view. Both read the other view at
            positions between pixels; this one moves by less than half a pixel, to be blurred alike.
    """

    pair: tuple[int, int]
    share: float
    color_error: float
    still_error: float

    @property
    def skill(self) -> float:
        """How much better depth predicts the first view than the other view as it stands does, in [-1, 1]."""
        larger = max(self.color_error, self.still_error)
        return (self.still_error - self.color_error) / larger if larger > 0 else 0.0


def reprojection_agreements(
    images: Tensor,  # [N, 3, H, W]
    depth: Tensor,  # [N, H, W] or [N, 1, H, W]
    cameras: Cameras,
    *,
    masks: Tensor | None = None,  # [N, 1, H, W]
    pairs: Sequence[tuple[int, int]] | None = None,
    tolerance: float = 0.02,
) -> list[ReprojectionAgreement]:
    """Compares pairs of views through their true depth; see [`CovisibleReprojection`].

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        depth (`torch.Tensor` of shape `(N, H, W)` or `(N, 1, H, W)`): True z-depth at the pixels' centres.
        cameras ([`Cameras`]): The target cameras.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): Only pixels above 0.5 in the first view of a pair count:
            the subject, or what surrounds it.
        pairs (sequence of pairs of `int`, *optional*): By default [`view_pairs`] of 30°. Those that see less than 2 % of
            each other are left out, which depends on depth, cameras and masks, never on the images.
        tolerance (`float`, defaults to 0.02): See [`covisible_pixels`].

    Raises:
        MVCustomError: if shapes do not fit, or depth is not finite and above 0.
    """
    check_views(images, cameras)
    count, height, width = len(cameras), cameras.height, cameras.width
    if tuple(depth.shape) not in ((count, height, width), (count, 1, height, width)):
        raise MVCustomError(f"depth: expected shape {(count, height, width)}, got {tuple(depth.shape)}.")
    if not (depth.isfinite().all() and depth.min() > 0):
        raise MVCustomError("depth: expected finite numbers above 0; give what is endlessly far a large depth.")
    if masks is not None:
        check_masks("masks", masks, images)
        masks = masks[:, 0].cpu() > 0.5
    depth = depth.reshape(count, height, width).double().cpu()
    images, cameras = images.double().cpu(), cameras.to("cpu", torch.float64)
    centers = pixel_centers(height, width, dtype=torch.float64)
    agreements = []
    for i, j in view_pairs(cameras) if pairs is None else pairs:
        seen = covisible_pixels(depth[i], depth[j], cameras[i], cameras[j], tolerance=tolerance)
        visible = seen.visible if masks is None else seen.visible & masks[i]
        share = visible.double().mean().item()
        if share < _SMALLEST_SHARE:
            continue
        moved = seen.pixels - centers
        still = centers + (moved - moved.round())
        errors = [(_read(images[j], at[visible]) - images[i][:, visible]).abs().mean() for at in (seen.pixels, still)]
        agreements.append(ReprojectionAgreement((i, j), share, *(error.item() for error in errors)))
    return agreements


def covisible_reprojection(
    images: Tensor,  # [N, 3, H, W]
    depth: Tensor,  # [N, H, W] or [N, 1, H, W]
    cameras: Cameras,
    **options: Any,
) -> dict[str, float]:
    """Reprojection of one set of views; see [`CovisibleReprojection`], and [`reprojection_agreements`] for the options."""
    metric = CovisibleReprojection()
    if not metric.update(images, depth, cameras, **options):
        raise MVCustomError("cameras: no two views see the same surface, so there is nothing to compare.")
    return metric.summarize(metric.rows())


class CovisibleReprojection(Metric):
    """Agreement of views in co-visible regions, by true depth (of a rendered world, or of the scene that was asked for).

    - `skill`: mean over pairs of `(still_error - color_error) / max(both)`, at least 0: near 1 if warping one view by its
      depth gives the other, 0 if it is no better than not warping at all. So noise (both errors alike), one view repeated
      (`still_error` is almost 0) and a blank view (both are 0) score 0;
    - `color_error`: mean absolute RGB difference of warped and seen. No score: blank views make it 0;
    - `pairs`: pairs that see some of the same.

    The skill of a perfect renderer is below 1, by as much as pixels blur what they show.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation import CovisibleReprojection
        >>> from diffusers_mvcustom.toy import render, sample_scene
        >>> views = render(sample_scene("train", 0), Cameras.orbit(4, azimuth=(-20, 20), height=48, width=64))
        >>> metric = CovisibleReprojection()
        >>> _ = metric.update(views.images, views.depth, views.cameras)
        >>> metric.compute()["skill"] > 0.7
        True
        >>> metric.reset()
        >>> _ = metric.update(views.images[:1].expand(4, -1, -1, -1), views.depth, views.cameras)
        >>> metric.compute()["skill"]
        0.0
    """

    columns = ("share", "color_error", "skill")
    higher_is_better = {"skill": True}  # noqa: RUF012

    def update(
        self,
        images: Tensor,  # [N, 3, H, W]
        depth: Tensor,  # [N, H, W] or [N, 1, H, W]
        cameras: Cameras,
        **options: Any,
    ) -> list[ReprojectionAgreement]:
        """Adds the pairs of one set of views; see [`reprojection_agreements`]."""
        agreements = reprojection_agreements(images, depth, cameras, **options)
        rows = [[a.share, a.color_error, a.skill] for a in agreements]
        self.add_rows(torch.tensor(rows, dtype=torch.float64).reshape(-1, len(self.columns)))
        return agreements

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Means over all sets of views."""
        _, color_error, skill = rows.unbind(dim=1)
        return {
            "skill": max(0.0, skill.mean().item()),
            "color_error": color_error.mean().item(),
            "pairs": len(rows),
        }


def _read(
    image: Tensor,  # [3, H, W]
    at: Tensor,  # [M, 2]
) -> Tensor:
    """Bilinear colours `(3, M)` at pixels (x, y); those of the rim beyond it."""
    height, width = image.shape[1:]
    grid = 2 * at / at.new_tensor([width, height]) - 1
    return F.grid_sample(image[None], grid[None, None], padding_mode="border", align_corners=False)[0, :, 0]
