"""Identity: high for the true subject in whatever light, low for others and for what is elsewhere."""

import pytest
import torch

from diffusers_mvcustom.evaluation.toy_suite.controls import foreign_views
from diffusers_mvcustom.evaluation.toy_suite.identity import identity_scores, structural_similarity
from diffusers_mvcustom.evaluation.toy_suite.known_geometry import KnownGeometry
from diffusers_mvcustom.toy import AttributeReader


def scores(views, known, reader=None):
    return identity_scores(views, known.lit, known.masks, reader)


def test_the_true_subject_scores_best_and_nonsense_low(seen):
    case, views, known = seen
    itself, true = scores(known.lit[0], known), scores(views, known)
    assert itself["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert itself["psnr"] == pytest.approx(40.0)
    noise = scores(torch.rand(views.shape, generator=torch.Generator().manual_seed(0)), known)
    foreign = scores(foreign_views(case), known)
    for other in (noise, foreign):
        assert true["ssim"] > other["ssim"] + 0.2
        assert true["psnr"] > other["psnr"] + 4


def test_light_is_not_identity_but_colour_is(rotation, seen):
    _, _, known = seen
    darker = known.lit[0] * torch.tensor([0.8, 0.75, 0.7])[:, None, None]
    assert scores(darker, known)["psnr"] > 35
    exchanged = known.lit[0][:, [2, 0, 1]]
    assert scores(exchanged, known)["psnr"] < scores(darker, known)["psnr"] - 5


def test_colours_do_not_see_the_camera_but_similarity_does(rotation):
    known = KnownGeometry.of(rotation)
    right, reversed_ = scores(known.lit[0], known), scores(known.lit[0].flip(0), known)
    assert right["ssim"] - reversed_["ssim"] > 0.15
    assert right["colors"] - reversed_["colors"] < 0.2


def test_a_reader_adds_its_features(seen):
    _, views, known = seen
    torch.manual_seed(0)
    reader = AttributeReader(channels=(4, 8, 8)).eval()
    assert scores(known.lit[0], known, reader)["features"] == pytest.approx(1.0, abs=1e-5)
    assert scores(views.flip(0), known, reader)["features"] < 1.0
    assert "features" not in scores(views, known)


def test_structural_similarity_of_a_constant_shift_is_the_formula():
    one = torch.full((1, 3, 9, 9), 0.5)
    got = structural_similarity(one, one + 0.2)[0, 0, 4, 4].item()
    assert got == pytest.approx((2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4), rel=1e-4)
