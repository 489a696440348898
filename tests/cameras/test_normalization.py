import json
import math

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, SubjectFrame, estimate_up, load_capture, look_at, normalize_cameras
from diffusers_mvcustom.cameras.normalization import nearest_point_to_axes
from diffusers_mvcustom.errors import CamerasError, MVCustomError


def random_rotation(generator):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    return q * torch.det(q).sign()


def held_by_hand(seed, quarter_turns=True):
    """Cameras around the origin, some turned by quarters, a few degrees off level, in a random world; and its up."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(6, 30, (1,), generator=generator))
    span = 0.2 + 0.8 * torch.rand(1, generator=generator).item()
    azimuth, elevation, distance = torch.rand(3, count, generator=generator, dtype=torch.float64)
    azimuth, elevation = azimuth * 2 * math.pi * span, torch.deg2rad(2 + 50 * elevation)
    direction = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], -1)
    poses = look_at(direction * (1 + 0.3 * distance)[:, None])
    roll = torch.randint(0, 4, (count,), generator=generator) * (math.pi / 2) * quarter_turns
    roll = roll + torch.deg2rad(4 * torch.randn(count, generator=generator, dtype=torch.float64))
    turn = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    turn[:, 0, 0] = turn[:, 1, 1] = roll.cos()
    turn[:, 0, 1], turn[:, 1, 0] = -roll.sin(), roll.sin()
    world = random_rotation(generator)
    poses[:, :3, :3] = world @ poses[:, :3, :3] @ turn
    poses[:, :3, 3] = poses[:, :3, 3] @ world.T * 7 + torch.tensor([3.0, -2.0, 5.0]).double()
    return Cameras.from_focal(poses, 500.0, 385, 684), world[:, 1]


def degrees_between(one, other):
    return math.degrees(math.acos(max(-1.0, min(1.0, float(one.double() @ other.double())))))


@pytest.mark.parametrize("seed", range(12))
def test_up_of_cameras_held_by_hand(seed):
    cameras, up = held_by_hand(seed)
    assert degrees_between(estimate_up(cameras), up) < 15
    normalized, frame = normalize_cameras(cameras)
    assert normalized.centers.norm(dim=-1).max().item() == pytest.approx(1.0)
    assert nearest_point_to_axes(normalized).norm() < 1e-6
    assert degrees_between(frame.rotation[:, 1], up) < 15
    assert (normalized.centers[:, 1].median()) > 0  # seen from above
    assert frame.to_user(normalized).allclose(cameras)


def test_up_of_the_rolled_phones(buddha):
    cameras = load_capture(buddha).cameras
    assert degrees_between(estimate_up(cameras), torch.tensor([0.0, -1.0, 0.0])) < 5  # 1.1° when written
    mean_up = -cameras.camera_to_world[:, :3, 1].mean(dim=0)
    assert degrees_between(mean_up / mean_up.norm(), torch.tensor([0.0, -1.0, 0.0])) > 30  # what must not be trusted
    normalized, _ = normalize_cameras(cameras)
    assert nearest_point_to_axes(normalized).norm() < 1e-6
    assert (normalized.centers[:, 1] > -0.1).all()


def test_a_given_up_wins_and_none_keeps_the_axes():
    cameras, _ = held_by_hand(1)
    given = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    _, frame = normalize_cameras(cameras, up=(1.0, 2.0, -0.5))
    torch.testing.assert_close(frame.rotation[:, 1], given / given.norm())
    torch.testing.assert_close(torch.det(frame.rotation), torch.tensor(1.0, dtype=torch.float64))
    _, frame = normalize_cameras(cameras, up=None)
    torch.testing.assert_close(frame.rotation, torch.eye(3, dtype=torch.float64))


def test_cameras_without_a_common_point():
    parallel = Cameras.translate(5)
    with pytest.raises(CamerasError, match="parallel"):
        normalize_cameras(parallel)
    with pytest.raises(CamerasError, match="parallel"):
        normalize_cameras(Cameras.orbit(1))


@pytest.mark.parametrize("up", [(0, 0, 0), (1, 2), "sideways", (math.nan, 0, 1), "auto "])
def test_wrong_up(up):
    with pytest.raises(CamerasError, match="up"):
        normalize_cameras(Cameras.orbit(5), up=up)


def test_the_frame_is_json_and_exact():
    frame = SubjectFrame(0.3, random_rotation(torch.Generator().manual_seed(0)), torch.tensor([0.1, 1 / 3, -7.0]))
    assert SubjectFrame.from_dict(json.loads(json.dumps(frame.to_dict()))) == frame
    identity = SubjectFrame.identity()
    assert identity.to_user(Cameras.orbit(3)).allclose(Cameras.orbit(3))
    good = frame.to_dict()
    for change in (
        {"scale": 0.0},
        {"scale": math.nan},
        {"rotation": [[1, 0, 0]]},
        {"translation": "here"},
        {"more": 1},
    ):
        with pytest.raises(MVCustomError, match="subject_frame"):
            SubjectFrame.from_dict({**good, **change})
    with pytest.raises(MVCustomError, match="rotation"):
        SubjectFrame.from_dict({**good, "rotation": (-torch.eye(3)).tolist()})
