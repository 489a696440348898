"""All metrics of generated views at once, and their report under the names of the paper's table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .camera_accuracy import CameraAccuracy
from .epipolar import Tsed
from .evaluation_report import COLUMNS, EvaluationReport, Score
from .identity import Identity
from .metric import Metric, MetricUnavailable, gather_rows
from .neighbour_distance import NeighbourDistance
from .pretrained_scores import (
    ClipTextSimilarity,
    Dinov2Similarity,
    DreamSimDistance,
    LpipsDistance,
    PairScore,
    TextScore,
)
from .sfm_poses import EstimatedPoses, SfmConsistency, estimate_poses
from .text_alignment import TextAlignment
from .views import check_views

References = tuple[Tensor, Cameras, Tensor | None]
"""Photos `(K, 3, H', W')`, their cameras in the subject frame, and masks `(K, 1, H', W')` if there are any."""


class Evaluation:
    """Scores many sets of views with all metrics; a metric that cannot be computed is reported with the reason.

    Works across processes like each [`Metric`]: every process updates with its own sets, and all call `compute`. A metric
    that is unavailable in one process is so in all.

    Args:
        dreamsim, lpips (callable, *optional*): Distances of images; by default [`DreamSimDistance`], [`LpipsDistance`].
        dinov2 (callable, *optional*): A similarity of images; by default [`Dinov2Similarity`].
        clip (callable, *optional*): A similarity of images and a text; by default [`ClipTextSimilarity`].
        met3r (callable, *optional*): A distance of neighbouring views in [0, 2], which has no package to install; see
            [`NeighbourDistance`].
        device (`str` or `torch.device`, defaults to `"cpu"`): Of the networks that are loaded by default.
        seed (`int`, defaults to 0), threads (`int`, defaults to -1): See [`estimate_poses`].

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation import Evaluation
        >>> from diffusers_mvcustom.toy import render, sample_scene
        >>> views = render(sample_scene("train", 0), Cameras.orbit(2, azimuth=(0, 20), height=64, width=96))
        >>> def color_difference(one, other):
        ...     return (one - other).abs().mean(dim=(1, 2, 3))
        >>> evaluation = Evaluation(dreamsim=color_difference, lpips=color_difference)
        >>> evaluation.update(views.images, views.cameras)
        '0 of 2 views registered: structure from motion needs 3 views, there are 2'
        >>> report = evaluation.compute()
        >>> report["camera pose accuracy"]
        0.0
        >>> report.unavailable["text alignment (CLIPScore)"]
        'no prompt is known'
    """

    def __init__(
        self,
        *,
        dreamsim: PairScore | None = None,
        lpips: PairScore | None = None,
        dinov2: PairScore | None = None,
        clip: TextScore | None = None,
        met3r: PairScore | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        threads: int = -1,
    ) -> None:
        self.seed, self.threads = seed, threads
        dreamsim = dreamsim or DreamSimDistance(device=device)
        self.metrics: dict[str, Metric] = {
            "cameras": CameraAccuracy(),
            "sfm": SfmConsistency(),
            "tsed": Tsed(),
            "neighbours_dreamsim": NeighbourDistance(dreamsim),
            "neighbours_lpips": NeighbourDistance(lpips or LpipsDistance(device=device)),
            "identity_dreamsim": Identity(dreamsim),
            "identity_dinov2": Identity(dinov2 or Dinov2Similarity(device=device), higher_is_better=True),
            "text": TextAlignment(clip or ClipTextSimilarity(device=device)),
        }
        self.unavailable: dict[str, str] = {}
        if met3r is None:
            self.unavailable["neighbours_met3r"] = "no package to install: give a callable, in Python"
        else:
            self.metrics["neighbours_met3r"] = NeighbourDistance(met3r, worst=2.0)

    def update(
        self,
        images: Tensor,  # [N, 3, H, W]
        cameras: Cameras,
        *,
        prompt: str | None = None,
        token: str | None = None,
        references: References | None = None,
        masks: Tensor | None = None,  # [N, 1, H, W]
    ) -> str:
        """Adds one set of views.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1], at least 2.
            cameras ([`Cameras`]): The target cameras, in the subject frame.
            prompt (`str`, *optional*), token (`str`, *optional*): What the views should show, and the subject's token in it.
            references (*optional*): Photos, their cameras and their masks; see [`subject_crops`].
            masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): Where the views show the subject, if that is known.

        Returns:
            `str`: What structure from motion said: k of n views, and why not more.
        """
        check_views(images, cameras)
        if len(cameras) < 2:
            raise MVCustomError("images: expected at least 2 views to compare, got 1.")
        said = self._update_cameras(images, cameras)
        agreements = self._attempt("tsed", lambda: self.metrics["tsed"].update(images, cameras))

        def update_neighbours(metric: NeighbourDistance) -> None:
            if agreements is None:
                raise MetricUnavailable(self.unavailable["tsed"])
            metric.update(images, cameras, agreements)

        def update_identity(metric: Identity) -> None:
            if references is None:
                raise MetricUnavailable("no reference views are given")
            metric.update(images, cameras, *references, masks=masks)

        def update_text(metric: TextAlignment) -> None:
            if prompt is None:
                raise MetricUnavailable("no prompt is known")
            metric.update(images, prompt, token)

        for name, metric in self.metrics.items():
            if isinstance(metric, NeighbourDistance):
                self._attempt(name, partial(update_neighbours, metric))
            elif isinstance(metric, Identity):
                self._attempt(name, partial(update_identity, metric))
            elif isinstance(metric, TextAlignment):
                self._attempt(name, partial(update_text, metric))
        return said

    def compute(self) -> EvaluationReport:
        """The report over the sets of all processes; every process has to call it."""
        numbers, unavailable = {}, {}
        for name in dict.fromkeys([*self.metrics, *self.unavailable]):
            missing = torch.tensor([[float(name in self.unavailable)]])
            if gather_rows(missing).any():
                unavailable[name] = self.unavailable.get(name, "unavailable in another process")
            else:
                numbers[name] = self.metrics[name].compute()
        scores = tuple(Score.of(column, numbers[column.metric]) for column in COLUMNS if column.metric in numbers)
        reasons = {column.name: unavailable[column.metric] for column in COLUMNS if column.metric in unavailable}
        return EvaluationReport(scores, reasons, numbers)

    def _update_cameras(self, images: Tensor, cameras: Cameras) -> str:
        try:
            estimated = estimate_poses(images, cameras, seed=self.seed, threads=self.threads)
        except MetricUnavailable as error:
            self.unavailable["cameras"] = self.unavailable["sfm"] = str(error)
            return str(error)
        except MVCustomError as error:  # COLMAP ended with an error: these views have no poses
            estimated = EstimatedPoses.none(len(cameras), reason=str(error))
        self.metrics["cameras"].update(estimated.camera_to_world, cameras, estimated.registered)
        self.metrics["sfm"].update(estimated, cameras)
        return estimated.summary()

    def _attempt(self, name: str, update: Callable[[], Any]) -> Any:
        """What `update` returns, or `None`; notes why the metric is unavailable, and does not try it again."""
        if name in self.unavailable:
            return None
        try:
            return update()
        except MetricUnavailable as error:
            self.unavailable[name] = str(error)
            return None
