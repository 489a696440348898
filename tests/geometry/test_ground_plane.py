import math

import pytest
import torch

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import ground_level, plane_depth
from diffusers_mvcustom.toy import build_scene, render
from diffusers_mvcustom.toy.splits import sample_attributes


def orbit(count=6, size=96, **view):
    return Cameras.orbit(count, **{"elevation": 20.0, "field_of_view": 50.0, "height": size, "width": size, **view})


def coarse(views, size=16):
    """Depth and opacity as FeatureNeRF gives them: one ray a pixel, opacity by area."""
    depth = torch.where(views.masks > 0.5, views.depth, torch.nan)
    parts = depth.unfold(2, depth.shape[2] // size, depth.shape[2] // size)
    parts = parts.unfold(3, depth.shape[3] // size, depth.shape[3] // size).flatten(-2)
    opacity = views.masks.unflatten(2, (size, -1)).unflatten(4, (size, -1)).mean(dim=(3, 5))
    return parts.nanmean(dim=-1)[:, 0].nan_to_num(0.0), opacity[:, 0]


def toy_views(seed, cameras):
    attributes = sample_attributes("validation", seed)
    scene = build_scene(attributes, subject_seed=seed, surroundings_seed=seed)
    return scene, render(scene, cameras)


def test_every_pixel_meets_the_plane():
    cameras = Cameras.cat([orbit(2, 8), orbit(1, 8, elevation=-5.0), orbit(1, 8, elevation=60.0, radius=2.0)])
    level = -0.3
    depth = plane_depth(cameras, level)
    assert depth.shape == (4, 8, 8)
    for n in range(len(cameras)):
        pose, intrinsics = cameras.camera_to_world[n], cameras.intrinsics[n]
        for v in range(8):
            for u in range(8):
                ray = torch.linalg.inv(intrinsics) @ torch.tensor([u + 0.5, v + 0.5, 1.0])
                z = (level - pose[1, 3]) / (pose[:3, :3] @ ray)[1]
                if pose[1, 3] > level and z > 0:
                    assert depth[n, v, u].item() == pytest.approx(z.item(), rel=1e-4)
                else:
                    assert depth[n, v, u] == math.inf
    assert depth[3].isfinite().all()
    assert not depth[0].isfinite().all()


def test_nothing_is_seen_from_below():
    assert plane_depth(orbit(1, 8, elevation=-30.0), 0.0).isinf().all()


@pytest.mark.parametrize("elevation", [12.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_level_of_a_toy_subject_is_that_of_its_ground(seed, elevation):
    cameras = orbit(4, elevation=elevation)
    scene, views = toy_views(seed, cameras)
    for (depth, opacity), tolerance in (((views.depth[:, 0], views.masks[:, 0]), 0.025), (coarse(views), 0.04)):
        assert ground_level(depth, opacity, cameras) == pytest.approx(scene.ground.height, abs=tolerance)


def test_specks_below_are_no_ground():
    cameras = orbit()
    _, views = toy_views(0, cameras)
    depth, opacity = views.depth[:, 0].clone(), views.masks[:, 0].clone()
    level = ground_level(depth, opacity, cameras)
    depth[:, -4, 40:41], opacity[:, -4, 40:41] = 0.3, 1.0
    assert ground_level(depth, opacity, cameras) == pytest.approx(level, abs=0.01)


def test_views_that_cut_the_subject_off_below_are_passed_over():
    cameras = orbit()
    scene, views = toy_views(0, cameras)
    depth, opacity = views.depth[:, 0].clone(), views.masks[:, 0].clone()
    lowest = opacity[0].amax(dim=1).nonzero().max().item()
    cut = 12
    intrinsics = cameras.intrinsics.clone()
    intrinsics[0, 1, 2] += 96 - lowest + cut - 1  # the first camera's picture, moved down so that its end is outside
    moved = Cameras(cameras.camera_to_world, intrinsics, 96, 96)
    views = render(scene, moved)
    depth, opacity = views.depth[:, 0], views.masks[:, 0]
    assert opacity[0, -1].max() == 1
    assert ground_level(depth[:1], opacity[:1], moved[:1]) is None
    assert ground_level(depth, opacity, moved) == ground_level(depth[1:], opacity[1:], moved[1:])


def test_what_nobody_sees_has_no_level():
    cameras = orbit(2, 8)
    assert ground_level(torch.ones(2, 8, 8), torch.zeros(2, 8, 8), cameras) is None


@pytest.mark.parametrize(("depth", "opacity"), [((3, 8, 8), (3, 8, 8)), ((2, 8, 8), (2, 8, 4)), ((8, 8), (8, 8))])
def test_shapes_are_checked(depth, opacity):
    with pytest.raises(MVCustomError, match=r"depth, opacity: expected shape \(2, h, w\)"):
        ground_level(torch.ones(depth), torch.ones(opacity), orbit(2, 8))
