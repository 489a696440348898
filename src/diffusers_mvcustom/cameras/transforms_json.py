"""nerfstudio's transforms.json: OpenGL camera-to-world matrices with intrinsics per frame or for all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import CamerasError, MVCustomError
from ..files.text_files import is_finite_number, read_json
from .cameras import Cameras
from .capture import Capture, inside_folder, one_size
from .checks import as_size
from .conventions import camera_to_world_from, camera_to_world_in
from .distortion import Distortion

_INTRINSIC_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_RADIAL = ("k1", "k2", "k3", "k4", "k5", "k6")
_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


def read_transforms_json(
    file: Path, height: int | None = None, width: int | None = None, convention: str | None = None
) -> Capture:
    """Reads a transforms.json, frames in the file's order, poses in the world before `applied_transform`.

    Args:
        file (`Path`): The file.
        height (`int`, *optional*), width (`int`, *optional*): Image size of a file that does not say `h` and `w`, such as
            Blender's.
        convention (`str`, *optional*): Axes of the poses, a name of `CONVENTIONS`; OpenGL, as nerfstudio defines the file,
            if not given.

    Raises:
        MVCustomError: naming the file and the field that cannot be used.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise MVCustomError(f"{file}: expected a JSON object, got {type(content).__name__}.")
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise CamerasError(f"{file}: frames: expected a list of at least one frame.")
    per_frame = [any(name in frame for name in ("fl_x", "camera_angle_x")) for frame in frames]
    if any(per_frame) and not all(per_frame):
        raise CamerasError(
            f"{file}: expected intrinsics in all frames or in none, got them in {sum(per_frame)} of {len(frames)}."
        )
    poses, intrinsics, sizes, distortions = [], [], [], []
    for i, frame in enumerate(frames):
        holder = {**content, **frame} if per_frame[0] else content
        where = f"{file}: frames[{i}]" if per_frame[0] else f"{file}"
        matrix, size = _intrinsics(where, holder, height, width)
        intrinsics.append(matrix)
        sizes.append(size)
        distortions.append(_distortion(where, holder))
        poses.append(_matrix(f"{file}: frames[{i}]: transform_matrix", frame.get("transform_matrix"), (4, 4)))
    if len(set(distortions)) != 1:
        raise CamerasError(
            f"{file}: expected one lens for all frames, got {len(set(distortions))} sets of distortion."
        )
    applied = torch.eye(4, dtype=torch.float64)
    if "applied_transform" in content:
        applied[:3] = _matrix(f"{file}: applied_transform", content["applied_transform"], (3, 4))
        if torch.linalg.det(applied).abs() < 1e-8:
            raise CamerasError(f"{file}: applied_transform: expected an invertible matrix.")
    height, width = one_size(file, sizes)
    try:
        camera_to_world = torch.linalg.inv(applied) @ camera_to_world_from(torch.stack(poses), convention or "opengl")
        cameras = Cameras(camera_to_world, torch.stack(intrinsics), height, width)
    except CamerasError as error:
        raise CamerasError(f"{file}: {error}") from error
    folder = file.parent
    named = [frame.get("file_path") for frame in frames]
    return Capture(
        cameras=cameras,
        names=tuple(str(name) if name is not None else f"{i:04d}" for i, name in enumerate(named)),
        image_paths=tuple(None if name is None else _image(folder, name, file) for name in named),
        mask_paths=tuple(
            None if frame.get("mask_path") is None else inside_folder(folder, frame["mask_path"], file)
            for frame in frames
        ),
        distortion=None if distortions[0].is_none else distortions[0],
    )


def write_transforms_json(
    file: Path,
    cameras: Cameras,
    names: Sequence[str],
    point_cloud: str | None = None,
    mask_names: Sequence[str | None] | None = None,
) -> None:
    """Writes cameras as a transforms.json.

    `names` become the frames' `file_path`, `mask_names` their `mask_path`, `point_cloud` the `ply_file_path`.
    """
    poses = camera_to_world_in(cameras.to(dtype=torch.float64), "opengl")
    intrinsics = cameras.intrinsics.double()
    shared = bool((intrinsics == intrinsics[0]).all())
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    if point_cloud is not None:
        content["ply_file_path"] = point_cloud
    if shared:
        content |= _intrinsics_to_dict(intrinsics[0], cameras)
    content["frames"] = [
        {
            "file_path": name,
            **({} if mask is None else {"mask_path": mask}),
            **({} if shared else _intrinsics_to_dict(matrix, cameras)),
            "transform_matrix": pose.tolist(),
        }
        for name, mask, pose, matrix in zip(names, mask_names or [None] * len(names), poses, intrinsics)
    ]
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _number(where: str, name: str, value: Any) -> float:
    if not is_finite_number(value):
        raise CamerasError(f"{where}: {name}: expected a finite number, got {value!r}.")
    return float(value)


