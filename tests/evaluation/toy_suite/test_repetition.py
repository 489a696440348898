"""Repetition: 0 for new content, 1 for the anchor's own."""

import pytest
import torch

from diffusers_mvcustom.evaluation.toy_suite.repetition import repetition, unseen_by

ANCHOR = 2


def test_true_renders_do_not_repeat_and_copies_do(rotation, request):
    from diffusers_mvcustom.evaluation.toy_suite.controls import true_views
    from diffusers_mvcustom.evaluation.toy_suite.known_geometry import KnownGeometry

    views, known = true_views(rotation), KnownGeometry.of(rotation)
    true = repetition(views, known, ANCHOR)
    assert true < 0.15
    assert repetition(views[ANCHOR : ANCHOR + 1].expand_as(views), known, ANCHOR) == pytest.approx(1.0, abs=1e-3)
    # The anchor's content, moved, wherever the anchor saw nothing.
    unseen = unseen_by(known, ANCHOR)[:, None]
    copied = torch.where(unseen, views[ANCHOR].roll(12, dims=-1)[None], views)
    assert repetition(copied, known, ANCHOR) > true + 0.25


def test_noise_repeats_nothing_and_blank_views_count_as_the_worst(seen):
    _, views, known = seen
    assert repetition(torch.rand(views.shape, generator=torch.Generator().manual_seed(0)), known, ANCHOR) < 0.02
    assert repetition(torch.full_like(views, 0.5), known, ANCHOR) == 1.0


def test_the_anchor_sees_all_of_itself_but_its_rim_and_less_of_others(rotation, seen):
    _, _, known = seen
    shares = unseen_by(known, ANCHOR).float().mean(dim=(1, 2))
    assert shares[ANCHOR] < 0.1
    assert shares[0] > 0.1
    assert shares[-1] > 0.1
