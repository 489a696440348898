"""Small cameras and depth maps for the geometry tests."""

import numpy as np
import torch

from diffusers_mvcustom.cameras import Cameras


def looking_at(center, target, focal, height, width, principal=None, dtype=torch.float64):
    """One camera at `center` that looks at `target`, image y along world -y."""
    center, target = np.asarray(center, float), np.asarray(target, float)
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross(z, [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    pose[:3, 3] = center
    cx, cy = (width / 2, height / 2) if principal is None else principal
    intrinsics = [[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]]
    return Cameras(torch.tensor(pose, dtype=dtype)[None], torch.tensor(intrinsics, dtype=dtype)[None], height, width)


def smooth_depth(height, width, seed, base=1.0, amount=0.15):
    """A smooth random map around `base`."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    waves = sum(
        random.normal() * np.sin(random.uniform(1, 4) * x + random.uniform(1, 4) * y + random.uniform(0, 6))
        for _ in range(4)
    )
    return torch.tensor(base + amount * waves / 2).clamp(min=0.3)


def stepped_depth(height, width, seed):
    """A smooth map with a box that stands well in front of it, at least two pixels from the image's rim."""
    depth = smooth_depth(height, width, seed, base=1.4)
    random = np.random.default_rng(seed + 1)
    top, left = random.integers(2, height // 2), random.integers(2, width // 2)
    depth[top : top + height // 3, left : left + width // 3] *= random.uniform(0.4, 0.65)
    return depth
