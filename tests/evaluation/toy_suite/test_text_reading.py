"""Text alignment of a set of views."""

import torch

from diffusers_mvcustom.evaluation.toy_suite.text_reading import compared, text_scores
from diffusers_mvcustom.toy import AttributeReader


def test_objects_are_those_of_the_scene_not_of_each_view():
    asked = {"category": "mug", "objects": "rock", "object_count": 2}
    views = [
        {"category": "mug", "object_count": 0},
        {"category": "mug", "object_count": 1, "objects": "tree"},
        {"category": "duck", "object_count": 2, "objects": "rock"},
        {"category": "mug", "object_count": 1, "objects": "rock"},
    ]
    got = compared(views, asked)
    assert got == {"category": 3 / 4, "objects": 1.0, "object_count": 1.0, "all": (3 / 4 + 1 + 1) / 3}


def test_without_any_object_kind_and_number_are_wrong():
    got = compared([{"object_count": 0}], {"objects": "rock", "object_count": 1})
    assert got == {"objects": 0.0, "object_count": 0.0, "all": 0.0}


def test_a_reader_reads_every_view():
    torch.manual_seed(0)
    reader = AttributeReader(channels=(4, 8, 8)).eval()
    images = torch.rand(3, 3, 64, 64)
    asked = reader.read(images)
    right = text_scores(reader, images, f"a <subject> {asked[0]['category']} on sand")
    share = sum(view["category"] == asked[0]["category"] for view in asked) / 3
    assert right["category"] == share
    assert set(right) == {"category", "ground", "all"}
