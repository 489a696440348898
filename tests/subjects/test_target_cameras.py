"""Target cameras that cannot show a subject are refused, with the likely cause."""

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, SubjectFrame
from diffusers_mvcustom.errors import CamerasError
from diffusers_mvcustom.subjects.target_cameras import check_target_cameras

TURN = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
FRAME = SubjectFrame(2.5, TURN, torch.tensor([1.0, 2.0, 3.0]))
AROUND = Cameras.orbit(13, height=48, width=64)


def moved(cameras, offset=(0.0, 0.0, 0.0), flipped=()):
    poses = cameras.camera_to_world.clone()
    poses[:, :3, 3] += torch.tensor(offset)
    for i in flipped:
        poses[i, :3, 1:3] *= -1
    return Cameras(poses, cameras.intrinsics, cameras.height, cameras.width)


def test_each_bad_for_one_reason_or_the_other():
    """One looks away, and all the others are too far: none is of use."""
    cameras = Cameras.cat([moved(AROUND[:1], flipped=[0]), Cameras.orbit(12, radius=1.9, height=48, width=64)])
    with pytest.raises(CamerasError, match=r"none of 13 .*: 1 look away from it, and 12 are more than 1\.6 from it"):
        check_target_cameras(cameras, far=1.6)


def test_cameras_of_the_photos_world_are_recognised():
    given = FRAME.to_user(AROUND)
    with pytest.raises(
        CamerasError, match=r"photos' own world would be: .*to_subject\(cameras\), or --cameras-frame user"
    ):
        check_target_cameras(given, far=1.6, subject_frame=FRAME)
    check_target_cameras(FRAME.to_subject(given), far=1.6, subject_frame=FRAME)
    with pytest.raises(CamerasError) as caught:
        check_target_cameras(given, far=1.6)
    assert "own world" not in str(caught.value)


def test_a_frame_that_would_not_help_is_not_named():
    away = moved(AROUND, flipped=range(13))
    with pytest.raises(CamerasError, match=r"transforms\.json is read as OpenGL") as caught:
        check_target_cameras(away, far=1.6, subject_frame=FRAME)
    assert "own world" not in str(caught.value)
    distant = Cameras.orbit(3, radius=100.0, height=48, width=64)
    with pytest.raises(CamerasError, match="another unit"):
        check_target_cameras(distant, far=1.6, subject_frame=FRAME)


def test_some_that_can_show_it_are_enough(caplog):
    check_target_cameras(AROUND, far=1.6)
    assert not caplog.records
    check_target_cameras(moved(AROUND, flipped=[2]), far=1.6)
    assert "of 13, 1 look away from the subject and 0 are farther" in caplog.text
    assert "own world" not in caplog.text
    caplog.clear()
    straight = SubjectFrame(1.7, torch.eye(3), torch.zeros(3))
    both = Cameras.cat([straight.to_user(AROUND), AROUND])
    check_target_cameras(both, far=1.6, subject_frame=straight)
    assert "13 are farther than 1.6" in caplog.text
    assert "--cameras-frame user" in caplog.text
