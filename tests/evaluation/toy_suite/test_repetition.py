"""Repetition: 0 for new content, 1 for the anchor's own."""

import pytest
import torch
import torch.nn.functional as F

from diffusers_mvcustom.evaluation import covisible_pixels
from diffusers_mvcustom.evaluation.toy_suite.controls import true_views
from diffusers_mvcustom.evaluation.toy_suite.known_geometry import KnownGeometry
from diffusers_mvcustom.evaluation.toy_suite.repetition import repetition, unseen_by

ANCHOR = 2


def test_true_renders_do_not_repeat_and_copies_do(rotation):
    views, known = true_views(rotation), KnownGeometry.of(rotation)
    true = repetition(views, known, ANCHOR)
    assert true < 0.15
    assert repetition(views[ANCHOR : ANCHOR + 1].expand_as(views), known, ANCHOR) == pytest.approx(1.0, abs=1e-3)
    # The anchor's content, moved, wherever the anchor saw nothing.
    unseen = unseen_by(known, ANCHOR)[:, None]
    copied = torch.where(unseen, views[ANCHOR].roll(16, dims=-1)[None], views)
    assert repetition(copied, known, ANCHOR) > true + 0.25


def test_noise_repeats_nothing_and_blank_views_count_as_the_worst(seen):
    _, views, known = seen
    assert repetition(torch.rand(views.shape, generator=torch.Generator().manual_seed(0)), known, ANCHOR) < 0.02
    assert repetition(torch.full_like(views, 0.5), known, ANCHOR) == 1.0


def test_an_anchor_sees_all_of_itself_and_not_the_ends_of_an_arc(rotation):
    unseen = unseen_by(KnownGeometry.of(rotation), ANCHOR).float()
    shares = F.avg_pool2d(unseen[:, None], 17, stride=4).flatten(1).amax(dim=1)
    assert unseen[ANCHOR].sum() == 0
    assert shares[0] > 0.9
    assert shares[-1] > 0.9


def test_what_depth_calls_covisible_is_seen(seen):
    _, _, known = seen
    unseen = unseen_by(known, ANCHOR)
    depth = known.depth.double()
    for view in range(len(depth)):
        cameras = (known.cameras[view].to(dtype=torch.float64), known.cameras[ANCHOR].to(dtype=torch.float64))
        visible = covisible_pixels(depth[view], depth[ANCHOR], *cameras, tolerance=0.02).visible
        assert visible.float().mean() > 0.1
        assert not (visible & unseen[view]).any()
