"""Cameras from photos alone: COLMAP, tried again with other settings where few photos find their place."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import MVCustomError, enumerated
from .checks import MINIMUM_PHOTOS, is_installed
from .photos import Photo, open_photo
from .pose_agreement import agreeing_cameras

MINIMUM_SHARE = 0.5
"""Share of the photos that has to find its place; with fewer the capture is at fault, not single photos."""
_ENOUGH_SHARE = 0.9
_WELL_SUPPORTED = 100
_FEW_FEATURES = 300
_MANY = 30
_DEFAULT_FOCAL_FACTOR = 1.0
"""Focal length over the longer side before anything is known: between phones (0.75) and portrait lenses (1.4)."""


@dataclass(frozen=True)
class _Attempt:
    """Settings of one run; see COLMAP for what they mean.

    `trusted` runs keep COLMAP's own thresholds. What another run adds has to be confirmed by a second one that matched
    differently (`matched_as`), or be supported by many points.
    """

    name: str
    matched_as: str
    features: Mapping[str, Any]
    matching: Mapping[str, Any]
    mapping: Mapping[str, Any]
    trusted: bool = False


_PLAIN = {"guided_matching": False, "max_ratio": 0.8, "min_num_inliers": 10}
_FINER_FEATURES = {
    "max_num_features": 16000,
    "peak_threshold": 0.002,
    "estimate_affine_shape": True,
    "domain_size_pooling": True,
}
_FEW_MATCHES = {
    "min_num_matches": 10,
    "mapper": {
        "init_min_num_inliers": 30,
        "init_min_tri_angle": 4.0,
        "abs_pose_min_num_inliers": 12,
        "abs_pose_min_inlier_ratio": 0.1,
    },
}
_ATTEMPTS = (
    _Attempt("standard settings", "plain", {}, _PLAIN, {"min_num_matches": 15, "mapper": {}}, trusted=True),
    _Attempt("fewer matches suffice", "plain", {}, _PLAIN, _FEW_MATCHES),
    *(
        _Attempt(
            f"finer, affine features, guided matching, ratio {ratio}",
            f"ratio {ratio}",
            _FINER_FEATURES,
            {**_PLAIN, "guided_matching": True, "max_ratio": ratio},
            _FEW_MATCHES,
        )
        for ratio in (0.8, 0.9)
    ),
)


@dataclass(frozen=True, eq=False)
class FoundCameras:
    """What structure from motion found.

    Args:
        indices (`tuple` of `int`): Which photos have a camera, ascending.
        camera_to_world (`torch.Tensor` of shape `(K, 4, 4)`): Their poses, OpenCV axes, float64.
        focal (`torch.Tensor` of shape `(K,)`): Focal lengths, in units of the photo's width.
        radial (`torch.Tensor` of shape `(K,)`): The lens's k1.
        reprojection_error (`float`): Mean over all points, in pixels of the size it was computed at.
        points (`int`): How many points were triangulated.
        attempts (`tuple` of `str`): What was tried, with the result of each.
    """

    indices: tuple[int, ...]
    camera_to_world: Tensor  # [K, 4, 4]
    focal: Tensor  # [K]
    radial: Tensor  # [K]
    reprojection_error: float
    points: int
    attempts: tuple[str, ...] = field(default=())


def find_cameras(
    source: Path,
    photos: Sequence[Photo],
    *,
    masks: Sequence[Path] | None = None,
    max_size: int = 1600,
    report: Callable[[str], None] | None = None,
    seed: int = 0,
    threads: int = -1,
) -> FoundCameras:
    """Structure from motion with exhaustive matching, one shared camera for photos of one size and one lens.

    Where fewer than 90 % of the photos find their place, it is tried again with fewer matches asked for, then with more
    and affine features and looser, guided matching. A photo that only such a run places counts only if a second one
    places it alike (within 5°), or if at least 100 points seen in three photos hold it.

    Args:
        source (`Path`): What messages name.
        photos (sequence of [`Photo`]): At least 3.
        masks (sequence of `Path`, *optional*): Where features may lie: a mask file for each photo, or the photo itself for
            its alpha channel. Without, all of the photo counts, and a rich background helps.
        max_size (`int`, defaults to 1600): Longer side of the photos that features are looked for in.
        report (callable, *optional*): Is given lines of progress.
        seed (`int`, defaults to 0): Of everything that is drawn.
        threads (`int`, defaults to -1): -1 for all cores.

    Returns:
        [`FoundCameras`].

    Raises:
        MVCustomError: if pycolmap is not installed, or if fewer than half of the photos (or than 3) find their place,
            saying what to do.
    """
    if not is_installed("pycolmap"):
        raise MVCustomError(
            f"{source}: photos without cameras need pycolmap (pip install 'diffusers-mvcustom[colmap]'), or give a posed "
            "capture (transforms.json, COLMAP, CO3Dv2, Polycam)."
        )
    report = report or (lambda line: None)
    names = [f"{i:04d}.png" for i in range(len(photos))]
    with tempfile.TemporaryDirectory(prefix="mvcustom-sfm-") as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        sizes = [_working_copy(photo, folder / "images" / name, max_size) for photo, name in zip(photos, names)]
        if masks is not None:
            (folder / "masks").mkdir()
            for photo, mask, name, size in zip(photos, masks, names, sizes):
                mode, channel = ("RGBA", "A") if mask == photo.path else ("L", "L")
                pixels = open_photo(mask, mode).getchannel(channel).resize(size)
                pixels.point(lambda value: 255 * (value > 127)).save(folder / "masks" / f"{name}.png")
        groups = _groups(photos, names, sizes)
        report(f"looking for cameras: {len(photos)} photos, {len(groups)} lens(es), every pair is matched")
        results: list[tuple[_Attempt, dict[str, Any]]] = []
        lines = []
        for attempt in _ATTEMPTS:
            result = _run(source, folder, attempt, groups, seed, threads)
            results.append((attempt, result))
            chosen, confirmed = _best(results)
            here = max((len(model["images"]) for model in result["models"]), default=0)
            lines.append(f"{attempt.name}: {here} of {len(photos)} placed, {len(confirmed)} confirmed")
            report(lines[-1])
            enough = math.ceil(len(photos) * (_ENOUGH_SHARE if attempt.matched_as == "plain" else 1.0))
            if len(confirmed) >= enough or max(result["keypoints"].values()) < 15:
                break
    if chosen is None or len(confirmed) < max(MINIMUM_PHOTOS, math.ceil(MINIMUM_SHARE * len(photos))):
        raise MVCustomError(_failure(source, photos, names, [result for _, result in results], confirmed))
    indices = [i for i, name in enumerate(names) if name in confirmed]
    images = [chosen["images"][names[i]] for i in indices]
    lenses = [chosen["cameras"][str(image["camera"])] for image in images]
    return FoundCameras(
        indices=tuple(indices),
        camera_to_world=torch.stack([_pose(image) for image in images]),
        focal=torch.tensor([lens[0] / sizes[i][0] for lens, i in zip(lenses, indices)], dtype=torch.float64),
        radial=torch.tensor([lens[3] for lens in lenses], dtype=torch.float64),
        reprojection_error=chosen["reprojection_error"],
        points=chosen["points"],
        attempts=tuple(lines),
    )


def _working_copy(photo: Photo, file: Path, max_size: int) -> tuple[int, int]:
    image = open_photo(photo.path)
    image.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
    image.save(file, compress_level=1)
    return image.size


def _groups(photos: Sequence[Photo], names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Photos that share a camera: one size as displayed and, where EXIF tells it, one lens."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, photo in enumerate(photos):
        groups[photo.width, photo.height, photo.camera].append(i)
    made = []
    for members in groups.values():
        photo, (width, height) = photos[members[0]], sizes[members[0]]
        focal = None if photo.focal is None else photo.focal * width / photo.width
        params = "" if focal is None else f"{focal},{width / 2},{height / 2},0"
        made.append({"names": [names[i] for i in members], "camera_params": params})
    return made


def _affordable(features: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The features' settings, with fewer of them where many photos are matched: time goes with the square of both."""
    if count <= _MANY or "max_num_features" not in features:
        return dict(features)
    return {**features, "max_num_features": features["max_num_features"] // 2}


def _run(
    source: Path, folder: Path, attempt: _Attempt, groups: list[dict[str, Any]], seed: int, threads: int
) -> dict[str, Any]:
    """Runs an attempt in a process of its own; Ctrl-C ends it at once."""
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    run.mkdir()
    job = {
        "images": str(folder / "images"),
        "database": str(folder / f"{attempt.matched_as}.db"),
        "masks": str(folder / "masks") if (folder / "masks").is_dir() else None,
        "models": str(run / "models"),
        "result": str(run / "result.json"),
        "groups": groups,
        "default_focal_length_factor": _DEFAULT_FOCAL_FACTOR,
        "features": _affordable(attempt.features, sum(len(group["names"]) for group in groups)),
        "matching": dict(attempt.matching),
        "mapping": dict(attempt.mapping),
        "seed": seed,
        "threads": threads,
    }
    (run / "job.json").write_text(json.dumps(job), encoding="utf-8")
    program = Path(__file__).with_name("colmap_attempt.py")
    with (run / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), str(run / "job.json")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code != 0 or not (run / "result.json").is_file():
        last = (run / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise MVCustomError(f"{source}: COLMAP ended with exit code {code}: {' '.join(last) or 'no message'}")
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def _best(results: Sequence[tuple[_Attempt, dict[str, Any]]]) -> tuple[dict[str, Any] | None, set[str]]:
    """The model with the most confirmed photos, and these."""
    best: tuple[dict[str, Any] | None, set[str]] = (None, set())
    for attempt, result in results:
        for model in result["models"]:
            if attempt.trusted:
                confirmed = set(model["images"])
            else:
                poses = {name: _pose(image) for name, image in model["images"].items()}
                confirmed = {n for n, image in model["images"].items() if image["points_in_three"] >= _WELL_SUPPORTED}
                for other, others in results:
                    if other.trusted or other.matched_as != attempt.matched_as:
                        for second in others["models"]:
                            confirmed |= agreeing_cameras(poses, {n: _pose(i) for n, i in second["images"].items()})
            if (len(confirmed), model["points"]) > (len(best[1]), best[0]["points"] if best[0] else -1):
                best = model, confirmed
    return best


def _pose(image: Mapping[str, Any]) -> Tensor:
    """Camera-to-world `(4, 4)`."""
    world_to_camera = torch.eye(4, dtype=torch.float64)
    world_to_camera[:3] = torch.tensor(image["world_to_camera"], dtype=torch.float64)
    return torch.linalg.inv(world_to_camera)


def _failure(
    source: Path, photos: Sequence[Photo], names: Sequence[str], results: Sequence[dict[str, Any]], confirmed: set[str]
) -> str:
    """What was found, why probably no more, and what to do."""
    unplaced = [photo.name for photo, name in zip(photos, names) if name not in confirmed]
    few = [photo.name for photo, name in zip(photos, names) if results[0]["keypoints"].get(name, 0) < _FEW_FEATURES]
    pairs, possible = max(result["pairs"] for result in results), len(photos) * (len(photos) - 1) // 2
    message = (
        f"{source}: {len(confirmed)} of {len(photos)} photos could be placed, at least half are needed; left over: "
        f"{enumerated(unplaced)}. {pairs} of {possible} pairs of photos show something in common. "
    )
    if len(few) > len(photos) / 2:
        message += (
            f"{len(few)} photos have too little texture (fewer than {_FEW_FEATURES} features): put the subject on "
            "something patterned (a newspaper, a printed cloth), use more light and less blur, come closer."
        )
    else:
        message += (
            "The photos overlap too little: move about 15° between neighbours, in a ring or two around the subject, 20 "
            "to 60 photos; nothing may move between them, not even the light; or film a slow walk around it."
        )
    return f"{message} Or give a capture with poses (transforms.json, COLMAP, CO3Dv2, Polycam)."
