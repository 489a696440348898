"""TSED: do features that look alike in two views lie where the target cameras put them? Needs no weights and no depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..data.checks import is_installed
from ..errors import MVCustomError
from .metric import Metric, MetricUnavailable
from .views import check_views, to_bytes, view_pairs

_ERROR_AT_256 = 2.0
_SMALLEST_SIDE = 256
_RATIO = 0.8
_MOST_FEATURES = 2000


def fundamental_matrices(
    one: Cameras,
    other: Cameras,
) -> Tensor:
    """F with `x_other^T F x_one = 0` for pixels x = (x, y, 1) of the same point, `(N, 3, 3)`.

    Zero where both cameras of a pair are at one place.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation.epipolar import fundamental_matrices
        >>> cameras = Cameras.orbit(2, azimuth=(0.0, 30.0)).to("cpu", torch.float64)
        >>> origin = (cameras.intrinsics @ cameras.world_to_camera[:, :3, 3:]).squeeze(-1)  # the world's origin, as seen
        >>> round((origin[1] @ fundamental_matrices(cameras[0], cameras[1])[0] @ origin[0]).item(), 3)
        0.0
    """
    relative = other.world_to_camera.double() @ one.camera_to_world.double()  # from one camera to the other
    x, y, z = relative[:, :3, 3].unbind(dim=-1)
    zero = torch.zeros_like(x)
    across = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    essential = across @ relative[:, :3, :3]
    back, back_other = (torch.linalg.inv(cameras.intrinsics.double()) for cameras in (one, other))
    return back_other.transpose(1, 2) @ essential @ back


def symmetric_epipolar_distances(
    points: Tensor,  # [M, 2]
    points_other: Tensor,  # [M, 2]
    one: Cameras,
    other: Cameras,
) -> Tensor:
    """How far matched pixels are from each other's epipolar lines: the mean of both distances in pixels, `(M,)`.

    For cameras at one place, which have no epipolar lines, from the very pixel that the other's ray hits.

    Args:
        points (`torch.Tensor` of shape `(M, 2)`): Pixels (x, y) of the first view; the first pixel's centre is (0.5, 0.5).
        points_other (`torch.Tensor` of shape `(M, 2)`): Where they are in the other view.
        one ([`Cameras`]), other ([`Cameras`]): One camera each.
    """
    x, x_other = (F.pad(p.double().cpu(), (0, 1), value=1.0) for p in (points, points_other))
    one, other = one.to("cpu", torch.float64), other.to("cpu", torch.float64)
    apart = (other.centers - one.centers).norm()
    if apart <= 1e-6 * torch.maximum(one.centers.norm(), other.centers.norm()):
        turn = other.world_to_camera[0, :3, :3] @ one.camera_to_world[0, :3, :3]
        forward = other.intrinsics[0] @ turn @ torch.linalg.inv(one.intrinsics[0])
        moved, moved_back = x @ forward.T, x_other @ torch.linalg.inv(forward).T
        distance = (moved[:, :2] / moved[:, 2:] - x_other[:, :2]).norm(dim=-1)
        return (distance + (moved_back[:, :2] / moved_back[:, 2:] - x[:, :2]).norm(dim=-1)) / 2
    matrix = fundamental_matrices(one, other)[0]
    lines_other, lines = x @ matrix.T, x_other @ matrix
    off = (x_other * lines_other).sum(dim=-1).abs()
    tiny = torch.finfo(torch.float64).tiny
    return (
        off / lines_other[:, :2].norm(dim=-1).clamp(min=tiny) + off / lines[:, :2].norm(dim=-1).clamp(min=tiny)
    ) / 2


def sift_features(
    images: Tensor,  # [N, 3, H, W]
) -> list[tuple[Tensor, Tensor]]:
    """Pixels `(K, 2)` and descriptors `(K, 128)` (square roots of SIFT's, of length 1) of every image.

    Images with a shorter side below 256 are enlarged to it first; pixels are those of the image as given.

    Raises:
        MetricUnavailable: if OpenCV is not installed.
    """
    if not is_installed("cv2"):
        raise MetricUnavailable("feature matches need OpenCV: pip install 'diffusers-mvcustom[eval]'.")
    import cv2

    scale = max(1.0, _SMALLEST_SIDE / min(images.shape[2:]))
    if scale > 1:
        images = F.interpolate(images.float(), scale_factor=scale, mode="bicubic", align_corners=False)
    height, width = images.shape[2:]
    sift = cv2.SIFT.create(nfeatures=_MOST_FEATURES, contrastThreshold=0.02)
    features = []
    for pixels in to_bytes(images):
        keypoints, descriptors = sift.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)
        if not keypoints:
            features.append((torch.zeros(0, 2), torch.zeros(0, 128)))
            continue
        where = torch.tensor([keypoint.pt for keypoint in keypoints]) + 0.5  # OpenCV's first pixel is at (0, 0)
        descriptors = F.normalize(torch.from_numpy(descriptors), p=1, dim=-1).sqrt()
        inside = (where > 0).all(dim=1) & (where < torch.tensor([width, height])).all(dim=1)
        features.append((where[inside] / scale, descriptors[inside]))
    return features


def match_features(
    one: tuple[Tensor, Tensor],  # [K, 2], [K, 128]
    other: tuple[Tensor, Tensor],  # [L, 2], [L, 128]
) -> tuple[Tensor, Tensor]:
    """Pixels `(M, 2)` of features that are each other's nearest, clearly so (ratio of distances below 0.8)."""
    (where, descriptors), (where_other, descriptors_other) = one, other
    if len(where) < 2 or len(where_other) < 2:
        return where[:0], where_other[:0]
    distances = (2 - 2 * descriptors @ descriptors_other.T).clamp(min=0)  # squared
    nearest = distances.topk(2, dim=1, largest=False)
    clear = nearest.values[:, 0] < _RATIO**2 * nearest.values[:, 1]
    partner = nearest.indices[:, 0]
    mutual = distances.argmin(dim=0)[partner] == torch.arange(len(where))
    kept = (clear & mutual).nonzero().squeeze(1)
    return where[kept], where_other[partner[kept]]


@dataclass(frozen=True)
class PairAgreement:
    """What the features of two views say about their target cameras.

    Args:
        pair (`tuple` of `int`): The views.
        matches (`int`): Features found in both.
        error (`float`): Median symmetric epipolar distance in pixels; infinite without matches.
        movement (`float`): Median distance between matched pixels; 0 without matches.
        still (`bool`): Enough matches that have not moved, though the cameras differ: one picture shown twice.
        consistent (`bool`): Enough matches, the error small, and not still.
    """

    pair: tuple[int, int]
    matches: int
    error: float
    movement: float
    still: bool
    consistent: bool


def pair_agreements(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    max_error: float | None = None,
    min_matches: int = 10,
) -> list[PairAgreement]:
    """Judges pairs of views; see [`Tsed`].

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        cameras ([`Cameras`]): The target cameras.
        pairs (sequence of pairs of `int`, *optional*): By default [`view_pairs`].
        max_error (`float`, *optional*): Pixels. By default 2 for a shorter side of 256, in proportion for others.
        min_matches (`int`, defaults to 10): With fewer, a pair is not consistent.

    Raises:
        MetricUnavailable: if OpenCV is not installed.
        MVCustomError: if shapes do not fit.
    """
    check_views(images, cameras)
    if len(cameras) < 2:
        raise MVCustomError("images: expected at least 2 views to compare, got 1.")
    if max_error is None:
        max_error = _ERROR_AT_256 / 256 * min(cameras.height, cameras.width)
    if not max_error > 0 or min_matches < 1:
        raise MVCustomError(
            f"max_error, min_matches: expected pixels above 0 and at least 1 match, got {max_error}, {min_matches}."
        )
    features = sift_features(images.cpu())
    agreements = []
    for i, j in view_pairs(cameras) if pairs is None else pairs:
        points, points_other = match_features(features[i], features[j])
        error, movement = math.inf, 0.0
        if len(points):
            error = symmetric_epipolar_distances(points, points_other, cameras[i], cameras[j]).quantile(0.5).item()
            movement = (points - points_other).norm(dim=-1).quantile(0.5).item()
        enough = len(points) >= min_matches
        still = enough and movement <= max_error and not cameras[i].allclose(cameras[j])
        consistent = enough and error < max_error and not still
        agreements.append(PairAgreement((i, j), len(points), error, movement, still, consistent))
    return agreements


def tsed(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    **options: Any,
) -> dict[str, float]:
    """TSED of one set of views; see [`Tsed`], and [`pair_agreements`] for the options."""
    metric = Tsed(**options)
    metric.update(images, cameras)
    return metric.summarize(metric.rows())


class Tsed(Metric):
    """Thresholded symmetric epipolar distance, the share of consistent pairs of views.

    A pair is consistent with at least 10 SIFT matches whose median distance to the epipolar lines of the target cameras is
    below 2 pixels at 256 (Yu et al., *Long-Term Photometric Consistent Novel View Synthesis with Diffusion Models*, ICCV
    2023).

    Two things differ from the paper's. All pairs within 30° are judged, not only neighbours, and a pair whose cameras differ
    also has to have moved: its matches lie more than the threshold apart in the median. Without that a single view, repeated,
    scores well on an orbit, where little moves off its epipolar line between neighbours.

    - `tsed`: share of consistent pairs; `pairs`, `pairs_consistent`: the counts;
    - `still_share`: share of pairs with enough matches that have not moved; `matches`: mean over the pairs;
    - `median_error`: median over the pairs of their median distance in pixels (infinite without matches). No score: views
      that stand still have a small one.

    Args: those of [`pair_agreements`].
    """

    columns = ("matches", "error", "still", "consistent")
    higher_is_better = {"tsed": True}  # noqa: RUF012

    def __init__(self, *, max_error: float | None = None, min_matches: int = 10) -> None:
        super().__init__()
        self.max_error, self.min_matches = max_error, min_matches

    def update(
        self,
        images: Tensor,  # [N, 3, H, W]
        cameras: Cameras,
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> list[PairAgreement]:
        """Adds the pairs of one set of views, and returns what was found."""
        agreements = pair_agreements(
            images, cameras, pairs=pairs, max_error=self.max_error, min_matches=self.min_matches
        )
        rows = [[a.matches, a.error, a.still, a.consistent] for a in agreements]
        self.add_rows(torch.tensor(rows, dtype=torch.float64).reshape(-1, len(self.columns)))
        return agreements

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Shares and medians of all pairs."""
        matches, error, still, consistent = rows.unbind(dim=1)
        return {
            "tsed": consistent.mean().item(),
            "pairs": len(rows),
            "pairs_consistent": int(consistent.sum()),
            "still_share": still.mean().item(),
            "matches": matches.mean().item(),
            "median_error": error.sort().values[(len(error) - 1) // 2].item(),  # a quantile would mix infinities
        }
