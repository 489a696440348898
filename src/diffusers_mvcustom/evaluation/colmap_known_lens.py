"""COLMAP with lenses that are known and stay as they are, as a program: `python colmap_known_lens.py job.json`.

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
    """Features, matches of all pairs, and incremental mapping that refines poses and points only."""
    import pycolmap

    pycolmap.logging.minloglevel = 2
    pycolmap.set_random_seed(job["seed"])
    _extract(pycolmap, job)
    _match(pycolmap, job)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["seed"]
    options.min_model_size = 3
    options.extract_colors = False
    options.ba_refine_focal_length = False
    options.ba_refine_principal_point = False
    options.ba_refine_extra_params = False
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.abs_pose_refine_extra_params = False
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
    return {
        "keypoints": keypoints,
        "pairs": sum(len(geometry.inlier_matches) >= options.min_num_matches for geometry in geometries),
        "models": [_model(model) for model in models.values()],
    }


def _extract(pycolmap: ModuleType, job: dict[str, Any]) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = job["threads"]
    for lens in job["lenses"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(repr(value) for value in lens["params"])
        if job["masks"] is not None:
            reader.mask_path = job["masks"]
        pycolmap.extract_features(
            job["database"],
            job["images"],
            image_names=lens["names"],
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )


def _match(pycolmap: ModuleType, job: dict[str, Any]) -> None:
    options = pycolmap.FeatureMatchingOptions()
    options.use_gpu = False
    options.num_threads = job["threads"]
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["seed"]
    pycolmap.match_exhaustive(
        job["database"], matching_options=options, verification_options=verification, device=pycolmap.Device.cpu
    )


def _model(model: pycolmap.Reconstruction) -> dict[str, Any]:
    return {
        "images": {
            image.name: image.cam_from_world().matrix().tolist() for image in model.images.values() if image.has_pose
        },
        "points": len(model.points3D),
        "track_length": float(model.compute_mean_track_length()),
        "reprojection_error": float(model.compute_mean_reprojection_error()),
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules are not meant to be found by their bare names
    job_file = Path(sys.argv[1])
    settings = json.loads(job_file.read_text(encoding="utf-8"))
    Path(settings["result"]).write_text(json.dumps(run(settings)), encoding="utf-8")
