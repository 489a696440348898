"""TSED: exact geometry on points of known depth, near 1 for a rendered scene, near 0 for what is none."""

import pytest
import torch
from evaluation.view_sets import NONSENSE, nonsense, textured_views

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.evaluation import Tsed, pair_agreements, tsed
from diffusers_mvcustom.evaluation.epipolar import (
    fundamental_matrices,
    match_features,
    sift_features,
    symmetric_epipolar_distances,
)
from diffusers_mvcustom.geometry import project


def seen(points, camera):
    return project(points, camera.world_to_camera[0], camera.intrinsics[0])[0]


@pytest.fixture
def points():
    return 0.3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def cameras():
    made = Cameras.orbit(3, azimuth=(0.0, 70.0), elevation=25.0, height=96, width=160).to("cpu", torch.float64)
    intrinsics = made.intrinsics.clone()
    intrinsics[1, 0, 0] *= 1.3  # a lens of its own: another focal length, off centre
    intrinsics[1, 0, 2] += 11
    return Cameras(made.camera_to_world, intrinsics, 96, 160)


def test_images_of_one_point_lie_on_each_others_lines(points, cameras):
    one, other = seen(points, cameras[0]), seen(points, cameras[1])
    distances = symmetric_epipolar_distances(one, other, cameras[0], cameras[1])
    assert distances.max() < 1e-4
    matrix = fundamental_matrices(cameras[0], cameras[1])[0]
    for x, y in zip(one, other):
        x, y = (torch.cat([p, p.new_ones(1)]) for p in (x, y))
        assert abs(y @ matrix @ x) < 1e-4


def test_distance_is_the_mean_of_both_pixel_distances():
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 0, 3] = 1.0  # side by side: lines are rows
    cameras = Cameras(poses, torch.tensor([[50.0, 0, 8], [0, 50.0, 8], [0, 0, 1]]).double().repeat(2, 1, 1), 16, 16)
    here, there = torch.tensor([[9.0, 4.0]]), torch.tensor([[2.0, 7.0]])
    assert symmetric_epipolar_distances(here, there, cameras[0], cameras[1]).item() == pytest.approx((3 + 3) / 2)


def test_cameras_at_one_place_are_compared_by_where_the_ray_goes(cameras):
    turned = cameras[0].camera_to_world.clone()
    angle = torch.tensor(0.1, dtype=torch.float64)
    turned[0, :3, :3] = turned[0, :3, :3] @ torch.linalg.matrix_exp(
        angle * torch.tensor([[0, 0, 1.0], [0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)
    )
    other = Cameras(turned, cameras[0].intrinsics, 96, 160)
    points = 0.2 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    here, there = seen(points, cameras[0]), seen(points, other)
    assert symmetric_epipolar_distances(here, there, cameras[0], other).max() < 1e-4
    off = symmetric_epipolar_distances(here, there + torch.tensor([0.0, 3.0]), cameras[0], other)
    assert ((off > 2) & (off < 4)).all()


def test_features_of_small_pictures_are_in_their_own_pixels():
    image = torch.zeros(1, 3, 64, 96)
    image[..., 30:34, 50:54] = 1.0  # a blob around (52, 32)
    ((where, descriptors),) = sift_features(image)
    assert len(where) > 0
    assert descriptors.norm(dim=-1).allclose(torch.ones(len(where)), atol=1e-4)
    assert (where - torch.tensor([52.0, 32.0])).norm(dim=-1).min() < 0.3


def test_matches_are_mutual_and_clear():
    eye = torch.eye(4)
    where = torch.arange(8.0).reshape(4, 2)
    matched, other = match_features((where, eye), (where.flip(0), eye.flip(0)))
    assert torch.equal(matched, other)
    assert len(matched) == 4
    twice = torch.cat([eye[:2], eye[:2]])  # everything has two equally near partners
    assert len(match_features((where[:2], eye[:2]), (where, twice))[0]) == 0
    assert len(match_features((where[:1], eye[:1]), (where, eye))[0]) == 0


def test_a_rendered_scene_is_consistent_and_nonsense_is_not():
    images, cameras = textured_views(count=6, height=192, width=256, of_ring=24)  # 15° apart
    numbers = tsed(images, cameras)
    assert numbers["tsed"] == 1.0, numbers
    assert numbers["still_share"] == 0.0
    for kind in NONSENSE:
        worse = tsed(nonsense(kind, images), cameras)
        assert worse["tsed"] <= 0.2, (kind, worse)
    assert tsed(nonsense("one view", images), cameras)["still_share"] == 1.0


def test_a_picture_may_stand_still_if_its_camera_does():
    images, cameras = textured_views(count=2, height=192, width=256, of_ring=24)
    (agreement,) = pair_agreements(images[[0, 0]], cameras[[0, 0]], pairs=[(0, 1)])
    assert agreement.movement == 0
    assert agreement.consistent


def test_accumulating_is_pooling_the_pairs():
    images, cameras = textured_views(count=3, height=192, width=256, of_ring=24)
    metric = Tsed()
    first = metric.update(images, cameras)
    second = metric.update(nonsense("noise", images), cameras)
    numbers = metric.compute()
    assert numbers["pairs"] == len(first) + len(second)
    assert numbers["pairs_consistent"] == sum(agreement.consistent for agreement in first + second)
    assert numbers["tsed"] == numbers["pairs_consistent"] / numbers["pairs"]
    assert set(metric.higher_is_better) <= set(numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(3, 3, 160, 96)}, r"images: expected shape \(3, 3, 96, 160\)"),
        ({"max_error": 0.0}, "max_error, min_matches"),
        ({"min_matches": 0}, "max_error, min_matches"),
    ],
)
def test_bad_input_is_named(cameras, change, message):
    given = {"images": torch.zeros(3, 3, 96, 160), "cameras": cameras, **change}
    with pytest.raises(MVCustomError, match=message):
        tsed(**given)
    with pytest.raises(MVCustomError, match="at least 2 views"):
        tsed(torch.zeros(1, 3, 96, 160), cameras[0])
