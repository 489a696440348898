"""Poses by structure from motion: right for renders, none for what is no scene, and k of n said."""

import math

import pytest
import torch
from evaluation.view_sets import nonsense, textured_views

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.evaluation import (
    EstimatedPoses,
    SfmConsistency,
    estimate_poses,
    estimated_camera_accuracy,
    sfm_consistency,
    views_in_place,
)


@pytest.fixture(scope="module")
def neighbours():
    return textured_views(count=5, height=192, width=256, of_ring=24)  # 15° apart


@pytest.fixture(scope="module")
def estimated(neighbours):
    images, cameras = neighbours
    elsewhere = Cameras(torch.eye(4).repeat(len(cameras), 1, 1), cameras.intrinsics, cameras.height, cameras.width)
    return estimate_poses(images, elsewhere, threads=1)  # poses are not read


def test_poses_of_a_rendered_scene_are_found(neighbours, estimated):
    _, cameras = neighbours
    assert estimated.registered.all()
    assert estimated.reason is None
    assert estimated.summary() == "5 of 5 views registered"
    assert estimated.points > 50
    assert estimated.track_length > 2
    assert estimated.reprojection_error < 1
    assert views_in_place(estimated, cameras, degrees=3).all()


def test_a_repeated_view_has_no_poses_and_counts_as_the_worst(neighbours):
    images, cameras = neighbours
    numbers = estimated_camera_accuracy(nonsense("one view", images), cameras, threads=1)
    assert numbers["RRA@15"] == numbers["RTA@15"] == numbers["AUC@30"] == 0
    assert (numbers["pairs"], numbers["pairs_found"]) == (10, 0)


def test_a_mask_keeps_features_out(neighbours):
    images, cameras = neighbours
    masks = torch.zeros(len(images), 1, *images.shape[2:])
    found = estimate_poses(images, cameras, masks=masks, threads=1)
    assert found.num_registered == 0
    assert "0 of 10 pairs" in found.reason
    assert "0 features" in found.reason


def test_two_views_are_too_few_and_said_to_be(neighbours):
    images, cameras = neighbours
    found = estimate_poses(images[:2], cameras[:2])
    assert found.num_registered == 0
    assert found.summary() == "0 of 2 views registered: structure from motion needs 3 views, there are 2"


def right_poses(cameras, registered=None, points=100):
    registered = torch.ones(len(cameras), dtype=torch.bool) if registered is None else torch.tensor(registered)
    return EstimatedPoses(cameras.camera_to_world.double(), registered, points, 3.0, 0.5)


def test_in_place_is_right_relative_to_half_of_the_others():
    cameras = Cameras.orbit(7, elevation=10.0)
    assert views_in_place(right_poses(cameras), cameras).all()
    moved = right_poses(cameras)
    moved.camera_to_world[2] = cameras.camera_to_world[5].double()
    assert views_in_place(moved, cameras).tolist() == [True, True, False, True, True, True, True]
    few = right_poses(cameras, [True, True, True, False, False, False, False])
    assert not views_in_place(few, cameras).any()  # right to 2 of 6 others
    half = right_poses(cameras, [True, True, True, True, False, False, False])
    assert views_in_place(half, cameras).tolist() == [True] * 4 + [False] * 3  # right to 3 of 6
    shuffled = right_poses(cameras[[3, 6, 1, 5, 0, 4, 2]])
    assert not views_in_place(shuffled, cameras).any()


def test_consistency_pools_views_and_a_failed_set_counts_as_the_worst():
    cameras = Cameras.orbit(4, elevation=10.0)
    metric = SfmConsistency()
    metric.update(right_poses(cameras, points=90), cameras)
    metric.update(EstimatedPoses.none(4, "nothing in common"), cameras)
    numbers = metric.compute()
    assert numbers["in_place_share"] == numbers["registered_share"] == 4 / 8
    assert numbers["points"] == (90 + 0) / 2
    assert numbers["track_length"] == (3.0 + 0.0) / 2
    assert numbers["reprojection_error"] == (0.5 + 4.0) / 2
    assert (numbers["views"], numbers["views_registered"], numbers["views_in_place"]) == (8, 4, 4)
    assert (numbers["sets"], numbers["sets_failed"]) == (2, 1)
    assert set(metric.higher_is_better) <= set(numbers)


def test_a_set_without_points_has_the_worst_error():
    metric = SfmConsistency()
    cameras = Cameras.orbit(3)
    metric.update(EstimatedPoses(cameras.camera_to_world.double(), torch.ones(3, dtype=torch.bool)), cameras)
    assert metric.compute()["reprojection_error"] == 4.0
    assert not math.isnan(metric.compute()["points"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 3, 192, 256)}, r"images: expected shape \(5, 3, 192, 256\)"),
        ({"masks": torch.zeros(5, 192, 256)}, r"masks: expected shape \(5, 1, 192, 256\)"),
    ],
)
def test_bad_input_is_named(neighbours, change, message):
    images, cameras = neighbours
    given = {"images": images, "cameras": cameras, **change}
    with pytest.raises(MVCustomError, match=message):
        sfm_consistency(**given)
