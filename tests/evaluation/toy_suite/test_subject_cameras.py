"""The subject's camera: found in true renders under other light and surroundings, not in nonsense."""

import pytest
import torch

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.evaluation.toy_suite.controls import foreign_views
from diffusers_mvcustom.evaluation.toy_suite.subject_cameras import (
    SubjectGallery,
    find_subject,
    subject_camera_errors,
)
from diffusers_mvcustom.toy import render
from diffusers_mvcustom.toy.scene import FIELD_OF_VIEW


@pytest.fixture(scope="module")
def gallery(rotation):
    return SubjectGallery.of(rotation.known_scene())


def test_true_renders_are_right(seen, gallery):
    _, views, known = seen
    errors = subject_camera_errors(views, known.cameras, gallery)
    assert errors.right().all(), errors
    assert errors.degrees.median() < 10


def test_nonsense_is_wrong(rotation, gallery):
    cameras = rotation.cameras()
    nonsense = {
        "noise": torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "blank": torch.full((5, 3, 64, 64), 0.5),
        "another subject": foreign_views(rotation),
    }
    for name, views in nonsense.items():
        errors = subject_camera_errors(views, cameras, gallery)
        assert errors.right().float().mean() <= 0.2, (name, errors)
    assert (subject_camera_errors(nonsense["noise"], cameras, gallery).degrees == 180).all()


def test_a_repeated_view_is_right_only_near_where_it_was_seen_from(seen, gallery):
    _, views, known = seen
    repeated = views[2:3].expand_as(views)
    right = subject_camera_errors(repeated, known.cameras, gallery).right()
    assert right[2]
    assert not right[0]
    assert not right[-1]


def test_the_subject_is_found_off_the_middle_and_from_another_distance(rotation, gallery):
    cameras = Cameras.orbit(
        1,
        azimuth=(77.0, 77.0),
        elevation=20.0,
        radius=1.1,
        target=(0.1, 0.05, 0.0),
        field_of_view=FIELD_OF_VIEW,
        height=64,
        width=64,
    )
    found = find_subject(render(rotation.true_scene(2), cameras).images[0], gallery)
    middle = cameras.intrinsics[0] @ cameras.world_to_camera[0, :3, 3]
    expected = (middle[:2] / middle[2] - 32).tolist()
    assert found.offset == pytest.approx(expected, abs=3)
    cosine = (found.direction * torch.nn.functional.normalize(cameras.centers[0], dim=0)).sum()
    assert torch.rad2deg(torch.acos(cosine)) < 15
