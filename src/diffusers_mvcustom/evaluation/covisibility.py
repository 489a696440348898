"""Whether views show the same thing where they see the same surface, for worlds whose depth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry import camera_rays, pixel_centers, project
from .epipolar import match_features, sift_features, view_pairs
from .metric import Metric
from .sfm_poses import check_views

WORST_COLOR_ERROR = 1.0
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
        tolerance (`float`, defaults to 0.02): A point is seen if its depth in the other view is that of the pixel it falls on,
            up to this share. It has to be so for all four pixels around it, so that edges do not count.
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
    low = (pixels - 0.5).floor().long()
    column, row = low[..., 0].clamp(0, width - 1), low[..., 1].clamp(0, height - 1)
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
        still_error (`float`): The same with the other view's pixel at the same place: what a view that is only repeated makes 0.
        matches (`int`): Features of the co-visible region found in both.
        pixel_error (`float`): Median distance in pixels between where a feature is and where depth says; infinite without.
    """

    pair: tuple[int, int]
    share: float
    color_error: float
    still_error: float
    matches: int
    pixel_error: float


def reprojection_agreements(
    images: Tensor,  # [N, 3, H, W]
    depth: Tensor,  # [N, H, W] or [N, 1, H, W]
    cameras: Cameras,
    *,
    masks: Tensor | None = None,  # [N, 1, H, W]
    pairs: Sequence[tuple[int, int]] | None = None,
    tolerance: float = 0.02,
    features: bool = True,
) -> list[ReprojectionAgreement]:
    """Compares pairs of views through their true depth; see [`CovisibleReprojection`].

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        depth (`torch.Tensor` of shape `(N, H, W)` or `(N, 1, H, W)`): True z-depth at the pixels' centres.
        cameras ([`Cameras`]): The target cameras.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): Only pixels above 0.5 in the first view of a pair count:
            the subject, or what surrounds it.
        pairs (sequence of pairs of `int`, *optional*): By default [`view_pairs`] of 30°. Those that see less than 2 % of
            each other are left out.
        tolerance (`float`, defaults to 0.02): See [`covisible_pixels`].
        features (`bool`, defaults to `True`): Whether features are matched too, which needs OpenCV.
    """
    check_views(images, cameras)
    count, height, width = len(cameras), cameras.height, cameras.width
    if depth.numel() != count * height * width:
        raise MVCustomError(f"depth: expected shape {(count, height, width)}, got {tuple(depth.shape)}.")
    depth = depth.reshape(count, height, width)
    if not (depth.isfinite().all() and depth.min() > 0):
        raise MVCustomError("depth: expected finite numbers above 0; give what is endlessly far a large depth.")
    if masks is not None and masks.numel() != count * height * width:
        raise MVCustomError(f"masks: expected shape {(count, 1, height, width)}, got {tuple(masks.shape)}.")
    images, depth, cameras = images.double().cpu(), depth.double().cpu(), cameras.to("cpu", torch.float64)
    found = sift_features(images) if features else None
    agreements = []
    for i, j in view_pairs(cameras) if pairs is None else pairs:
        seen = covisible_pixels(depth[i], depth[j], cameras[i], cameras[j], tolerance=tolerance)
        visible = seen.visible
        if masks is not None:
            visible = visible & (masks.reshape(count, height, width)[i].cpu() > 0.5)
        share = visible.double().mean().item()
        if share < _SMALLEST_SHARE:
            continue
        grid = 2 * seen.pixels / torch.tensor([width, height], dtype=torch.float64) - 1
        warped = F.grid_sample(images[j][None], grid[None], padding_mode="border", align_corners=False)[0]
        color_error = (warped - images[i]).abs()[:, visible].mean().item()
        still_error = (images[j] - images[i]).abs()[:, visible].mean().item()
        matches, pixel_error = 0, math.inf
        if found is not None:
            points, points_other = match_features(found[i], found[j])
            column, row = points.long().unbind(dim=1)
            kept = visible[row, column]
            matches = int(kept.sum())
            if matches:
                offset = points[kept].double() - points[kept].floor().double() - 0.5
                expected = seen.pixels[row[kept], column[kept]] + offset  # depth is known at the pixel's centre
                pixel_error = (expected - points_other[kept]).norm(dim=-1).quantile(0.5).item()
        agreements.append(ReprojectionAgreement((i, j), share, color_error, still_error, matches, pixel_error))
    return agreements


def covisible_reprojection(images: Tensor, depth: Tensor, cameras: Cameras, **options) -> dict[str, float]:
    """Reprojection of one set of views; see [`CovisibleReprojection`], and [`reprojection_agreements`] for the options."""
    metric = CovisibleReprojection()
    metric.update(images, depth, cameras, **options)
    return metric.compute()


class CovisibleReprojection(Metric):
    """Agreement of views in co-visible regions, by true depth (of a rendered world, or of the scene that was asked for).

    - `skill`: mean over pairs of `max(0, 1 - color_error / still_error)`: 1 if warping one view by its depth gives the other, 0 if
      it is no better than not warping at all. So noise (both errors alike), one view repeated (`still_error` is 0) and a blank
      view (both are 0) all score 0;
    - `color_error`: mean absolute RGB difference of warped and seen; reads well only beside the skill, as blank views make it 0;
    - `pixel_error`: median over pairs of the median distance of features from where depth puts them; infinite for a pair with
      fewer than 5 matches;
    - `pairs`, `pairs_matched`: pairs that see some of the same, and those with at least 5 matches.
    """

    columns = ("share", "color_error", "still_error", "matches", "pixel_error")
    higher_is_better = {"skill": True, "color_error": False, "pixel_error": False}  # noqa: RUF012
    least_matches = 5

    def update(self, images: Tensor, depth: Tensor, cameras: Cameras, **options) -> list[ReprojectionAgreement]:
        """Adds the pairs of one set of views; see [`reprojection_agreements`]."""
        agreements = reprojection_agreements(images, depth, cameras, **options)
        rows = [[a.share, a.color_error, a.still_error, a.matches, a.pixel_error] for a in agreements]
        self.add_rows(torch.tensor(rows, dtype=torch.float64).reshape(-1, len(self.columns)))
        return agreements

    def summarize(self, rows: Tensor) -> dict[str, float]:
        _, color_error, still_error, matches, pixel_error = rows.unbind(dim=1)
        skill = torch.where(still_error > 0, 1 - color_error / still_error.clamp(min=1e-12), 0.0).clamp(min=0)
        matched = matches >= self.least_matches
        distance = pixel_error.masked_fill(~matched, math.inf)
        return {
            "skill": skill.mean().item(),
            "color_error": color_error.mean().item(),
            "pixel_error": distance.sort().values[(len(distance) - 1) // 2].item(),
            "pairs": len(rows),
            "pairs_matched": int(matched.sum()),
        }
