"""Co-visible reprojection: exact where the answer is known, near 0 for whatever is no one scene seen from its cameras."""

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.evaluation import (
    CovisibleReprojection,
    covisible_pixels,
    covisible_reprojection,
    reprojection_agreements,
)
from diffusers_mvcustom.toy import render, sample_scene

COUNT = 5


@pytest.fixture(scope="module")
def views():
    cameras = Cameras.orbit(COUNT, azimuth=(-40.0, 40.0), elevation=20.0, height=48, width=72)
    return render(sample_scene("train", 1), cameras)


def slid(shift: float, height=6, width=9, focal=5.0):
    """Two cameras side by side, and the depth of a wall that they face: it moves by `shift` pixels between them."""
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 0, 3] = shift / focal  # the wall is 1 away
    lens = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(poses, lens.repeat(2, 1, 1), height, width), torch.ones(2, height, width, dtype=torch.float64)


def test_a_wall_moves_by_what_the_cameras_moved():
    cameras, depth = slid(2.0)
    seen = covisible_pixels(depth[0], depth[1], cameras[0], cameras[1])
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    expected = torch.stack([columns + 0.5 - 2.0, rows + 0.5], dim=-1).double()
    torch.testing.assert_close(seen.pixels, expected)
    assert seen.visible.tolist() == [[False] * 2 + [True] * 7] * 6  # the two left columns have moved out of sight


def test_what_something_nearer_hides_is_not_visible():
    cameras, depth = slid(2.0)
    depth[1, :, 3] = 0.5  # a post in front of the second camera: pixels that fall on it or beside it do not count
    seen = covisible_pixels(depth[0], depth[1], cameras[0], cameras[1])
    assert seen.visible[0].tolist() == [False, False, True, True, False, False, True, True, True]


def test_errors_are_those_of_the_moved_and_of_the_unmoved_picture():
    cameras, depth = slid(2.0)
    torch.manual_seed(0)
    wide = torch.rand(3, 6, 11, dtype=torch.float64)
    images = torch.stack([wide[..., :9], wide[..., 2:]])  # column c of the first is column c - 2 of the second
    (agreement,) = reprojection_agreements(images, depth, cameras)
    assert agreement.color_error == pytest.approx(0, abs=1e-12)
    assert agreement.still_error == pytest.approx((images[0] - images[1]).abs()[..., 2:].mean().item())
    assert agreement.share == 7 / 9
    assert agreement.skill == pytest.approx(1)


def test_noise_has_no_skill_though_reading_between_pixels_smooths_it():
    cameras, depth = slid(2.5, height=64, width=96)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    (agreement,) = reprojection_agreements(images, depth, cameras)
    assert abs(agreement.skill) < 0.02


def test_a_rendered_scene_agrees_with_itself_as_a_whole_and_in_its_subject(views):
    assert covisible_reprojection(views.images, views.depth, views.cameras)["skill"] > 0.7
    assert covisible_reprojection(views.images, views.depth, views.cameras, masks=views.masks)["skill"] > 0.4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("nonsense", ["noise", "one view", "blank", "shuffled", "other scenes"])
def test_nonsense_scores_near_worst(views, nonsense, masked):
    made = {
        "noise": lambda: torch.rand(views.images.shape, generator=torch.Generator().manual_seed(1)),
        "one view": lambda: views.images[:1].expand(COUNT, -1, -1, -1),
        "blank": lambda: torch.full_like(views.images, 0.5),
        "shuffled": lambda: views.images[[3, 1, 4, 2, 0]],
        "other scenes": lambda: torch.cat(
            [render(sample_scene("train", 20 + i), views.cameras[i]).images for i in range(COUNT)]
        ),
    }[nonsense]()
    numbers = covisible_reprojection(made, views.depth, views.cameras, masks=views.masks if masked else None)
    assert numbers["skill"] < 0.1, numbers


def test_accumulating_is_pooling_the_pairs(views):
    metric = CovisibleReprojection()
    first = metric.update(views.images, views.depth, views.cameras)
    second = metric.update(views.images[:2], views.depth[:2], views.cameras[:2], masks=views.masks[:2])
    numbers = metric.compute()
    skills = [agreement.skill for agreement in first + second]
    assert numbers["pairs"] == len(first) + len(second)
    assert numbers["skill"] == pytest.approx(sum(skills) / len(skills))
    assert set(metric.higher_is_better) <= set(numbers)


def test_views_that_see_nothing_in_common_are_named(views):
    away = Cameras.orbit(2, azimuth=(0.0, 180.0), height=48, width=72)
    rendered = render(sample_scene("train", 1), away)
    with pytest.raises(MVCustomError, match="no two views see the same"):
        covisible_reprojection(rendered.images, rendered.depth, away, masks=rendered.masks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, 9, 6)}, r"images: expected shape \(2, 3, 6, 9\)"),
        ({"images": torch.full((2, 3, 6, 9), 2.0)}, r"images: expected values in \[0, 1\]"),
        ({"depth": torch.ones(2, 9, 6)}, r"depth: expected shape \(2, 6, 9\)"),
        ({"depth": torch.zeros(2, 6, 9)}, "depth: expected finite numbers above 0"),
        ({"masks": torch.ones(2, 6, 9)}, r"masks: expected shape \(2, 1, 6, 9\)"),
    ],
)
def test_bad_input_is_named(change, message):
    cameras, depth = slid(1.0)
    given = {"images": torch.zeros(2, 3, 6, 9), "depth": depth, "cameras": cameras, **change}
    with pytest.raises(MVCustomError, match=message):
        covisible_reprojection(**given)
