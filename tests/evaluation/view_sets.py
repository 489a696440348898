"""Sets of views of known truth, and what is made of them that must not score."""

from functools import cache

import torch
from textured_scene import FOCAL_SHARE, render, ring

from diffusers_mvcustom import Cameras


def textured_cameras(poses, height, width):
    """Cameras of the textured block; its table lies at +Y."""
    focal = FOCAL_SHARE * max(height, width)
    lens = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(torch.as_tensor(poses, dtype=torch.float64), lens.repeat(len(poses), 1, 1), height, width)


@cache
def textured_views(count=16, height=288, width=384, of_ring=None):
    """Renders of the textured block and their cameras: `count` neighbours of a ring of `of_ring`."""
    poses = ring(of_ring or count)[:count]
    images = torch.stack([torch.from_numpy(render(pose, height, width)) for pose in poses]).permute(0, 3, 1, 2) / 255
    return images.contiguous(), textured_cameras(poses, height, width)


def other_textures(count, height, width):
    """One picture each of another world: noise at several scales, as sharp as the block's textures."""
    pictures = []
    for i in range(count):
        generator = torch.Generator().manual_seed(100 + i)
        picture = torch.zeros(1, 3, height, width)
        for cells, weight in ((8, 1.0), (20, 1.0), (48, 0.7), (100, 0.3)):
            noise = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
            picture += weight * torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
        pictures.append((0.5 + 0.7 * picture).clamp(0, 1))
    return torch.cat(pictures)


def nonsense(kind, images):
    """What a metric must not reward, made of `images` `(N, 3, H, W)`."""
    count = len(images)
    generator = torch.Generator().manual_seed(0)
    if kind == "noise":
        return torch.rand(images.shape, generator=generator)
    if kind == "one view":
        return images[:1].expand(count, -1, -1, -1).contiguous()
    if kind == "blank":
        return torch.full_like(images, 0.5)
    if kind == "shuffled":
        return images[torch.randperm(count, generator=generator)]
    if kind == "other scenes":
        return other_textures(count, *images.shape[2:])
    raise ValueError(kind)


NONSENSE = ("noise", "one view", "blank", "shuffled", "other scenes")
