"""Camera accuracy over all pairs of views: RRA, RTA, AUC and median degrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .metric import Metric

WORST_DEGREES = 180.0
"""The error of a pair whose pose was not found."""
_DEGENERATE_BASELINE = 1e-4


@dataclass(frozen=True, eq=False)
class PoseErrors:
    """Errors of relative poses over the P = N(N-1)/2 pairs i < j of N views.

    Args:
        rotation (`torch.Tensor` of shape `(P,)`): Angle of `R_found^T R_target` in degrees.
        translation (`torch.Tensor` of shape `(P,)`): Angle between the translations' directions in degrees; NaN where the
            target's two views are at one place, so that there is no direction.
        found (`torch.Tensor` of shape `(P,)`, bool): Whether both views have a pose; if not, both errors are 180°.
    """

    rotation: Tensor  # [P]
    translation: Tensor  # [P]
    found: Tensor  # [P]


def relative_pose_errors(
    found: Cameras | Tensor,  # [N, 4, 4]
    target: Cameras | Tensor,  # [N, 4, 4]
    registered: Tensor | None = None,  # [N]
    *,
    ignore_sign: bool = False,
) -> PoseErrors:
    """Compares relative poses, which need no common world: neither its rotation, nor its origin, nor its scale.

    For a pair the relative pose is that of view j in the axes of view i. Rotations are compared by the angle of what is
    between them, translations by the angle between their directions, as in PoseDiffusion (Wang et al., ICCV 2023) and VGGSfM
    (Wang et al., CVPR 2024), but with the sign: those take the smaller of the angles to the translation and to its negative.

    Args:
        found ([`Cameras`] or `torch.Tensor` of shape `(N, 4, 4)`): Camera-to-world poses, OpenCV axes. Those of
            views that are not registered are not read.
        target ([`Cameras`] or `torch.Tensor` of shape `(N, 4, 4)`): The poses that were asked for.
        registered (`torch.Tensor` of shape `(N,)`, bool, *optional*): Which views have a pose; all by default.
        ignore_sign (`bool`, defaults to `False`): Takes a translation and its negative for the same, at most 90° apart.

    Returns:
        [`PoseErrors`]. Two target views nearer to each other than 1e-4 of the farthest two have no direction (NaN). If the
        found ones are that near and the target's are not, the direction is wrong by 180°.

    Raises:
        MVCustomError: if shapes do not fit or there are fewer than two views.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation import relative_pose_errors
        >>> orbit = Cameras.orbit(3)
        >>> errors = relative_pose_errors(orbit, orbit)
        >>> errors.rotation.shape, bool((errors.rotation < 1e-3).all()), bool((errors.translation < 1e-3).all())
        (torch.Size([3]), True, True)
    """
    poses, wanted = _poses("found", found), _poses("target", target)
    if len(wanted) < 2 or poses.shape != wanted.shape:
        raise MVCustomError(
            f"found, target: expected as many poses in both and at least 2, got {len(poses)} and {len(wanted)}."
        )
    if registered is None:
        registered = torch.ones(len(wanted), dtype=torch.bool)
    registered = registered.cpu()
    if registered.shape != (len(wanted),) or registered.dtype != torch.bool:
        raise MVCustomError(
            f"registered: expected bool of shape ({len(wanted)},), got {registered.dtype} of shape {tuple(registered.shape)}."
        )
    poses = torch.where(registered[:, None, None], poses, wanted)  # what was not found is not read
    one, other = torch.triu_indices(len(wanted), len(wanted), 1)
    (turned, moved), (turned_wanted, moved_wanted) = _relative(poses, one, other), _relative(wanted, one, other)
    rotation = rotation_angle(turned.transpose(1, 2) @ turned_wanted)
    translation = vector_angle(moved, moved_wanted)
    if ignore_sign:
        translation = torch.minimum(translation, WORST_DEGREES - translation)
    both = registered[one] & registered[other]
    translation[_degenerate(moved, both, poses[registered])] = WORST_DEGREES
    rotation[~both], translation[~both] = WORST_DEGREES, WORST_DEGREES
    translation[_degenerate(moved_wanted, torch.ones_like(both), wanted)] = math.nan
    return PoseErrors(rotation, translation, both)


def accuracy_at(
    errors: Tensor,  # [P]
    degrees: float,
) -> float:
    """The share of errors below a threshold; NaN entries are left out, and NaN comes back if nothing is left."""
    known = errors[~errors.isnan()]
    return (known < degrees).double().mean().item() if len(known) else math.nan


def area_under_curve(
    errors: Tensor,  # [P]
    degrees: int,
) -> float:
    """Mean of the accuracies at 1°, 2°, ..., `degrees`: the area under the accuracy curve in bins of 1°.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.evaluation.camera_accuracy import area_under_curve
        >>> area_under_curve(torch.tensor([0.5, 2.5]), 4) == (0.5 + 0.5 + 1.0 + 1.0) / 4
        True
    """
    if isinstance(degrees, bool) or degrees != int(degrees) or degrees < 1:
        raise MVCustomError(f"degrees: expected a whole number of bins of 1°, got {degrees!r}.")
    return sum(accuracy_at(errors, threshold) for threshold in range(1, int(degrees) + 1)) / int(degrees)


def camera_accuracy(
    found: Cameras | Tensor,  # [N, 4, 4]
    target: Cameras | Tensor,  # [N, 4, 4]
    registered: Tensor | None = None,  # [N]
    *,
    thresholds: Sequence[float] = (5.0, 15.0),
    auc_degrees: int = 30,
    ignore_sign: bool = False,
) -> dict[str, float]:
    """Camera accuracy of one set of views; see [`CameraAccuracy`] for the numbers, and [`relative_pose_errors`]."""
    metric = CameraAccuracy(thresholds=thresholds, auc_degrees=auc_degrees, ignore_sign=ignore_sign)
    metric.update(found, target, registered)
    return metric.summarize(metric.rows())


class CameraAccuracy(Metric):
    """Camera accuracy over the pairs of many sets of views.

    - `RRA@t`, `RTA@t`: share of pairs whose relative rotation, or translation direction, is off by less than t degrees;
    - `accuracy@t`: share of pairs for which both hold, what the report calls camera pose accuracy (t = 15);
    - `AUC@30`: area under the curve of `accuracy@t` up to 30°, in bins of 1°;
    - `median_rotation_degrees`, `median_translation_degrees`: over all pairs, those without a pose at 180°;
    - `pairs`, `pairs_found`: how many there are, and for how many both poses were found.

    Where the target has no direction (its views are at one place), a pair is left out of `RTA` and of the translation's
    median, and its rotation alone decides the others. `RTA` is NaN if that is so for all pairs.

    Args:
        thresholds (sequence of `float`, defaults to `(5, 15)`): Degrees t of `RRA`, `RTA` and `accuracy`.
        auc_degrees (`int`, defaults to 30): Up to where the area is taken.
        ignore_sign (`bool`, defaults to `False`): See [`relative_pose_errors`].
    """

    columns = ("rotation", "translation", "found")

    def __init__(
        self, *, thresholds: Sequence[float] = (5.0, 15.0), auc_degrees: int = 30, ignore_sign: bool = False
    ) -> None:
        super().__init__()
        self.thresholds, self.auc_degrees, self.ignore_sign = tuple(thresholds), auc_degrees, ignore_sign

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Which way each number is better."""
        names = [f"{kind}@{t:g}" for t in self.thresholds for kind in ("RRA", "RTA", "accuracy")]
        names.append(f"AUC@{self.auc_degrees}")
        medians = ("median_rotation_degrees", "median_translation_degrees")
        return {**dict.fromkeys(names, True), **dict.fromkeys(medians, False)}

    def update(
        self,
        found: Cameras | Tensor,  # [N, 4, 4]
        target: Cameras | Tensor,  # [N, 4, 4]
        registered: Tensor | None = None,  # [N]
    ) -> None:
        """Adds the pairs of one set of views; see [`relative_pose_errors`]."""
        errors = relative_pose_errors(found, target, registered, ignore_sign=self.ignore_sign)
        self.add_rows(torch.stack([errors.rotation, errors.translation, errors.found.double()], dim=1))

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Shares, area under the curve and medians of all pairs."""
        rotation, translation, found = rows.unbind(dim=1)
        both = torch.maximum(rotation, translation.nan_to_num(nan=0.0))
        numbers: dict[str, float] = {}
        for t in self.thresholds:
            numbers[f"RRA@{t:g}"] = accuracy_at(rotation, t)
            numbers[f"RTA@{t:g}"] = accuracy_at(translation, t)
            numbers[f"accuracy@{t:g}"] = accuracy_at(both, t)
        numbers[f"AUC@{self.auc_degrees}"] = area_under_curve(both, self.auc_degrees)
        numbers["median_rotation_degrees"] = _median(rotation)
        numbers["median_translation_degrees"] = _median(translation)
        numbers["pairs"], numbers["pairs_found"] = len(rows), int(found.sum())
        return numbers


def rotation_angle(
    rotation: Tensor,  # [..., 3, 3]
) -> Tensor:
    """Angles of rotations in degrees, `(...)`; exact for small ones too, where the arc cosine is not."""
    difference = rotation - rotation.transpose(-1, -2)
    axis = torch.stack([difference[..., 2, 1], difference[..., 0, 2], difference[..., 1, 0]], dim=-1)
    return torch.rad2deg(torch.atan2(axis.norm(dim=-1), rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1))


def vector_angle(
    one: Tensor,  # [..., 3]
    other: Tensor,  # [..., 3]
) -> Tensor:
    """Angles between vectors in degrees, `(...)`; 0 where a vector is zero."""
    return torch.rad2deg(torch.atan2(torch.cross(one, other, dim=-1).norm(dim=-1), (one * other).sum(dim=-1)))


def _poses(name: str, value: Cameras | Tensor) -> Tensor:
    poses = value.camera_to_world if isinstance(value, Cameras) else torch.as_tensor(value)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise MVCustomError(f"{name}: expected Cameras or poses of shape (N, 4, 4), got {tuple(poses.shape)}.")
    return poses.detach().cpu().double()


def _relative(poses: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations `(P, 3, 3)` and translations `(P, 3)` of the views `other` in the axes of the views `one`."""
    axes = poses[one, :3, :3].transpose(1, 2)
    moved = poses[other, :3, 3] - poses[one, :3, 3]
    return axes @ poses[other, :3, :3], (axes @ moved[:, :, None]).squeeze(-1)


def _degenerate(moved: Tensor, counted: Tensor, poses: Tensor) -> Tensor:
    """Which baselines are too short to have a direction: `(P,)`, bool."""
    length = moved.norm(dim=-1)
    farthest = length[counted].max() if counted.any() else length.new_zeros(())
    size = poses[:, :3, 3].norm(dim=-1).max() if len(poses) else length.new_zeros(())
    if farthest <= 1e-6 * size or farthest == 0:  # all of them are one place but for rounding
        return torch.ones_like(length, dtype=torch.bool)
    return length <= _DEGENERATE_BASELINE * farthest


def _median(errors: Tensor) -> float:
    known = errors[~errors.isnan()]
    return known.quantile(0.5).item() if len(known) else math.nan
