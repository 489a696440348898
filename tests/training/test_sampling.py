"""What each sample is, by its number."""

import dataclasses

import pytest

from diffusers_mvcustom.training import SubjectTrainingConfig
from diffusers_mvcustom.training.sampling import SamplePlanner, derived_seed


def planner(captions=None, **settings):
    config = SubjectTrainingConfig("tiny", "data", "out", "<t>", **settings)
    return SamplePlanner(config, num_photos=7, num_crops=3, num_class_images=5, num_timesteps=1000, captions=captions)


def test_a_sample_depends_on_seed_and_number_only():
    one, other, another = planner(seed=3), planner(seed=3), planner(seed=4)
    forwards = [one.plan(n) for n in range(50)]
    assert forwards == [other.plan(n) for n in reversed(range(50))][::-1]
    assert forwards != [another.plan(n) for n in range(50)]


def test_every_photo_comes_up_once_a_round():
    plans = [planner(prior_probability=0.0).plan(n) for n in range(70)]
    for start in range(0, 70, 7):
        assert sorted(plan.image for plan in plans[start : start + 7]) == list(range(7))
    orders = {tuple(plan.image for plan in plans[start : start + 7]) for start in range(0, 70, 7)}
    assert len(orders) > 1


def test_references_are_other_photos():
    for n in range(100):
        plan = planner(prior_probability=0.0).plan(n)
        assert len(plan.references) == len(set(plan.references)) == 5
        assert plan.image not in plan.references
    assert len(planner(prior_probability=0.0, num_references=50).plan(0).references) == 6


def test_the_shares_are_those_of_the_settings():
    many = 4000
    plans = [planner(prior_probability=0.25, text_dropout=0.1, reference_dropout=0.2).plan(n) for n in range(many)]
    subject = [plan for plan in plans if not plan.prior]
    assert 1 - len(subject) / many == pytest.approx(0.25, abs=0.025)
    assert sum(plan.prompt is None for plan in plans) / many == pytest.approx(0.1, abs=0.02)
    assert sum(plan.importance_sampling for plan in plans) / many == pytest.approx(0.9, abs=0.02)
    assert sum(not plan.references for plan in subject) / len(subject) == pytest.approx(0.2, abs=0.025)
    assert all(not plan.references for plan in plans if plan.prior)
    assert {plan.image for plan in plans if plan.prior} == set(range(5))
    assert {plan.crop for plan in plans} == set(range(3))
    timesteps = [plan.timestep for plan in plans]
    assert min(timesteps) < 10
    assert max(timesteps) > 989
    assert sum(timesteps) / many == pytest.approx(499.5, abs=20)


def test_captions_take_the_place_of_the_prompts():
    captions = [f"caption {n}" for n in range(7)]
    plans = [planner(captions=captions, prior_probability=0.0, text_dropout=0.0).plan(n) for n in range(20)]
    assert all(plan.prompt == f"caption {plan.image}" for plan in plans)


def test_noise_is_another_for_every_sample():
    seeds = {planner().plan(n).noise_seed for n in range(500)} | {derived_seed(0, "dropout", n) for n in range(500)}
    assert len(seeds) == 1000


def test_without_feature_nerf_there_are_no_references():
    plan = planner(train_feature_nerf=False, prior_probability=0.0).plan(0)
    assert plan.references == ()
    assert dataclasses.is_dataclass(plan)
