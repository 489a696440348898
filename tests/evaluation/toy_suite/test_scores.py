"""What sets of views come to, failures among them."""

import math
from dataclasses import replace

import pytest
import torch

from diffusers_mvcustom.evaluation.toy_suite import Ruler, ViewScores
from diffusers_mvcustom.evaluation.toy_suite.scores import mean_and_spread, summarized


@pytest.fixture(scope="module")
def case(rotation):
    """At half the size, which is four times as fast."""
    return replace(rotation, size=32)


@pytest.fixture(scope="module")
def noise_scores(case):
    return Ruler().score(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)), case)


def test_a_failed_generation_is_no_better_than_noise_in_anything(case, noise_scores):
    failed = summarized([ViewScores.worst(case, "out of luck", reader=False)])
    noise = summarized([noise_scores])
    assert failed.keys() == noise.keys()
    for name in failed:
        if name in ("failed", "text"):
            continue
        lower_is_better = any(part in name for part in ("degrees", "error", "repetition", "not found"))
        assert failed[name] >= noise[name] if lower_is_better else failed[name] <= noise[name], name
    assert failed["failed"] == 1
    assert noise["failed"] == 0


def test_failures_are_not_dropped_from_the_mean(case, noise_scores):
    good = replace(noise_scores, subject_right=[True] * 5, subject_degrees=[1.0] * 5)
    both = summarized([good, ViewScores.worst(case, "out of luck", reader=False)])
    assert both["subject RRA@15"] == 5 / 10
    assert both["not found"] == 5 / 10


def test_scores_come_back_from_plain_values(noise_scores):
    assert ViewScores(**noise_scores.to_dict()) == noise_scores


def test_without_a_reader_text_is_missing_and_not_0(noise_scores):
    assert summarized([noise_scores])["text"] is None
    assert mean_and_spread([summarized([noise_scores])])["text"] == {"mean": None, "spread": None}


def test_the_spread_is_the_deviation_over_seeds():
    got = mean_and_spread([{"text": 0.2}, {"text": 0.4}, {"text": 0.9}])["text"]
    assert got["mean"] == pytest.approx(0.5)
    assert got["spread"] == pytest.approx(math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 2))
