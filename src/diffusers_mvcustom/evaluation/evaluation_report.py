"""What an evaluation reports: scores with k of n, what could not be computed and why, as a table, JSON and markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """Where a reported score comes from.

    Args:
        name (`str`): As reported.
        metric (`str`): Which metric of an [`Evaluation`].
        key (`str`): Which of its numbers.
        higher_is_better (`bool`): Whether it is.
        counted (`tuple` of `str`): The numbers that say how many were scored, of how many, and what they are.
        paper (`bool`): Whether it is a column of the paper's table.
    """

    name: str
    metric: str
    key: str
    higher_is_better: bool
    counted: tuple[str, str, str]
    paper: bool = False


_PAIRS_FOUND = ("pairs_found", "pairs", "pairs")
_CONSISTENT = ("pairs_consistent", "pairs", "pairs")
_VIEWS_SCORED = ("views_scored", "views", "views")
_VIEWS = ("views", "views", "views")
COLUMNS = (
    Column("camera pose accuracy", "cameras", "accuracy@15", True, _PAIRS_FOUND, paper=True),
    Column("multi-view consistency (DreamSim)", "neighbours_dreamsim", "distance", False, _CONSISTENT, paper=True),
    Column("identity preservation (DreamSim)", "identity_dreamsim", "score", False, _VIEWS_SCORED, paper=True),
    Column("text alignment (CLIPScore)", "text", "clip_score", True, _VIEWS, paper=True),
    Column("RRA@15", "cameras", "RRA@15", True, _PAIRS_FOUND),
    Column("RTA@15", "cameras", "RTA@15", True, _PAIRS_FOUND),
    Column("AUC@30", "cameras", "AUC@30", True, _PAIRS_FOUND),
    Column("views in place (COLMAP)", "sfm", "in_place_share", True, ("views_registered", "views", "views")),
    Column("TSED", "tsed", "tsed", True, _CONSISTENT),
    Column("multi-view consistency (LPIPS)", "neighbours_lpips", "distance", False, _CONSISTENT),
    Column("multi-view consistency (MEt3R)", "neighbours_met3r", "distance", False, _CONSISTENT),
    Column("identity preservation (DINOv2)", "identity_dinov2", "score", True, _VIEWS_SCORED),
)


@dataclass(frozen=True)
class Score:
    """A number of the report.

    Args:
        name (`str`): As reported.
        value (`float`): What could not be scored has counted as the worst value.
        higher_is_better (`bool`): Whether it is.
        scored (`int`), requested (`int`): How many could be scored, of how many.
        unit (`str`): What those are: views or pairs of views.
        paper (`bool`): Whether it is a column of the paper's table.
    """

    name: str
    value: float
    higher_is_better: bool
    scored: int
    requested: int
    unit: str
    paper: bool = False

    @classmethod
    def of(cls, column: Column, numbers: dict[str, float]) -> Score:
        """The score of a column among a metric's numbers."""
        scored, requested, unit = column.counted
        value = float(numbers[column.key])
        return cls(
            column.name,
            value,
            column.higher_is_better,
            int(numbers[scored]),
            int(numbers[requested]),
            unit,
            column.paper,
        )


@dataclass(frozen=True)
class EvaluationReport:
    """The scores of an [`Evaluation`].

    Args:
        scores (`tuple` of [`Score`]): Those that were computed.
        unavailable (`dict` of `str` to `str`): Those that were not, with the reason.
        numbers (`dict`): All numbers of every metric, those included that are no scores.
    """

    scores: tuple[Score, ...]
    unavailable: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """The score of that name."""
        return next(score.value for score in self.scores if score.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; a number that is not finite is `None`."""
        by_name = {score.name: score for score in self.scores}
        paper = {column.name: by_name.get(column.name) for column in COLUMNS if column.paper}
        return {
            "paper": {name: None if score is None else _finite(score.value) for name, score in paper.items()},
            "scores": {
                score.name: {
                    "value": _finite(score.value),
                    "higher_is_better": score.higher_is_better,
                    "scored": score.scored,
                    "requested": score.requested,
                    "unit": score.unit,
                }
                for score in self.scores
            },
            "unavailable": dict(self.unavailable),
            "numbers": {
                metric: {name: _finite(number) for name, number in numbers.items()}
                for metric, numbers in self.numbers.items()
            },
        }

    def to_markdown(self) -> str:
        """One table of all scores, the paper's columns first, and what could not be computed."""
        rows = [
            (
                f"{score.name} {'↑' if score.higher_is_better else '↓'}",
                f"{score.value:.3f}",
                f"{score.scored} of {score.requested} {score.unit}",
            )
            for score in sorted(self.scores, key=lambda score: not score.paper)
        ]
        rows += [(name, "not computed", reason) for name, reason in self.unavailable.items()]
        header = ("metric", "value", "scored")
        widths = [max(len(row[i]) for row in (header, *rows)) for i in (0, 1)]
        lines = [f"| {a.ljust(widths[0])} | {b.ljust(widths[1])} | {c} |" for a, b, c in (header, *rows)]
        lines.insert(1, "|---|---|---|")
        return "\n".join(lines)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
