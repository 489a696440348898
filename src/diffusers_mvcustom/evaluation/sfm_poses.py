"""Where generated views would have been taken from, by structure from motion with the lenses they were generated for."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..data.checks import is_installed
from ..errors import MVCustomError
from .camera_accuracy import CameraAccuracy, relative_pose_errors
from .metric import Metric, MetricUnavailable
from .views import check_masks, check_views, to_bytes

_MAPPING = {
    "min_num_matches": 15,
    # COLMAP's own thresholds are for photos all around a scene. Generated views often span a small arc, and with the lens
    # known fewer matches fix a pose.
    "mapper": {
        "init_min_num_inliers": 50,
        "init_min_tri_angle": 4.0,
        "abs_pose_min_num_inliers": 15,
        "abs_pose_min_inlier_ratio": 0.15,
    },
}
WORST_REPROJECTION_ERROR = 4.0
"""Pixels at which COLMAP drops an observation: what a set of views without any point counts as."""


@dataclass(frozen=True, eq=False)
class EstimatedPoses:
    """What structure from motion says about N views.

    Args:
        camera_to_world (`torch.Tensor` of shape `(N, 4, 4)`): Poses in a world of their own; the identity
            where there is none.
        registered (`torch.Tensor` of shape `(N,)`, bool): Which views have one.
        points (`int`): Triangulated points.
        track_length (`float`): How many views see a point, on average; 0 without points.
        reprojection_error (`float`): Mean over the points, in pixels; NaN without points.
        matched_pairs (`int`): Pairs of views that show something in common.
        reason (`str`, *optional*): Why views were left out, if any were.
    """

    camera_to_world: Tensor  # [N, 4, 4]
    registered: Tensor  # [N]
    points: int = 0
    track_length: float = 0.0
    reprojection_error: float = float("nan")
    matched_pairs: int = 0
    reason: str | None = None

    @classmethod
    def none(cls, count: int, reason: str, *, matched_pairs: int = 0) -> EstimatedPoses:
        """No pose for any of `count` views."""
        poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
        return cls(poses, torch.zeros(count, dtype=torch.bool), matched_pairs=matched_pairs, reason=reason)

    def __len__(self) -> int:
        return len(self.registered)

    @property
    def num_registered(self) -> int:
        """How many views have a pose."""
        return int(self.registered.sum())

    def summary(self) -> str:
        """One line: k of n, and why not more."""
        line = f"{self.num_registered} of {len(self)} views registered"
        return line if self.reason is None else f"{line}: {self.reason}"


def estimate_poses(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    *,
    masks: Tensor | None = None,  # [N, 1, H, W]
    seed: int = 0,
    threads: int = -1,
) -> EstimatedPoses:
    """Structure from motion (COLMAP, all pairs matched, incremental mapping) with fixed intrinsics.

    Views that show no common scene are no error: they come back as not registered, with the reason.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        cameras ([`Cameras`]): Whose intrinsics hold; their poses are not read.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): Where features may lie (above 0.5).
        seed (`int`, defaults to 0): Of everything that is drawn.
        threads (`int`, defaults to -1): -1 for all cores.

    Returns:
        [`EstimatedPoses`]. Where the views fall apart into several scenes, those of the largest one are registered.

    Raises:
        MetricUnavailable: if pycolmap is not installed.
        MVCustomError: if shapes do not fit, or COLMAP itself ends with an error.
    """
    check_views(images, cameras)
    if masks is not None:
        check_masks("masks", masks, images)
    if not is_installed("pycolmap"):
        raise MetricUnavailable("poses of views need pycolmap: pip install 'diffusers-mvcustom[colmap]'.")
    count = len(images)
    if count < 3:
        return EstimatedPoses.none(count, f"structure from motion needs 3 views, there are {count}")
    names = [f"{i:04d}.png" for i in range(count)]
    with tempfile.TemporaryDirectory(prefix="mvcustom-poses-") as temporary:
        result = _run(Path(temporary), images, cameras, masks, names, seed, threads)
    nothing = EstimatedPoses.none(count, _reason(result, count), matched_pairs=result["pairs"])
    if not result["models"]:
        return nothing
    model = max(result["models"], key=lambda model: (len(model["images"]), model["points"]))
    poses, registered = nothing.camera_to_world, nothing.registered
    for i, name in enumerate(names):
        if name in model["images"]:
            world_to_camera = torch.eye(4, dtype=torch.float64)
            world_to_camera[:3] = torch.tensor(model["images"][name], dtype=torch.float64)
            poses[i], registered[i] = torch.linalg.inv(world_to_camera), True
    return EstimatedPoses(
        poses,
        registered,
        model["points"],
        model["track_length"],
        model["reprojection_error"] if model["points"] else float("nan"),
        result["pairs"],
        None if registered.all() else nothing.reason,
    )


def estimated_camera_accuracy(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    **options: Any,
) -> dict[str, float]:
    """Camera accuracy of views against the cameras that they were generated for: [`estimate_poses`], then
    [`camera_accuracy`]. Takes the options of [`estimate_poses`]."""
    metric = CameraAccuracy()
    estimated = estimate_poses(images, cameras, **options)
    metric.update(estimated.camera_to_world, cameras, estimated.registered)
    return metric.summarize(metric.rows())


def views_in_place(
    estimated: EstimatedPoses,
    cameras: Cameras,
    *,
    degrees: float = 15.0,
) -> Tensor:
    """Which views were found where they should be, `(N,)`, bool.

    A view is in place if its pose relative to at least half of the other views is right: rotation and direction of the
    translation off by less than `degrees`. A view that is not registered is never in place.

    Args:
        estimated ([`EstimatedPoses`]): Of N views.
        cameras ([`Cameras`]): The N target cameras.
        degrees (`float`, defaults to 15): Largest error.
    """
    errors = relative_pose_errors(estimated.camera_to_world, cameras, estimated.registered)
    count = len(cameras)
    one, other = torch.triu_indices(count, count, 1)
    right = torch.zeros(count, count, dtype=torch.bool)
    right[one, other] = torch.maximum(errors.rotation, errors.translation.nan_to_num(nan=0.0)) < degrees
    return 2 * (right | right.T).sum(dim=1) >= count - 1


class SfmConsistency(Metric):
    """How well sets of views hang together as the one scene that was asked for, by structure from motion.

    - `in_place_share`: views whose pose is right relative to at least half of the others ([`views_in_place`]), of all.

    The rest describes the reconstruction and is no score, since it does not look at the target cameras: views in the wrong
    order have as many points as in the right one.

    - `registered_share`: views with a pose, of all;
    - `points`: triangulated points a set; 0 for a set that fails;
    - `track_length`: views that see a point, mean over the sets; 0 for a set that fails;
    - `reprojection_error`: pixels, mean over the sets; COLMAP's limit of 4 for a set that fails;
    - `views`, `views_registered`, `views_in_place`, `sets`, `sets_failed` (no pose at all): the counts.
    """

    columns = ("views", "registered", "in_place", "points", "track_length", "reprojection_error")
    higher_is_better = {"in_place_share": True}  # noqa: RUF012

    def update(self, estimated: EstimatedPoses, cameras: Cameras) -> None:
        """Adds one set of views and the cameras that they were generated for."""
        registered, in_place = estimated.num_registered, int(views_in_place(estimated, cameras).sum())
        error = estimated.reprojection_error if registered else WORST_REPROJECTION_ERROR
        values = [len(estimated), registered, in_place, estimated.points, estimated.track_length, error]
        self.add_rows(torch.tensor([values], dtype=torch.float64))

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Shares and means over all sets of views."""
        views, registered, in_place, points, track_length, error = rows.unbind(dim=1)
        return {
            "in_place_share": (in_place.sum() / views.sum()).item(),
            "registered_share": (registered.sum() / views.sum()).item(),
            "points": points.mean().item(),
            "track_length": track_length.mean().item(),
            "reprojection_error": error.nan_to_num(nan=WORST_REPROJECTION_ERROR).mean().item(),
            "views": int(views.sum()),
            "views_registered": int(registered.sum()),
            "views_in_place": int(in_place.sum()),
            "sets": len(rows),
            "sets_failed": int((registered == 0).sum()),
        }


