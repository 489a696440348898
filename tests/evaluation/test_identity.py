"""Identity: the nearest photo, cut out alike through other lenses and distances, inside the mask."""

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.evaluation import Identity, identity, nearest_references, subject_crops
from diffusers_mvcustom.toy import render, sample_scene


def color_difference(one, other):
    return (one - other).abs().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def references():
    cameras = Cameras.orbit(8, elevation=20.0, height=96, width=128)
    views = render(sample_scene("train", 3), cameras, supersampling=1)
    return views.images, cameras, views.masks


def test_nearest_is_by_direction_from_the_subject_not_by_distance():
    references = Cameras.orbit(4, elevation=0.0)  # 0°, 90°, 180°, 270°
    targets = Cameras.orbit(3, azimuth=(50.0, 210.0), elevation=10.0, radius=3.0)  # 50°, 130°, 210°
    assert nearest_references(targets, references).tolist() == [1, 1, 2]


def test_the_same_view_is_cut_out_the_same(references):
    views, photos, possible = subject_crops(references[0], references[1], *references, size=32)
    assert possible.all()
    torch.testing.assert_close(views, photos)
    assert views.shape == (8, 3, 32, 32)


def test_other_lens_other_distance_other_size_and_centre_are_cut_out_alike(references):
    images, cameras, _ = references
    half_size = torch.nn.functional.interpolate(images, (48, 64), mode="area")
    views, photos, _ = subject_crops(half_size, cameras.resize(48, 64), *references, size=32)
    assert (views - photos).abs().mean() < 0.02
    shifted = cameras.intrinsics.clone()
    shifted[:, 0, 2] += 10
    moved = Cameras(cameras.camera_to_world, shifted, 96, 128)  # the picture moves by 10 pixels to the right
    rolled = torch.cat([images[..., :10] * 0, images[..., :-10]], dim=-1)
    views, photos, _ = subject_crops(rolled, moved, *references, size=32)
    assert (views - photos).abs().mean() < 0.02
    farther = Cameras.orbit(8, elevation=20.0, height=96, width=128, radius=2.0)
    rendered = render(sample_scene("train", 3), farther)
    views, photos, _ = subject_crops(rendered.images, farther, *references, size=32)
    assert (views - photos).abs().mean() < 0.06  # perspective differs, place and size do not


def test_only_what_is_inside_the_mask_counts(references):
    images, cameras, masks = references
    elsewhere = torch.where(masks > 0, images, torch.rand(images.shape, generator=torch.Generator().manual_seed(0)))
    kept, changed = (identity(color_difference, made, cameras, *references)["score"] for made in (images, elsewhere))
    assert kept == pytest.approx(0, abs=1e-6)
    assert changed < 0.02  # the rim alone
    whole = identity(color_difference, elsewhere, cameras, images, cameras)["score"]
    assert whole > 5 * changed


def test_masks_of_the_views_are_used_for_the_views(references):
    images, cameras, masks = references
    views, _, _ = subject_crops(images, cameras, *references, masks=torch.zeros_like(masks), size=16)
    assert (views == 0.5).all()


@pytest.mark.parametrize("kind", ["noise", "other subjects", "blank"])
def test_what_is_not_the_subject_is_farther_than_other_views_of_it(references, kind):
    images = references[0]
    between = Cameras.orbit(8, azimuth=(10.0, 325.0), elevation=25.0, height=96, width=128)
    same = render(sample_scene("train", 3), between)
    made = {
        "noise": lambda: torch.rand(images.shape, generator=torch.Generator().manual_seed(0)),
        "blank": lambda: torch.zeros_like(images),
        "other subjects": lambda: torch.cat(
            [render(sample_scene("train", 30 + i), between[i]).images for i in range(8)]
        ),
    }[kind]()
    scores = [identity(color_difference, views, between, *references)["score"] for views in (same.images, made)]
    assert scores[0] < 0.8 * scores[1]


def test_a_view_that_looks_away_counts_as_the_worst(references):
    images, cameras, _ = references
    away = cameras.camera_to_world.clone()
    away[0, :3, :3] = away[0, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # turned around
    target = Cameras(away, cameras.intrinsics, 96, 128)
    distance = Identity(color_difference)
    distance.update(images, target, *references)
    numbers = distance.compute()
    assert (numbers["views"], numbers["views_scored"]) == (8, 7)
    assert numbers["score"] == pytest.approx(1 / 8, abs=1e-6)
    similarity = Identity(lambda one, other: 1 - color_difference(one, other), higher_is_better=True)
    similarity.update(images, target, *references)
    assert similarity.compute()["score"] == pytest.approx(7 / 8, abs=1e-6)


def test_a_subject_out_of_the_picture_counts_as_the_worst(references):
    images, cameras, _ = references
    beside = cameras.intrinsics.clone()
    beside[:, 0, 2] += 1000
    numbers = identity(color_difference, images, Cameras(cameras.camera_to_world, beside, 96, 128), *references)
    assert numbers == {"score": 1.0, "views": 8, "views_scored": 0}


def test_bad_input_is_named(references):
    images, cameras, masks = references
    empty = masks.clone()
    empty[2] = 0
    with pytest.raises(MVCustomError, match="that of reference 2 is empty"):
        subject_crops(images, cameras, images, cameras, empty)
    with pytest.raises(MVCustomError, match=r"reference_masks: expected shape \(8, 1, 96, 128\)"):
        subject_crops(images, cameras, images, cameras, masks[:, :, :5])
    with pytest.raises(MVCustomError, match="one finite number for each of 8 pairs"):
        identity(lambda one, other: torch.zeros(3), images, cameras, *references)
