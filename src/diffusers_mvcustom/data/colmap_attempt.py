"""One run of COLMAP, as a program of its own: `python colmap_attempt.py job.json`.

A process of its own, because a failed check inside of COLMAP ends its process, and Ctrl-C reaches nothing within its
loops. It needs nothing of this package. Reads the job, writes `result` (JSON) of what came out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pycolmap


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Features and matches, unless the database is there already, then incremental mapping."""
    import pycolmap

    pycolmap.logging.minloglevel = 2
    pycolmap.set_random_seed(job["seed"])
    if not Path(job["database"]).exists():
        _extract(pycolmap, job)
        _match(pycolmap, job)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["seed"]
    options.min_model_size = 3
    options.extract_colors = False
    options.min_num_matches = job["mapping"]["min_num_matches"]
    for name, value in job["mapping"]["mapper"].items():
        setattr(options.mapper, name, value)
    Path(job["models"]).mkdir()
    models = pycolmap.incremental_mapping(job["database"], job["images"], job["models"], options)
    with pycolmap.Database.open(job["database"]) as database:
        _, geometries = database.read_two_view_geometries()
        keypoints = {
            image.name: database.num_keypoints_for_image(image.image_id) for image in database.read_all_images()
        }
    least = options.min_num_matches
    return {
        "keypoints": keypoints,
        "pairs": sum(len(geometry.inlier_matches) >= least for geometry in geometries),
        "models": [_model(model) for model in models.values()],
    }


def _extract(pycolmap: ModuleType, job: dict[str, Any]) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = job["threads"]
    for name, value in job["features"].items():
        setattr(options.sift, name, value)
    for group in job["groups"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "SIMPLE_RADIAL"
        reader.default_focal_length_factor = job["default_focal_length_factor"]
        reader.camera_params = group["camera_params"]
        if job["masks"] is not None:
            reader.mask_path = job["masks"]
        pycolmap.extract_features(
            job["database"],
            job["images"],
            image_names=group["names"],
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )


def _match(pycolmap: ModuleType, job: dict[str, Any]) -> None:
    options = pycolmap.FeatureMatchingOptions()
    options.use_gpu = False
    options.num_threads = job["threads"]
    options.guided_matching = job["matching"]["guided_matching"]
    options.sift.max_ratio = job["matching"]["max_ratio"]
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = job["matching"]["min_num_inliers"]
    verification.ransac.random_seed = job["seed"]
    pycolmap.match_exhaustive(
        job["database"], matching_options=options, verification_options=verification, device=pycolmap.Device.cpu
    )


def _model(model: pycolmap.Reconstruction) -> dict[str, Any]:
    images = {}
    for image in model.images.values():
        if not image.has_pose:
            continue
        tracks = [
            len(model.points3D[point.point3D_id].track.elements) for point in image.points2D if point.has_point3D()
        ]
        images[image.name] = {
            "camera": image.camera_id,
            "world_to_camera": image.cam_from_world().matrix().tolist(),
            "points": len(tracks),
            "points_in_three": sum(length >= 3 for length in tracks),
        }
    return {
        "images": images,
        "cameras": {number: [float(value) for value in camera.params] for number, camera in model.cameras.items()},
        "points": len(model.points3D),
        "reprojection_error": float(model.compute_mean_reprojection_error()),
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules are not meant to be found by their bare names
    job_file = Path(sys.argv[1])
    settings = json.loads(job_file.read_text(encoding="utf-8"))
    Path(settings["result"]).write_text(json.dumps(run(settings)), encoding="utf-8")
