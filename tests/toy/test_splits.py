from itertools import pairwise

import pytest
import torch

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import HELD_OUT_PAIRS, SPLITS, build_scene, sample_attributes, sample_scene
from diffusers_mvcustom.toy.attributes import ATTRIBUTE_VALUES, CATEGORIES, COLORS
from diffusers_mvcustom.toy.splits import scene_seed

MANY = 600


def pairs_of(split):
    return [(scene.category, scene.color) for scene in (sample_attributes(split, index) for index in range(MANY))]


@pytest.mark.parametrize("split", ["train", "validation", "unseen_subjects"])
def test_held_out_pairs_never_occur_where_they_must_not(split):
    pairs = set(pairs_of(split))
    assert not pairs & HELD_OUT_PAIRS
    assert len(pairs) == len(CATEGORIES) * len(COLORS) - len(HELD_OUT_PAIRS)  # and all others do


def test_all_unseen_combinations_are_held_out():
    assert set(pairs_of("unseen_combinations")) == HELD_OUT_PAIRS


def test_the_reader_sees_every_pair():
    assert len(set(pairs_of("reader"))) == len(CATEGORIES) * len(COLORS)


def test_two_colours_are_held_out_of_each_category_and_each_colour_is_trained_on():
    assert len(HELD_OUT_PAIRS) == 16
    for category in CATEGORIES:
        assert sum(pair[0] == category for pair in HELD_OUT_PAIRS) == 2
    for color in COLORS:
        assert sum(pair[1] == color for pair in HELD_OUT_PAIRS) <= len(CATEGORIES) - 5


def test_seeds_of_splits_never_meet():
    ranges = [range(scene_seed(split, 0), scene_seed(split, 9_999_999) + 1) for split in SPLITS]
    ordered = sorted(ranges, key=lambda one: one.start)
    assert all(one.stop <= other.start for one, other in pairwise(ordered))
    assert scene_seed("train", 5) - scene_seed("train", 4) == 1


def test_no_subject_of_one_split_is_in_another():
    subjects = {split: {repr(sample_scene(split, index).subject) for index in range(8)} for split in SPLITS}
    everyone = [subject for found in subjects.values() for subject in found]
    assert len(set(everyone)) == len(everyone) == 8 * len(SPLITS)


def test_every_value_of_every_attribute_occurs_in_training():
    scenes = [sample_attributes("train", index) for index in range(MANY)]
    for name, values in ATTRIBUTE_VALUES.items():
        assert {getattr(scene, name) for scene in scenes} == set(values)
    assert all(scene.color != scene.second_color for scene in scenes)


def test_a_scene_depends_on_its_index_alone():
    torch.manual_seed(1)
    first = sample_scene("validation", 7)
    torch.manual_seed(2)
    assert sample_scene("validation", 7) == first
    assert first.attributes == sample_attributes("validation", 7)


def test_the_same_subject_in_other_surroundings():
    attributes = sample_attributes("train", 0)
    here, there, other = (
        build_scene(attributes, subject_seed=subject, surroundings_seed=surroundings)
        for subject, surroundings in ((1, 1), (1, 2), (2, 1))
    )
    assert here.subject == there.subject != other.subject
    assert here.ground.offset != there.ground.offset
    assert (here.light, here.ground.offset) == (other.light, other.ground.offset)


@pytest.mark.parametrize(
    ("split", "index", "message"),
    [
        ("test", 0, "split: expected one of"),
        ("train", -1, "index: expected 0 to 9999999, got -1"),
        ("train", 10**7, "index"),
    ],
)
def test_scenes_that_there_are_not(split, index, message):
    with pytest.raises(MVCustomError, match=message):
        sample_scene(split, index)
