"""A scene of known geometry, from cameras on an arc."""

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, SubjectFrame
from diffusers_mvcustom.export import AnchorDepth, views_to_pil
from diffusers_mvcustom.toy import render, sample_scene


@pytest.fixture(scope="session")
def scene():
    """Five views of 48 × 64 with exact depth."""
    cameras = Cameras.orbit(5, azimuth=(-40, 40), elevation=20, height=48, width=64)
    return render(sample_scene("train", 3), cameras)


@pytest.fixture(scope="session")
def pictures(scene):
    return views_to_pil(scene.images[None])[0]


@pytest.fixture
def middle(scene):
    """The middle view as the only anchor."""
    return AnchorDepth((2,), scene.depth[2])


@pytest.fixture
def ends(scene):
    """Both ends of the arc as anchors."""
    return AnchorDepth((0, 4), scene.depth[[0, 4], 0])


@pytest.fixture
def user_frame():
    """A user's world: three times as large, turned and moved."""
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.3, 0.2], [0.3, 0.0, -0.5], [-0.2, 0.5, 0.0]]).double())
    return SubjectFrame(3.0, turn, torch.tensor([1.0, -2.0, 0.5]))
