import math

import pytest
import torch

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import ground_height, plane_depth
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


def rolled(cameras, degrees):
    """The same cameras, turned about their optical axes."""
    turn = torch.eye(4)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])
    return Cameras(cameras.camera_to_world @ turn, cameras.intrinsics, cameras.height, cameras.width)


def test_every_pixel_meets_the_plane():
    cameras = Cameras.cat(
        [orbit(1, 8), rolled(orbit(1, 8), 30.0), orbit(1, 8, elevation=-5.0), orbit(1, 8, elevation=60.0, radius=2.0)]
    )
    cameras = cameras.resize(8, 6)
    height = -0.3
    depth = plane_depth(cameras, height)
    assert depth.shape == (4, 8, 6)
    for n in range(len(cameras)):
        pose, intrinsics = cameras.camera_to_world[n], cameras.intrinsics[n]
        for v in range(8):
            for u in range(6):
                ray = torch.linalg.inv(intrinsics) @ torch.tensor([u + 0.5, v + 0.5, 1.0])
                z = (height - pose[1, 3]) / (pose[:3, :3] @ ray)[1]
                if pose[1, 3] > height and z > 0:
                    assert depth[n, v, u].item() == pytest.approx(z.item(), rel=1e-4)
                else:
                    assert depth[n, v, u] == math.inf
    assert depth[3].isfinite().all()
    assert not depth[0].isfinite().all()


def test_nothing_is_seen_from_below():
    assert plane_depth(orbit(1, 8, elevation=-30.0), 0.0).isinf().all()


@pytest.mark.parametrize("elevation", [12.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_plane_under_a_toy_subject_is_its_ground(seed, elevation):
    cameras = orbit(4, elevation=elevation)
    scene, views = toy_views(seed, cameras)
    for (depth, opacity), tolerance in (((views.depth[:, 0], views.masks[:, 0]), 0.025), (coarse(views), 0.045)):
        assert ground_height(depth, opacity, cameras) == pytest.approx(scene.ground.height, abs=tolerance)


@pytest.mark.parametrize("coarsely", [False, True])
def test_specks_below_are_no_ground(coarsely):
    cameras = orbit()
    scene, views = toy_views(0, cameras)
    depth, opacity = coarse(views) if coarsely else (views.depth[:, 0].clone(), views.masks[:, 0].clone())
    before = ground_height(depth, opacity, cameras)
    depth[1, -3, 5], opacity[1, -3, 5] = 1.0, 1.0  # 0.2 and more below the ground
    assert ground_height(depth[1:2], opacity[1:2], cameras[1:2]) < scene.ground.height - (0.1 if coarsely else -1)
    assert ground_height(depth, opacity, cameras) == pytest.approx(before, abs=0.01)


def test_views_that_cut_the_subject_off_below_are_passed_over():
    cameras = orbit()
    scene, _ = toy_views(0, cameras)

    def seen(moved_down):
        """Views whose pictures are moved down by so many pixels each."""
        intrinsics = cameras.intrinsics.clone()
        intrinsics[:, 1, 2] += torch.tensor(moved_down, dtype=intrinsics.dtype)
        moved = Cameras(cameras.camera_to_world, intrinsics, 96, 96)
        views = render(scene, moved)
        return views.depth[:, 0], views.masks[:, 0], moved

    down = 96 - (seen([0] * 6)[1].amax(dim=(0, 2)).nonzero().max().item()) + 8  # all feet are outside
    assert ground_height(*seen([down] * 6)) is None
    depth, opacity, moved = seen([down, 0, down, 0, 0, down])
    assert opacity[0, -1].max() == 1
    kept = [1, 3, 4]
    assert ground_height(depth, opacity, moved) == ground_height(depth[kept], opacity[kept], moved[torch.tensor(kept)])


def test_a_view_that_cuts_off_the_upper_end_counts():
    cameras = orbit(1)
    scene, views = toy_views(0, cameras)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 1, 2] -= views.masks[0, 0].amax(dim=1).nonzero().min().item() + 8
    moved = Cameras(cameras.camera_to_world, intrinsics, 96, 96)
    views = render(scene, moved)
    assert views.masks[0, 0, 0].max() == 1
    assert ground_height(views.depth[:, 0], views.masks[:, 0], moved) == pytest.approx(scene.ground.height, abs=0.025)


def test_depth_that_is_not_a_number_does_not_count():
    cameras = orbit(2)
    _, views = toy_views(0, cameras)
    depth = views.depth[:, 0].clone()
    before = ground_height(depth, views.masks[:, 0], cameras)
    depth[:, 40:42] = torch.nan
    assert ground_height(depth, views.masks[:, 0], cameras) == pytest.approx(before, abs=0.01)


def test_what_nobody_sees_stands_nowhere():
    cameras = orbit(2, 8)
    assert ground_height(torch.ones(2, 8, 8), torch.zeros(2, 8, 8), cameras) is None


@pytest.mark.parametrize(("depth", "opacity"), [((3, 8, 8), (3, 8, 8)), ((2, 8, 8), (2, 8, 4)), ((8, 8), (8, 8))])
def test_shapes_are_checked(depth, opacity):
    with pytest.raises(MVCustomError, match=r"depth, opacity: expected shape \(2, h, w\)"):
        ground_height(torch.ones(depth), torch.ones(opacity), orbit(2, 8))
