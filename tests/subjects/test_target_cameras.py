"""Target cameras that cannot show a subject are refused, with the likely cause."""

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, SubjectFrame
from diffusers_mvcustom.errors import CamerasError
from diffusers_mvcustom.subjects.target_cameras import check_target_cameras

FAR = 1.6
TURN = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
FRAME = SubjectFrame(2.5, TURN, torch.tensor([1.0, 2.0, 3.0]))
AROUND = Cameras.orbit(13, height=48, width=64)


def with_intrinsics(cameras, change):
    return Cameras(cameras.camera_to_world, change(cameras.intrinsics.clone()), cameras.height, cameras.width)


def turned(cameras, degrees):
    """The cameras turned about their own vertical axis."""
    angle = torch.tensor(degrees).deg2rad()
    poses = cameras.camera_to_world.clone()
    poses[:, :3, :3] @= torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    return Cameras(poses, cameras.intrinsics, cameras.height, cameras.width)


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
        check_target_cameras(cameras, far=FAR)


def test_cameras_of_the_photos_world_are_recognised():
    given = FRAME.to_user(AROUND)
    with pytest.raises(
        CamerasError, match=r"photos' own world would be: .*to_subject\(cameras\), or --cameras-frame user"
    ):
        check_target_cameras(given, far=FAR, subject_frame=FRAME)
    check_target_cameras(FRAME.to_subject(given), far=FAR, subject_frame=FRAME)
    with pytest.raises(CamerasError) as caught:
        check_target_cameras(given, far=FAR)
    assert "own world" not in str(caught.value)


def test_a_frame_that_would_not_help_is_not_named():
    away = moved(AROUND, flipped=range(13))
    with pytest.raises(CamerasError, match=r"transforms\.json is read as OpenGL") as caught:
        check_target_cameras(away, far=FAR, subject_frame=FRAME)
    assert "own world" not in str(caught.value)
    distant = Cameras.orbit(3, radius=100.0, height=48, width=64)
    with pytest.raises(CamerasError, match="another unit"):
        check_target_cameras(distant, far=FAR, subject_frame=FRAME)


def test_some_that_can_show_it_are_enough(caplog):
    check_target_cameras(AROUND, far=FAR)
    assert not caplog.records
    check_target_cameras(moved(AROUND, flipped=[2]), far=FAR)
    assert "1 of 13 will not show the subject: 1 look away from it." in caplog.text
    assert "own world" not in caplog.text
    caplog.clear()
    straight = SubjectFrame(1.7, torch.eye(3), torch.zeros(3))
    both = Cameras.cat([straight.to_user(AROUND), AROUND])
    check_target_cameras(both, far=FAR, subject_frame=straight)
    assert "13 of 26 will not show the subject: 13 are more than 1.6 from it" in caplog.text
    assert "--cameras-frame user" in caplog.text


@pytest.mark.parametrize("degrees", [-51.0, 51.0])
def test_pictures_beside_the_subject_show_nothing_of_it(degrees):
    """At 51° off a picture of 40° ends 31° beside the origin: sin 31° = 0.52 from it at distance 1."""
    cameras = turned(Cameras.orbit(4, elevation=0.0, field_of_view=40.0, height=64, width=64), degrees)
    with pytest.raises(
        CamerasError, match=r"all 4 look past the subject.* nearer to it than 0\.52\. Poses of another"
    ):
        check_target_cameras(cameras, far=FAR)
    straight = Cameras.orbit(4, elevation=0.0, field_of_view=40.0, height=64, width=64)
    check_target_cameras(Cameras.cat([cameras, straight[:1]]), far=FAR)


def test_intrinsics_of_another_image_size_are_named():
    lens = Cameras.orbit(4, field_of_view=40.0, height=512, width=512).intrinsics
    cameras = Cameras(Cameras.orbit(4).camera_to_world, lens, 64, 64)
    with pytest.raises(
        CamerasError, match=r"principal point \(256, 256\) lies outside of the picture of 64 × 64: intrin"
    ):
        check_target_cameras(cameras, far=FAR)


def test_intrinsics_as_shares_of_the_image_are_named():
    cameras = Cameras.orbit(4, field_of_view=40.0, height=64, width=64)
    shares = with_intrinsics(cameras, lambda k: k / torch.tensor([64.0, 64.0, 1.0])[:, None])
    with pytest.raises(
        CamerasError, match=r"above 170° \(focal lengths 1\.37, 1\.37 of .*divided by the image's width"
    ):
        check_target_cameras(shares, far=FAR)


def test_reasons_are_counted():
    """One looks away, one past, one is too wide, and one too far."""
    wide = with_intrinsics(AROUND[:1], lambda k: k * torch.tensor([0.01, 0.01, 1.0])[:, None])
    away, distant = moved(AROUND[:1], flipped=[0]), Cameras.orbit(1, radius=1.9, height=48, width=64)
    cameras = Cameras.cat([away, turned(AROUND[:1], 80.0), wide, distant])
    counts = (
        "1 look away from it, and 1 look past it, and 1 have a field of view above 170°, and 1 are more than 1.6 from"
    )
    with pytest.raises(CamerasError, match=counts):
        check_target_cameras(cameras, far=FAR)


@pytest.mark.parametrize(
    "cameras",
    [
        Cameras.translate(2, offset=(1.0, 0.0, 0.0), height=48, width=64),
        Cameras.zoom(3, factor=(1.0, 12.0), height=64, width=48),
        Cameras.dolly(3, distance=(0.3, 0.01), height=64, width=48),
        Cameras.orbit(1, target=(0.0, 0.35, 0.0), radius=0.7, field_of_view=15.0, height=48, width=64),  # a detail
        Cameras.orbit(5, field_of_view=20.0, height=64, width=64).crop(0, 0, 16, 16),  # a corner of a view
        Cameras.orbit(5, field_of_view=160.0, height=64, width=64),
        turned(AROUND, 45.0),
        moved(Cameras.orbit(1, radius=0.5), offset=(0.0, 0.0, -0.5)),  # at the origin itself
    ],
)
def test_unusual_cameras_that_show_something_of_it_pass(cameras, caplog):
    check_target_cameras(cameras, far=FAR)
    assert not caplog.records
