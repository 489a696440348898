"""All scores of one set of views, and what many of them come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median, stdev
from typing import Any

from torch import Tensor

from ...toy import AttributeReader
from ..covisibility import covisible_reprojection
from .cases import Case
from .identity import identity_scores
from .known_geometry import KnownGeometry
from .repetition import WORST_REPETITION, repetition
from .subject_cameras import WORST_DEGREES, SubjectGallery, subject_camera_errors
from .surroundings_cameras import WORST_ERROR, movement_pairs, surroundings_movements
from .text_reading import text_scores

SCORES_VERSION = 1
"""Raised whenever a score changes, so that stored ones are not mixed with new ones."""

_WORST_IDENTITY = {"ssim": 0.0, "psnr": 0.0, "colors": 0.0}


@dataclass(frozen=True)
class ViewScores:
    """Scores of the N views of one case, as JSON holds them.

    Args:
        subject_degrees (`list[float]`): Error of the subject's viewing direction in each view; 180 where it was not found.
        subject_right (`list[bool]`): Whether direction and place of the subject are right, for each view.
        surroundings_errors (`list[float]`): Relative error of the camera's movement for each pair; 2 where none was found.
        surroundings_degrees (`list[float]`): Its rotation's error; 180 where none was found.
        surroundings_right (`list[bool]`): Whether the movement is right, for each pair.
        consistency (`float`): Skill of the reprojection in co-visible regions, 0 to 1.
        surroundings_consistency (`float`): The same away from the subject.
        identity (`dict`): See [`identity_scores`].
        repetition (`float`): See [`repetition`].
        text (`dict`, *optional*): See [`text_scores`]; `None` without a reader.
        error (`str`, *optional*): Why there were no views, in which case all else is the worst there is.
    """

    subject_degrees: list[float]
    subject_right: list[bool]
    surroundings_errors: list[float]
    surroundings_degrees: list[float]
    surroundings_right: list[bool]
    consistency: float
    surroundings_consistency: float
    identity: dict[str, float]
    repetition: float
    text: dict[str, float] | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def worst(cls, case: Case, error: str, *, reader: bool) -> ViewScores:
        """What a case counts as whose generation failed."""
        views, pairs = case.views, len(movement_pairs(case.views))
        identity = {**_WORST_IDENTITY, **({"features": 0.0} if reader else {})}
        return cls(
            [WORST_DEGREES] * views,
            [False] * views,
            [WORST_ERROR] * pairs,
            [180.0] * pairs,
            [False] * pairs,
            0.0,
            0.0,
            identity,
            WORST_REPETITION,
            {"all": 0.0} if reader else None,
            error,
        )


@dataclass(eq=False)
class Ruler:
    """Scores sets of views of a case, whoever made them. Renders that many sets share are made once.

    Args:
        reader ([`AttributeReader`], *optional*): A trained one; without it there is no text alignment.
    """

    reader: AttributeReader | None = None
    _galleries: dict[tuple, SubjectGallery] = field(default_factory=dict)
    _known: dict[tuple, KnownGeometry] = field(default_factory=dict)

    def score(self, images: Tensor, case: Case) -> ViewScores:
        """All scores of views `(N, 3, S, S)` in [0, 1]."""
        known = self.known(case)
        subject = subject_camera_errors(images, known.cameras, self._gallery(case))
        movements = surroundings_movements(images, known)
        surroundings = known.surroundings()
        return ViewScores(
            subject_degrees=subject.degrees.tolist(),
            subject_right=subject.right().tolist(),
            surroundings_errors=[movement.error for movement in movements],
            surroundings_degrees=[movement.degrees for movement in movements],
            surroundings_right=[movement.is_right for movement in movements],
            consistency=covisible_reprojection(images, known.depth, known.cameras)["skill"],
            surroundings_consistency=covisible_reprojection(images, known.depth, known.cameras, masks=surroundings)[
                "skill"
            ],
            identity=identity_scores(images, known.lit, known.masks, self.reader),
            repetition=repetition(images, known, len(images) // 2),
            text=None if self.reader is None else text_scores(self.reader, images, case.prompt),
        )

    def known(self, case: Case) -> KnownGeometry:
        """What is known of a case, kept for the next seed and method."""
        key = (case.subject, case.prompt_index, case.path, case.views, case.size)
        if key not in self._known:
            self._known = {key: KnownGeometry.of(case)}  # cases come one after the other
        return self._known[key]

    def _gallery(self, case: Case) -> SubjectGallery:
        key = (case.subject, case.attributes.time, case.size)
        if key not in self._galleries:
            self._galleries = {key: SubjectGallery.of(case.known_scene(), case.size)}
        return self._galleries[key]


def summarized(scores: Sequence[ViewScores]) -> dict[str, float | None]:
    """What sets of views come to: shares and medians over all their views and pairs, means over the sets.

    Returns:
        `dict`: the columns of the table; `None` for what could not be measured at all, for want of a reader.
    """
    texts = [one.text for one in scores if one.text is not None]
    values: dict[str, float | None] = {
        "subject RRA@15": mean(right for one in scores for right in one.subject_right),
        "subject degrees": median(degrees for one in scores for degrees in one.subject_degrees),
        "surroundings accuracy": mean(right for one in scores for right in one.surroundings_right),
        "surroundings error": median(error for one in scores for error in one.surroundings_errors),
        "surroundings degrees": median(degrees for one in scores for degrees in one.surroundings_degrees),
        "consistency": mean(one.consistency for one in scores),
        "surroundings consistency": mean(one.surroundings_consistency for one in scores),
        **{f"identity {name}": mean(one.identity[name] for one in scores) for name in scores[0].identity},
        "repetition": mean(one.repetition for one in scores),
        "text": mean(text["all"] for text in texts) if texts else None,
    }
    values["not found"] = mean(degrees == WORST_DEGREES for one in scores for degrees in one.subject_degrees)
    values["failed"] = sum(one.error is not None for one in scores)
    return values


def mean_and_spread(summaries: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over seeds, or subjects, of every number; no deviation of a single one.

    Example:

        >>> from diffusers_mvcustom.evaluation.toy_suite.scores import mean_and_spread
        >>> mean_and_spread([{"text": 0.5}, {"text": 0.7}])["text"]["mean"]
        0.6
        >>> mean_and_spread([{"text": 0.5}])
        {'text': {'mean': 0.5, 'spread': None}}
    """
    result: dict[str, dict[str, float | None]] = {}
    for name in summaries[0]:
        values = [value for numbers in summaries if (value := numbers[name]) is not None]
        if len(values) < len(summaries):
            result[name] = {"mean": None, "spread": None}
            continue
        spread = stdev(values) if len(values) > 1 else None
        result[name] = {"mean": math.fsum(values) / len(values), "spread": spread}
    return result
