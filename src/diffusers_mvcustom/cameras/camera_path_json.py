"""nerfstudio's camera_path.json: the path that its viewer exports, OpenGL camera-to-world matrices with a field of view."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ..errors import CamerasError
from ..files.text_files import is_finite_number, read_json
from .cameras import Cameras
from .capture import Capture
from .checks import as_size
from .conventions import camera_to_world_from


def is_camera_path(content: Any) -> bool:
    """Whether JSON is a camera path rather than a transforms.json."""
    return isinstance(content, dict) and "camera_path" in content and "frames" not in content


def read_camera_path_json(
    file: Path, height: int | None = None, width: int | None = None, convention: str | None = None
) -> Capture:
    """Reads a camera path, in the world that nerfstudio trained in.

    The lens is the vertical field of view `fov`, in degrees, of an image of `render_height` × `render_width`, with square
    pixels; `aspect` is the viewer's window, and does not count, as in nerfstudio.

    Args:
        file (`Path`): The file.
        height (`int`, *optional*), width (`int`, *optional*): Image size of a file that does not say `render_height` and
            `render_width`.
        convention (`str`, *optional*): Axes of the poses, a name of `CONVENTIONS`; OpenGL if not given.

    Raises:
        MVCustomError: naming the file and the field that cannot be used.
    """
    content = read_json(file)
    if not is_camera_path(content):
        raise CamerasError(f"{file}: camera_path: expected a JSON object that has it.")
    kind = content.get("camera_type", "perspective")
    if not isinstance(kind, str) or kind.lower() != "perspective":
        raise CamerasError(f"{file}: camera_type: expected perspective, got {kind!r}. Set it so in the viewer.")
    path = content["camera_path"]
    if not isinstance(path, list) or not path or not all(isinstance(camera, dict) for camera in path):
        raise CamerasError(
            f"{file}: camera_path: expected a list of at least one camera. The viewer writes one for a path of two "
            "keyframes or more."
        )
    height = _size(file, content, "render_height", height)
    width = _size(file, content, "render_width", width)
    poses, intrinsics = [], []
    for i, camera in enumerate(path):
        where = f"{file}: camera_path[{i}]"
        poses.append(_pose(where, camera.get("camera_to_world")))
        fov = camera.get("fov")
        if not is_finite_number(fov) or not 1e-4 < fov < 180:
            raise CamerasError(f"{where}: fov: expected degrees between 0 and 180, got {fov!r}.")
        focal = height / 2 / math.tan(math.radians(fov) / 2)
        intrinsics.append([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    try:
        camera_to_world = camera_to_world_from(torch.stack(poses), convention or "opengl")
        cameras = Cameras(camera_to_world, torch.tensor(intrinsics, dtype=torch.float64), height, width)
    except CamerasError as error:
        raise CamerasError(f"{file}: {error}") from error
    names = tuple(f"{i:04d}" for i in range(len(path)))
    return Capture(cameras, names, (None,) * len(path), (None,) * len(path))


def _size(file: Path, content: dict[str, Any], name: str, given: int | None) -> int:
    value = content.get(name)
    if value is None:
        if given is None:
            raise CamerasError(
                f"{file}: {name}: expected a size in pixels, which this file lacks; write it there, or pass height= and "
                "width= (--height and --width)."
            )
        return as_size(name.removeprefix("render_"), given)
    if not is_finite_number(value) or value < 1 or value != int(value) or value > 2**20:
        raise CamerasError(f"{file}: {name}: expected a size in pixels, got {value!r}.")
    return int(value)


def _pose(where: str, value: Any) -> torch.Tensor:
    if not isinstance(value, list) or len(value) != 16 or not all(map(is_finite_number, value)):
        raise CamerasError(f"{where}: camera_to_world: expected 16 finite numbers, the rows of a 4 × 4 matrix.")
    return torch.tensor(value, dtype=torch.float64).reshape(4, 4)
