"""A FeatureNeRF learns shape and colour from photos: the proof that its parts work together."""

from __future__ import annotations

import math

import pytest
import torch
from reference.feature_nerf_scenes import look_at
from torch import Tensor

from diffusers_mvcustom.geometry import camera_rays, pixel_centers
from diffusers_mvcustom.models import FeatureNeRF, FeatureNeRFConfig

SIZE, CHANNELS, VIEWS = 16, 16, 4
INTRINSICS = torch.tensor([[1.4 * SIZE, 0, SIZE / 2], [0, 1.4 * SIZE, SIZE / 2], [0, 0, 1.0]])
BALLS = [  # centre, radius, colour
    ((0.25, 0.0, -0.1), 0.2, (0.9, 0.3, 0.1)),
    ((-0.2, 0.1, 0.15), 0.22, (0.1, 0.4, 0.9)),
]


def camera(azimuth: float, elevation: float) -> Tensor:
    a, e = math.radians(azimuth), math.radians(elevation)
    return look_at((math.cos(e) * math.sin(a), math.sin(e), -math.cos(e) * math.cos(a))).float()


def photo(pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours `(h, w, 3)`, black behind the balls, the balls' mask and z-depth `(h, w)`."""
    pixels = pixel_centers(SIZE, SIZE).flatten(0, 1)
    origins, directions = camera_rays(pose, INTRINSICS, pixels)
    distance, colours = torch.full((SIZE * SIZE,), math.inf), torch.zeros(SIZE * SIZE, 3)
    for center, radius, colour in BALLS:
        offset = origins - torch.tensor(center)
        b = (offset * directions).sum(-1)
        discriminant = b.square() - offset.square().sum(-1) + radius**2
        to_ball = torch.where(discriminant > 0, -b - discriminant.clamp(min=0).sqrt(), math.inf)
        colours[to_ball < distance] = torch.tensor(colour)
        distance = torch.minimum(distance, to_ball)
    depth = distance * (directions @ pose[:3, 2])
    return colours.view(SIZE, SIZE, 3), distance.isfinite().view(SIZE, SIZE), depth.view(SIZE, SIZE)


@pytest.fixture(scope="module")
def learned():
    """Twelve photos around two balls, and a FeatureNeRF after 60 steps on them, each seen from others (about 8 s)."""
    generator = torch.Generator().manual_seed(0)
    poses = torch.stack([camera(azimuth, (20, -10, 35)[i % 3]) for i, azimuth in enumerate(range(0, 360, 30))])
    colours, masks, _ = (torch.stack(maps) for maps in zip(*map(photo, poses)))
    mixing = torch.randn(4, CHANNELS, generator=generator)  # features that hold colour and mask, as a U-Net's would
    features = (torch.cat([colours, masks[..., None].float()], dim=-1) @ mixing).movedim(-1, 1)
    near = torch.cdist(poses[:, :3, 3], poses[:, :3, 3]).argsort(dim=1)[:, 1:6]
    torch.manual_seed(0)
    nerf = FeatureNeRF(
        CHANNELS, FeatureNeRFConfig(hidden_channels=32, num_samples=16, point_frequencies=6, ray_frequencies=4)
    )

    def render(references: Tensor, target_poses: Tensor, **options):
        """References `(B, V)` by number, into one target pose each `(B, 4, 4)`."""
        batch, views = references.shape
        return nerf(
            features[references],
            poses[references],
            INTRINSICS.expand(batch, views, 3, 3),
            target_poses[:, None],
            INTRINSICS.expand(batch, 1, 3, 3),
            SIZE,
            SIZE,
            **options,
        )

    optimizer = torch.optim.Adam(nerf.parameters(), lr=2e-2)
    for _ in range(60):
        targets = torch.randperm(len(poses), generator=generator)[:4]
        references = torch.stack([near[i][torch.randperm(5, generator=generator)[:VIEWS]] for i in targets])
        rendered = render(references, poses[targets], stratified=True, generator=generator)
        rgb_loss = (rendered.rgb[:, 0] - colours[targets]).square().mean()
        mask_loss = (rendered.opacity[:, 0] - masks[targets].float()).square().mean()
        optimizer.zero_grad()
        (5 * rgb_loss + 10 * mask_loss).backward()
        optimizer.step()
    return render, poses, colours


HELD_OUT = [(22.0, 10.0), (200.0, 15.0)]


@torch.no_grad()
def test_a_view_from_between_the_photos_is_closer_than_the_nearest_photo(learned):
    render, poses, colours = learned
    errors, nearest_errors, mean_errors = [], [], []
    for held_out in HELD_OUT:
        pose = camera(*held_out)
        order = (poses[:, :3, 3] - pose[:3, 3]).norm(dim=-1).argsort()
        rendered = render(order[None, :VIEWS], pose[None])
        truth, _, _ = photo(pose)
        errors.append((rendered.rgb[0, 0] - truth).square().mean().item())
        nearest_errors.append((colours[order[0]] - truth).square().mean().item())
        mean_errors.append((colours.mean((0, 1, 2)) - truth).square().mean().item())
    assert sum(errors) < 0.7 * sum(nearest_errors)
    assert sum(errors) < 0.7 * sum(mean_errors)


@torch.no_grad()
def test_shape_is_learnt_too(learned):
    render, poses, _ = learned
    errors, constant_errors = [], []
    for held_out in HELD_OUT:
        pose = camera(*held_out)
        order = (poses[:, :3, 3] - pose[:3, 3]).norm(dim=-1).argsort()
        rendered = render(order[None, :VIEWS], pose[None])
        _, mask, depth = photo(pose)
        opacity = rendered.opacity[0, 0]
        assert opacity[mask].mean() > opacity[~mask].mean() + 0.4
        errors.append((rendered.depth[0, 0] - depth)[mask].abs().mean().item())
        constant_errors.append((depth[mask] - depth[mask].median()).abs().mean().item())
        again = render(order[None, :VIEWS], pose[None], previous=rendered.ray_distribution)
        assert (again.opacity[0, 0] - opacity).abs().mean() < 0.05
    assert sum(errors) < sum(constant_errors)  # the best constant depth
