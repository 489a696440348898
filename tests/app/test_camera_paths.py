import pytest
import torch

from diffusers_mvcustom.app import PRESETS, CameraPath
from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError


@pytest.fixture
def references():
    return Cameras.orbit(6, elevation=10, radius=0.8, field_of_view=40, height=64, width=96)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_gives_cameras_of_the_subjects_lens(preset, references):
    cameras = CameraPath(preset, views=5).cameras(references, 48, 48)
    assert (len(cameras), cameras.height, cameras.width) == (5, 48, 48)
    focal = references.cover(48, 48).focal[0]
    if preset not in ("zoom", "dolly zoom"):
        torch.testing.assert_close(cameras.focal, focal.expand(5, 2))
    if preset in ("arc", "orbit", "spiral", "lemniscate", "zoom", "reference cameras"):
        torch.testing.assert_close(cameras.centers.norm(dim=-1), torch.full((5,), 0.8), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (CameraPath("arc", 3, azimuth=10, span=40, elevation=5), Cameras.orbit(3, azimuth=(-10, 30), elevation=5)),
        (CameraPath("orbit", 4, azimuth=30, elevation=5), Cameras.orbit(4, azimuth=(30, 390), elevation=5)),
        (
            CameraPath("spiral", 4, azimuth=30, span=180, elevation=5, rise=20),
            Cameras.spiral(4, turns=0.5, azimuth=30, elevation=(5, 25)),
        ),
        (CameraPath("lemniscate", 8, span=40), Cameras.lemniscate(8, degrees=20, elevation=20)),
        (CameraPath("dolly", 3, change=1.5), Cameras.dolly(3, distance=(1.5, 1.0))),
        (CameraPath("zoom", 3, change=1.5), Cameras.zoom(3, factor=(1.0, 1.5))),
        (CameraPath("dolly zoom", 3, change=1.5), Cameras.dolly_zoom(3, distance=(1.5, 1.0))),
        (CameraPath("sideways", 3, shift=0.2), Cameras.translate(3, offset=(0.2, 0, 0))),
        (CameraPath("arc", 2, distance=1.5), Cameras.arc(2, azimuth=(-40, 40), elevation=20, radius=1.5)),
    ],
)
def test_numbers_mean_what_the_trajectories_mean(path, expected):
    assert path.cameras(None, 512, 512).allclose(expected, atol=1e-5)


def test_every_number_of_a_preset_is_a_slider_that_moves_its_cameras(references):
    moved = {
        "azimuth": 33.0,
        "span": 55.0,
        "elevation": 3.0,
        "rise": 11.0,
        "distance": 1.3,
        "change": 1.9,
        "shift": 0.7,
    }
    for preset, names in PRESETS.items():
        for name, value in moved.items():
            before, after = (CameraPath(preset, **more).cameras(references, 48, 48) for more in ({}, {name: value}))
            assert before.allclose(after) != (name in names), (preset, name)


@pytest.mark.parametrize(
    ("path", "references_given", "message"),
    [
        (CameraPath("loop"), True, "expected one of arc, orbit"),
        (CameraPath("reference cameras"), False, "load one"),
        (CameraPath("reference cameras", views=0), True, "at least 1"),
        (CameraPath(views=0), True, "at least 1"),
        (CameraPath(distance=0), True, "distance"),
        (CameraPath("dolly", change=-1.0), True, "distance"),
        (CameraPath("spiral", elevation=80, rise=60), True, "elevation"),
    ],
)
def test_what_gives_no_cameras_is_refused(path, references_given, message, references):
    with pytest.raises(MVCustomError, match=message):
        path.cameras(references if references_given else None, 48, 48)
