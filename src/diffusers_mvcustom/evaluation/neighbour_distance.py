"""How alike neighbouring views are, for those that show one scene from its cameras."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .epipolar import PairAgreement, pair_agreements
from .metric import Metric
from .pretrained_scores import PairScore
from .views import check_views


def neighbour_distance(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    distance: PairScore,
    **options: Any,
) -> dict[str, float]:
    """Neighbour distance of one set of views; see [`NeighbourDistance`] and its options."""
    metric = NeighbourDistance(distance, **options)
    metric.update(images, cameras)
    return metric.summarize(metric.rows())


class NeighbourDistance(Metric):
    """Multi-view consistency as a perceptual distance between views next to each other (DreamSim in MVCustom, arXiv
    2510.13702), which counts only where the two views are seen to be of one scene from their cameras.

    The distance alone is best for one view repeated, or for blank views. So a pair counts with its distance only if its
    features agree with the target cameras and have moved (a consistent pair of [`Tsed`]), and else with the worst value.

    - `distance`: mean over the pairs, with the worst value for those that are not consistent;
    - `ungated_distance`: mean over the pairs whatever they show, as published. No score: a repeated view makes it 0;
    - `pairs`, `pairs_consistent`: the counts.

    Args:
        distance (callable): Images `(P, 3, H, W)` and as many others, RGB in [0, 1], to distances `(P,)`:
            [`DreamSimDistance`], [`LpipsDistance`], a wrapper around MEt3R, or your own.
        worst (`float`, defaults to 1): What an inconsistent pair counts; larger distances count the same. 2 for a
            distance that goes up to 2, such as 1 - cosine.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation import NeighbourDistance
        >>> from diffusers_mvcustom.toy import render, sample_scene
        >>> metric = NeighbourDistance(lambda one, other: (one - other).abs().mean(dim=(1, 2, 3)))
        >>> views = render(sample_scene("train", 0), Cameras.orbit(3, azimuth=(0, 20), height=64, width=96))
        >>> _ = metric.update(views.images[:1].expand(3, -1, -1, -1), views.cameras)  # one view, three times
        >>> metric.compute()
        {'distance': 1.0, 'ungated_distance': 0.0, 'pairs': 2, 'pairs_consistent': 0}
    """

    columns = ("distance", "consistent")
    higher_is_better = {"distance": False}  # noqa: RUF012

    def __init__(self, distance: PairScore, *, worst: float = 1.0) -> None:
        super().__init__()
        self.distance, self.worst = distance, worst

    def update(
        self,
        images: Tensor,  # [N, 3, H, W]
        cameras: Cameras,
        agreements: list[PairAgreement] | None = None,
    ) -> None:
        """Adds the neighbouring pairs of one set of views.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1], at least 2.
            cameras ([`Cameras`]): The target cameras.
            agreements (list of [`PairAgreement`], *optional*): What [`pair_agreements`] or [`Tsed`] said of pairs among
                which are all neighbours; found anew by default.
        """
        check_views(images, cameras)
        pairs = [(i, i + 1) for i in range(len(cameras) - 1)]
        if agreements is None:
            agreements = pair_agreements(images, cameras, pairs=pairs)
        consistent = {agreement.pair: agreement.consistent for agreement in agreements}
        if not set(pairs) <= set(consistent):
            raise MVCustomError("agreements: expected all pairs of neighbouring views among them.")
        distances = scores_of(self.distance, images[:-1], images[1:])
        self.add_rows(torch.stack([distances, torch.tensor([consistent[pair] for pair in pairs]).double()], dim=1))

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Means over all pairs."""
        distance, consistent = rows.unbind(dim=1)
        gated = torch.where(consistent > 0, distance.clamp(max=self.worst), self.worst)
        return {
            "distance": gated.mean().item(),
            "ungated_distance": distance.mean().item(),
            "pairs": len(rows),
            "pairs_consistent": int(consistent.sum()),
        }


def scores_of(
    score: PairScore,
    one: Tensor,  # [P, 3, H, W]
    other: Tensor,  # [P, 3, H, W]
) -> Tensor:
    """What a callable of the user's says of pairs, checked: `(P,)`, float64 on the CPU."""
    numbers = torch.as_tensor(score(one, other)).detach().cpu().double()
    if numbers.shape != (len(one),) or not numbers.isfinite().all():
        raise MVCustomError(
            f"{getattr(score, '__name__', type(score).__name__)}: expected one finite number for each of {len(one)} pairs "
            f"of images, got shape {tuple(numbers.shape)}{'' if numbers.isfinite().all() else ' with NaN or infinity'}."
        )
    return numbers