def _matrix(where: str, value: Any, shape: tuple[int, int]) -> torch.Tensor:
    rows = value if isinstance(value, list) else []
    if len(rows) != shape[0] or not all(isinstance(row, list) and len(row) == shape[1] for row in rows):
        raise CamerasError(f"{where}: expected {shape[0]} rows of {shape[1]} numbers.")
    return torch.tensor([[_number(where, "entry", entry) for entry in row] for row in rows], dtype=torch.float64)


def _intrinsics(
    where: str, holder: dict[str, Any], given_height: int | None, given_width: int | None
) -> tuple[torch.Tensor, tuple[int, int]]:
    size = []
    for name, argument, given in (("h", "height", given_height), ("w", "width", given_width)):
        if holder.get(name) is None:
            if given is None:
                raise CamerasError(
                    f"{where}: {name}: expected the {argument} in pixels, which this file lacks; write h and w there, or "
                    "pass height= and width= (--height and --width)."
                )
            size.append(as_size(argument, given))
            continue
        value = _number(where, name, holder[name])
        if value < 1 or value != int(value) or value > 2**20:
            raise CamerasError(f"{where}: {name}: expected a size in pixels, got {value}.")
        size.append(int(value))
    height, width = size
    if "fl_x" in holder:
        fl_x = _number(where, "fl_x", holder["fl_x"])
        fl_y = _number(where, "fl_y", holder.get("fl_y", fl_x))
    elif "camera_angle_x" in holder:
        fl_x = width / 2 / math.tan(_angle(where, "camera_angle_x", holder) / 2)
        fl_y = (
            height / 2 / math.tan(_angle(where, "camera_angle_y", holder) / 2) if "camera_angle_y" in holder else fl_x
        )
    else:
        raise CamerasError(f"{where}: fl_x: expected fl_x (and fl_y) or camera_angle_x, got neither.")
    cx = _number(where, "cx", holder.get("cx", width / 2))
    cy = _number(where, "cy", holder.get("cy", height / 2))
    return torch.tensor([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]], dtype=torch.float64), (height, width)


def _angle(where: str, name: str, holder: dict[str, Any]) -> float:
    angle = _number(where, name, holder[name])
    if not 1e-6 < angle < math.pi:
        raise CamerasError(f"{where}: {name}: expected radians between 0 and pi, got {angle}.")
    return angle


def _distortion(where: str, holder: dict[str, Any]) -> Distortion:
    model = holder.get("camera_model", "OPENCV")
    if model not in _PINHOLE + _FISHEYE:
        raise CamerasError(f"{where}: camera_model: expected one of {', '.join(_PINHOLE + _FISHEYE)}, got {model!r}.")
    radial = [_number(where, name, holder.get(name, 0.0)) for name in _RADIAL]
    while radial and radial[-1] == 0:
        radial.pop()
    p1, p2 = (_number(where, name, holder.get(name, 0.0)) for name in ("p1", "p2"))
    try:
        return Distortion(tuple(radial), (p1, p2), fisheye=model in _FISHEYE)
    except CamerasError as error:
        raise CamerasError(f"{where}: {error}") from error


def _image(folder: Path, name: Any, file: Path) -> Path:
    path = inside_folder(folder, name, file)
    if path.suffix == "":  # Blender's datasets leave the suffix out
        path = next(
            (path.with_suffix(suffix) for suffix in (".png", ".jpg") if path.with_suffix(suffix).exists()), path
        )
    return path


def _intrinsics_to_dict(intrinsics: torch.Tensor, cameras: Cameras) -> dict[str, float]:
    fl_x, fl_y, cx, cy = (intrinsics[i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return dict(zip(_INTRINSIC_KEYS, (fl_x, fl_y, cx, cy, cameras.width, cameras.height)))