def sfm_consistency(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    **options: Any,
) -> dict[str, float]:
    """Consistency of one set of views; see [`SfmConsistency`], and [`estimate_poses`] for the options."""
    metric = SfmConsistency()
    metric.update(estimate_poses(images, cameras, **options), cameras)
    return metric.summarize(metric.rows())


def _run(
    folder: Path, images: Tensor, cameras: Cameras, masks: Tensor | None, names: list[str], seed: int, threads: int
) -> dict[str, Any]:
    (folder / "images").mkdir()
    for name, pixels in zip(names, to_bytes(images)):
        Image.fromarray(pixels).save(folder / "images" / name, compress_level=1)
    if masks is not None:
        (folder / "masks").mkdir()
        for name, pixels in zip(names, to_bytes((masks > 0.5).float())):
            Image.fromarray(pixels[..., 0]).save(folder / "masks" / f"{name}.png", compress_level=1)
    lenses: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for name, matrix in zip(names, cameras.intrinsics.double().tolist()):
        lenses[matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2]].append(name)
    job = {
        "images": str(folder / "images"),
        "masks": None if masks is None else str(folder / "masks"),
        "database": str(folder / "features.db"),
        "models": str(folder / "models"),
        "result": str(folder / "result.json"),
        "lenses": [{"params": params, "names": members} for params, members in lenses.items()],
        "mapping": _MAPPING,
        "seed": seed,
        "threads": threads,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    program = Path(__file__).with_name("colmap_known_lens.py")
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), str(folder / "job.json")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code != 0 or not (folder / "result.json").is_file():
        last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise MVCustomError(f"images: COLMAP ended with exit code {code}: {' '.join(last) or 'no message'}")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _reason(result: dict[str, Any], count: int) -> str:
    possible = count * (count - 1) // 2
    keypoints = sorted(result["keypoints"].values())
    middle = keypoints[len(keypoints) // 2] if keypoints else 0
    return f"{result['pairs']} of {possible} pairs of views show something in common ({middle} features in the median view)"
