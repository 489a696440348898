"""A posed, masked capture of a coloured cube, ray-traced in numpy: exact poses and masks without any download."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FOCAL = 64, 48, 70.0
NUM_VIEWS = 12
_HALF_EDGE = 0.14
_FACE_COLORS = np.array([[220, 60, 60], [60, 200, 80], [70, 90, 230], [230, 210, 70], [200, 80, 210], [70, 210, 210]])


def camera_to_world(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """A camera (OpenCV axes, world up +Y) that looks at the origin; angles in degrees."""
    azimuth, elevation = np.deg2rad([azimuth, elevation])
    backward = np.array([np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
    right = np.cross([0.0, 1.0, 0.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = (
        right,
        -np.cross(backward, right),
        -backward,
        distance * backward,
    )
    return pose


def poses() -> np.ndarray:
    """The capture's cameras, `(12, 4, 4)`: all around, at changing heights and distances; the farthest at distance 1."""
    return np.stack(
        [
            camera_to_world(360 * i / NUM_VIEWS, 20 + 15 * np.sin(i), 1.0 if i == 4 else 0.8 + 0.015 * i)
            for i in range(NUM_VIEWS)
        ]
    )


def render(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours `(H, W, 3)` and mask `(H, W)` of the cube before a grey gradient."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL, np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        crossings = (np.array([[-_HALF_EDGE], [_HALF_EDGE]]) - pose[:3, 3]) / rays[..., None, :]  # [H, W, 2, 3]
    entry, leave = crossings.min(axis=-2), crossings.max(axis=-2)
    mask = (entry.max(axis=-1) < leave.min(axis=-1)) & (leave.min(axis=-1) > 0)
    axis = entry.argmax(axis=-1)
    positive = np.take_along_axis(rays, axis[..., None], -1)[..., 0] < 0
    background = np.broadcast_to((90 + 100 * y / HEIGHT)[..., None], (HEIGHT, WIDTH, 3))
    return np.where(mask[..., None], _FACE_COLORS[axis * 2 + positive], background).astype(np.uint8), mask


def write_capture(folder: Path) -> Path:
    """Writes `transforms.json` (nerfstudio: OpenGL axes), `images/` and `masks/`. Returns `folder`."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    frames = []
    for i, pose in enumerate(poses()):
        colors, mask = render(pose)
        Image.fromarray(colors).save(folder / "images" / f"{i:02d}.png")
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / "masks" / f"{i:02d}.png")
        frames.append(
            {
                "file_path": f"images/{i:02d}.png",
                "mask_path": f"masks/{i:02d}.png",
                "transform_matrix": (pose * np.array([1.0, -1.0, -1.0, 1.0])).tolist(),
            }
        )
    content = {"camera_model": "PINHOLE", "w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL}
    content |= {"cx": WIDTH / 2, "cy": HEIGHT / 2, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder
