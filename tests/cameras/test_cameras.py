import re

import pytest
import torch

from diffusers_mvcustom.cameras import (
    Cameras,
    Capture,
    SubjectFrame,
    camera_to_world_in,
    cameras_looking_elsewhere,
    check_cameras_face_subject,
    estimate_up,
    normalize_cameras,
    plot_cameras,
    save_camera_plot,
    save_cameras,
)
from diffusers_mvcustom.errors import CamerasError


def project(cameras, points):
    """Pixels of world points `(P, 3)`, `(N, P, 2)`, by the definition of a pinhole camera."""
    local = (points[None] - cameras.centers[:, None]) @ cameras.camera_to_world[:, :3, :3]
    pixels = local @ cameras.intrinsics.transpose(1, 2)
    return pixels[..., :2] / pixels[..., 2:]


def identity(count=1):
    return torch.eye(4).repeat(count, 1, 1)


PINHOLE = torch.tensor([[8.0, 0.0, 3.0], [0.0, 8.0, 2.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch(count):
    cameras = Cameras(identity(count), PINHOLE, 4, 6)
    assert len(cameras) == count
    assert cameras.intrinsics.shape == (count, 3, 3)
    assert len(cameras[0]) == 1
    assert len(list(cameras)) == count
    assert Cameras.cat([cameras, cameras[[0]]]).allclose(Cameras(identity(count + 1), PINHOLE, 4, 6))
    assert cameras.to(dtype=torch.float64).dtype == torch.float64
    torch.testing.assert_close(cameras.world_to_camera @ cameras.camera_to_world, identity(count))
    with pytest.raises(IndexError):
        cameras[count]


def test_selection():
    cameras = Cameras.orbit(5, height=4, width=6)
    assert cameras[1:3].allclose(Cameras.cat([cameras[1], cameras[2]]))
    assert cameras[-1].allclose(cameras[4])
    assert cameras[torch.tensor([4, 0])].allclose(cameras[[4, 0]])


def broken(change):
    poses = identity(3)
    change(poses)
    return {"camera_to_world": poses}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (broken(lambda poses: poses[1].fill_(torch.nan)), r"camera_to_world.*NaN.*index 1"),
        (broken(lambda poses: poses[2, :3, :3].zero_()), r"camera_to_world.*singular.*index 2"),
        (broken(lambda poses: poses[0, :3, :3].mul_(2)), r"camera_to_world.*orthonormal.*index 0"),
        (broken(lambda poses: poses[0, 0, 0].mul_(-1)), r"camera_to_world.*right-handed"),
        (broken(lambda poses: poses[0, 3, 0].fill_(1)), r"camera_to_world.*bottom row"),
        ({"camera_to_world": torch.eye(4)}, r"camera_to_world.*\(N, 4, 4\).*\(4, 4\)"),
        ({"camera_to_world": torch.zeros(0, 4, 4)}, "N >= 1"),
        ({"camera_to_world": "nothing"}, "camera_to_world"),
        ({"intrinsics": torch.eye(3).repeat(2, 1, 1)}, r"intrinsics.*\(3, 3, 3\).*\(2, 3, 3\)"),
        ({"intrinsics": torch.diag(torch.tensor([0.0, 8.0, 1.0]))}, "focal"),
        ({"intrinsics": torch.diag(torch.tensor([torch.inf, 8.0, 1.0]))}, "intrinsics.*infinity"),
        ({"intrinsics": PINHOLE + torch.tensor([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])}, "Skew"),
        ({"intrinsics": PINHOLE.T}, "intrinsics"),
        ({"height": 0}, "height"),
        ({"width": 6.5}, "width"),
    ],
)
def test_what_cannot_be_a_camera(arguments, message):
    with pytest.raises(CamerasError, match=message):
        Cameras(**{"camera_to_world": identity(3), "intrinsics": PINHOLE, "height": 4, "width": 6, **arguments})


def test_autocast_does_not_touch_the_geometry():
    cameras = Cameras.orbit(5, elevation=33, height=48, width=64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cameras[1:3].camera_to_world, cameras.camera_to_world[1:3])
        inside = cameras.world_to_camera
    assert torch.equal(inside, cameras.world_to_camera)


def test_batches_of_different_sizes_do_not_join():
    with pytest.raises(CamerasError, match=r"\(4, 6\), \(8, 6\)"):
        Cameras.cat([Cameras(identity(), PINHOLE, 4, 6), Cameras(identity(), PINHOLE, 8, 6)])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches: expected at least one"),
        (3, r"batches\[0\]: expected Cameras, got 3"),
        ([Cameras.orbit(2), PINHOLE], r"batches\[1\]: expected Cameras, got a Tensor\. Poses become Cameras with"),
    ],
)
def test_only_cameras_join(batches, message):
    with pytest.raises(CamerasError, match=message):
        Cameras.cat(batches)


@pytest.mark.parametrize(
    "call",
    [
        normalize_cameras,
        estimate_up,
        SubjectFrame.identity().to_user,
        SubjectFrame.identity().to_subject,
        check_cameras_face_subject,
        cameras_looking_elsewhere,
        plot_cameras,
        lambda cameras: save_cameras("never.json", cameras),
        lambda cameras: camera_to_world_in(cameras, "opengl"),
        lambda cameras: Cameras.jitter(cameras),
        lambda cameras: Capture(cameras, ("a",), (None,), (None,)),
    ],
)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "cameras: expected Cameras, got 3"),
        ("path.json", "got 'path.json'. load_cameras"),
        ([Cameras.orbit(2)], "got a list. Cameras.cat"),
        (type("Cameras", (), {})(), "got a Cameras. It is of another class of that name, "),
        (Cameras.orbit(2).camera_to_world, "got a Tensor. Poses become Cameras"),
    ],
)
def test_what_takes_cameras_says_so(call, given, message):
    with pytest.raises(CamerasError, match=re.escape(message)):
        call(given)


def test_resizing_and_cropping_move_points_as_they_move_pixels():
    cameras = Cameras.orbit(3, height=40, width=60, field_of_view=40.0)
    cameras = Cameras(
        cameras.camera_to_world, cameras.intrinsics + torch.tensor([[0, 0, 3.0], [0, 0, -2], [0, 0, 0]]), 40, 60
    )
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    pixels = project(cameras, points)
    torch.testing.assert_close(project(cameras.resize(80, 30), points), pixels * torch.tensor([30 / 60, 80 / 40]))
    torch.testing.assert_close(project(cameras.crop(5, 7, 20, 30), points), pixels - torch.tensor([7.0, 5.0]))
    covered = cameras.cover(32, 32)  # 40 × 60 becomes 32 × 48, of which the middle 32 columns stay
    torch.testing.assert_close(project(covered, points), pixels * (32 / 40) - torch.tensor([(48 - 32) / 2, 0.0]))
    assert (covered.height, covered.width) == (32, 32)


def test_field_of_view():
    cameras = Cameras.orbit(2, height=40, width=60, field_of_view=50.0)
    assert cameras.field_of_view[0, 1].item() == pytest.approx(50.0, abs=1e-4)


def test_cameras_that_look_at_the_subject_pass():
    for cameras in (
        Cameras.orbit(8),
        Cameras.translate(5),
        Cameras.dolly(4, distance=(2.0, 0.2)),
        Cameras.lemniscate(6),
    ):
        check_cameras_face_subject(cameras)


def test_cameras_that_look_away():
    poses = Cameras.orbit(24).camera_to_world.clone()
    poses[:, :3, 1:3] *= -1
    with pytest.raises(CamerasError, match=r"0 of 24 optical axes pass near the origin, 24 look away.*OpenGL"):
        check_cameras_face_subject(Cameras(poses, PINHOLE, 4, 6))
    poses = Cameras.orbit(4).camera_to_world.clone()
    poses[:, :3, 3] += 100 * poses[:, :3, 0]
    with pytest.raises(CamerasError, match="another world"):
        check_cameras_face_subject(Cameras(poses, PINHOLE, 4, 6))


def test_cameras_inside_the_subject():
    poses = Cameras.orbit(4).camera_to_world.clone()
    poses[:2, :3, 3] *= 0.001
    with pytest.raises(CamerasError, match="2 of 4"):
        check_cameras_face_subject(Cameras(poses, PINHOLE, 4, 6))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_plot(tmp_path, count):
    save_camera_plot(tmp_path / "plots" / "cameras.png", Cameras.orbit(count), title="orbit")
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["cameras.png"]
    assert (tmp_path / "plots" / "cameras.png").stat().st_size > 10_000
