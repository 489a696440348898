"""Photos of a textured block on a textured table, ray-traced in numpy: what structure from motion has to find again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from synthetic_capture import camera_to_world

FOCAL_SHARE = 1.1
_BLOCK = np.array([[-0.2, -0.25, -0.15], [0.2, 0.25, 0.15]])
_TABLE = 1.5


def ring(count: int, elevations: tuple[float, ...] = (20.0, 38.0)) -> np.ndarray:
    """Cameras (OpenCV axes, `(N, 4, 4)`) around the block, going round at changing heights and distances."""
    return np.stack(
        [
            camera_to_world(
                360 * i / count, elevations[i % len(elevations)] + 3 * np.sin(5 * i), 1.5 + 0.1 * np.cos(3 * i)
            )
            for i in range(count)
        ]
    )


def texture(seed: int, size: int = 1024) -> np.ndarray:
    """Noise at many scales `(size, size, 3)`, as stone or a printed cloth has it."""
    random = np.random.default_rng(seed)
    total = np.zeros((size, size, 3))
    for cells, weight in ((8, 1.0), (20, 1.0), (48, 0.7), (100, 0.3)):
        noise = random.random((cells, cells, 3)) * 255
        enlarged = Image.fromarray(noise.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        total += weight * (np.asarray(enlarged, dtype=float) - 127.5)
    return np.clip(127.5 + 0.7 * total, 0, 255)


_TEXTURES = [texture(seed) for seed in range(4)]


def render(
    pose: np.ndarray, height: int, width: int, distortion: float = 0.0, intrinsics: np.ndarray | None = None
) -> np.ndarray:
    """Colours `(height, width, 3)` at one camera; `distortion` is the lens's k1."""
    if intrinsics is None:
        focal = FOCAL_SHARE * max(height, width)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = (x - intrinsics[0, 2]) / intrinsics[0, 0], (y - intrinsics[1, 2]) / intrinsics[1, 1]
    if distortion:
        bent_x, bent_y = x, y
        for _ in range(30):  # the pinhole's point that the lens moves here
            factor = 1 + distortion * (x**2 + y**2)
            x, y = bent_x / factor, bent_y / factor
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = (_BLOCK - origin) / rays[..., None, :]  # [H, W, 2, 3]
        entry, leave = crossings.min(axis=-2), crossings.max(axis=-2)
        near = entry.max(axis=-1)
        block = (near < leave.min(axis=-1)) & (near > 0)
        table = (_BLOCK[0, 1] - origin[1]) / rays[..., 1]
    colors = np.full((height, width, 3), 90.0)
    on_table = origin + table[..., None] * rays
    seen = (table > 0) & ~block & (np.abs(on_table[..., [0, 2]]) < _TABLE).all(axis=-1)
    colors[seen] = _look_up(_TEXTURES[3], on_table[..., [0, 2]][seen] / (2 * _TABLE) + 0.5)
    points = origin + near[..., None] * rays
    axis = entry.argmax(axis=-1)
    for side in range(3):
        chosen = block & (axis == side)
        flat = np.delete(points[chosen], side, axis=-1)
        flip = (points[chosen][:, side : side + 1] > 0) * 0.37  # opposite faces differ
        colors[chosen] = _look_up(_TEXTURES[side], (flat + 0.3) / 1.2 + flip)
    return np.round(colors).astype(np.uint8)


def _look_up(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear colours at `(K, 2)` in [0, 1], repeated outside."""
    size = image.shape[0]
    place = (at % 1.0) * size - 0.5
    first = np.floor(place).astype(int)
    share = (place - first)[..., None]
    row, column = (first[:, i] % size for i in (1, 0))
    below, right = (row + 1) % size, (column + 1) % size
    down, across = share[:, 1], share[:, 0]
    upper = image[row, column] * (1 - across) + image[row, right] * across
    lower = image[below, column] * (1 - across) + image[below, right] * across
    return upper * (1 - down) + lower * down


def write_photos(
    folder: Path, poses: np.ndarray, height: int = 384, width: int = 512, distortion: float = 0.0
) -> Path:
    """Writes a photo a camera. Returns `folder`."""
    folder.mkdir(parents=True)
    for i, pose in enumerate(poses):
        Image.fromarray(render(pose, height, width, distortion)).save(folder / f"IMG_{i + 1}.jpg", quality=92)
    return folder


def pose_errors(found: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over all pairs: angle of the relative rotation's error, and between the translations' directions, in degrees."""
    rotations, directions = [], []
    for i in range(len(found)):
        for j in range(i + 1, len(found)):
            one, other = (np.linalg.inv(poses[i]) @ poses[j] for poses in (found, known))
            cosine = (np.trace(one[:3, :3].T @ other[:3, :3]) - 1) / 2
            rotations.append(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
            one, other = one[:3, 3], other[:3, 3]
            cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
            directions.append(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    return np.array(rotations), np.array(directions)
