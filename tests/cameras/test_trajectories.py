import math

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, look_at
from diffusers_mvcustom.errors import CamerasError


def azimuths(cameras):
    return torch.rad2deg(torch.atan2(cameras.centers[:, 0], cameras.centers[:, 2]))


def elevations(cameras):
    return torch.rad2deg(torch.asin(cameras.centers[:, 1] / cameras.centers.norm(dim=-1)))


def faces_origin(cameras):
    toward = -cameras.centers / cameras.centers.norm(dim=-1, keepdim=True)
    return (cameras.optical_axes * toward).sum(-1)


def test_an_orbit_needs_nothing_else():
    cameras = Cameras.orbit(16)
    assert (len(cameras), cameras.height, cameras.width, cameras.dtype) == (16, 512, 512, torch.float32)
    torch.testing.assert_close(cameras.centers.norm(dim=-1), torch.ones(16))
    torch.testing.assert_close(faces_origin(cameras), torch.ones(16))
    torch.testing.assert_close(elevations(cameras), torch.full((16,), 20.0))
    assert (cameras.camera_to_world[:, 1, 1] < 0).all()  # +y of the image points down in the world


def test_a_closed_orbit_has_no_duplicate_end():
    cameras = Cameras.orbit(8)
    steps = azimuths(cameras) % 360
    torch.testing.assert_close(steps, torch.arange(8) * 360.0 / 8, atol=1e-3, rtol=0)


def test_an_open_orbit_reaches_both_ends():
    torch.testing.assert_close(azimuths(Cameras.orbit(5, azimuth=(-40, 40))), torch.linspace(-40, 40, 5))
    torch.testing.assert_close(azimuths(Cameras.arc(3)), torch.tensor([-45.0, 0.0, 45.0]), atol=1e-4, rtol=0)
    assert Cameras.orbit(16, azimuth=(-40, 40), elevation=20)[15].centers[0, 0] > 0  # positive azimuth is +X


def test_straight_down_and_straight_up():
    for elevation in (90.0, -90.0):
        cameras = Cameras.orbit(3, elevation=elevation)
        torch.testing.assert_close(faces_origin(cameras), torch.ones(3))
    exactly = look_at(torch.tensor([[0.0, 2.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 1.0]]))
    Cameras.from_focal(exactly, 8.0, 4, 6)  # rotations
    torch.testing.assert_close(exactly[:, :3, 2], torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]))


def test_like_takes_the_medians_of_other_cameras():
    like = Cameras.orbit(5, radius=0.7, field_of_view=30.0, height=30, width=60)
    cameras = Cameras.orbit(4, like=like)
    assert (cameras.height, cameras.width) == (30, 60)
    torch.testing.assert_close(cameras.centers.norm(dim=-1), torch.full((4,), 0.7))
    torch.testing.assert_close(cameras.focal, like.focal[:4])
    square = Cameras.orbit(4, like=like, height=30, width=30)
    torch.testing.assert_close(square.focal, like.focal[:4])  # cropped, not squeezed
    assert Cameras.orbit(4, like=like, radius=2.0).centers.norm(dim=-1)[0] == pytest.approx(2.0)


def test_spiral_rises():
    cameras = Cameras.spiral(9, elevation=(0.0, 40.0), turns=2)
    torch.testing.assert_close(elevations(cameras), torch.linspace(0, 40, 9), atol=1e-3, rtol=0)


def test_lemniscate_is_closed_and_stays_near():
    cameras = Cameras.lemniscate(12, degrees=30.0, elevation=15.0)
    assert azimuths(cameras).abs().max() <= 30.0 + 1e-3
    assert (elevations(cameras) - 15.0).abs().max() <= 30.0 / 4 + 1e-3
    gaps = (cameras.centers - cameras.centers.roll(1, 0)).norm(dim=-1)
    assert gaps.max() < 3 * gaps.min() + 0.2


def test_dolly_zoom_keeps_the_subjects_size():
    cameras = Cameras.dolly_zoom(5, distance=(2.0, 0.5))
    size = cameras.focal[:, 0] / cameras.centers.norm(dim=-1)
    torch.testing.assert_close(size, size[:1].expand(5))
    assert cameras.centers.norm(dim=-1)[0] == pytest.approx(2.0)
    zoomed = Cameras.zoom(3, factor=(1.0, 3.0))
    torch.testing.assert_close(zoomed.focal[:, 0] / zoomed.focal[0, 0], torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(zoomed.camera_to_world, zoomed[[0, 0, 0]].camera_to_world)


def test_translate_moves_without_turning():
    cameras = Cameras.translate(3, offset=(0.4, 0.0, 0.0), elevation=0.0)
    torch.testing.assert_close(cameras.camera_to_world[:, :3, :3], cameras[[0, 0, 0]].camera_to_world[:, :3, :3])
    torch.testing.assert_close(cameras.centers, torch.tensor([[-0.2, 0, 1], [0, 0, 1], [0.2, 0, 1]]))
    up_and_back = Cameras.translate(2, offset=(0.0, 0.2, 0.6), elevation=0.0).centers
    torch.testing.assert_close(up_and_back[1] - up_and_back[0], torch.tensor([0.0, 0.2, 0.6]))


def test_interpolation_reaches_its_keys_and_turns_evenly():
    keys = Cameras.orbit(3, azimuth=(0, 80), elevation=0.0)
    cameras = Cameras.interpolate(keys, 9)
    for index, key in ((0, 0), (4, 1), (8, 2)):
        assert cameras[index].allclose(keys[key], atol=1e-5)
    axes = cameras.optical_axes
    turned = torch.rad2deg(torch.acos((axes[1:] * axes[:-1]).sum(-1).clamp(-1, 1)))
    torch.testing.assert_close(turned, torch.full((8,), 80 / 8), atol=0.05, rtol=0)
    half_turn = Cameras.interpolate(Cameras.orbit(2, azimuth=(0, 180), elevation=0.0, radius=1.0), 4)
    assert half_turn.camera_to_world.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("degrees", [0.0, 1e-3, 0.05, 1.0, 89.0, 91.0, 179.0, 180.0])
def test_interpolated_paths_reach_both_ends_however_little_the_keys_turn(degrees, dtype):
    """Rounding errors of 1e-7 of the rotations are no turns of their square root."""
    keys = Cameras.cat([Cameras.orbit(1, azimuth=(start, start)) for start in (33.0, 33.0 + degrees)]).to(dtype=dtype)
    path = Cameras.interpolate(keys, 5)
    for index, key in ((0, 0), (-1, 1)):
        torch.testing.assert_close(path[index].camera_to_world, keys[key].camera_to_world, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interpolating_between_one_camera_and_itself_stays(dtype):
    cameras = Cameras.jitter(Cameras.orbit(50), generator=torch.Generator().manual_seed(0)).to(dtype=dtype)
    for i in range(len(cameras)):
        path = Cameras.interpolate(cameras[[i, i]], 5)
        torch.testing.assert_close(path.camera_to_world, cameras[[i] * 5].camera_to_world, atol=1e-6, rtol=0)


def test_jitter_is_of_the_size_asked():
    cameras = Cameras.orbit(400)
    shaken = Cameras.jitter(cameras, degrees=3.0, distance=0.05, generator=torch.Generator().manual_seed(0))
    moved = (shaken.centers - cameras.centers).norm(dim=-1).square().mean().sqrt()
    assert moved.item() == pytest.approx(0.05, rel=0.1)
    turn = shaken.camera_to_world[:, :3, :3].transpose(1, 2) @ cameras.camera_to_world[:, :3, :3]
    angle = torch.rad2deg(torch.acos(((turn.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1)))
    assert angle.square().mean().sqrt().item() == pytest.approx(3.0, rel=0.1)
    assert Cameras.jitter(cameras, degrees=0.0, distance=0.0).allclose(cameras)


@pytest.mark.parametrize(
    "make", [Cameras.orbit, Cameras.spiral, Cameras.lemniscate, Cameras.dolly, Cameras.zoom, Cameras.translate]
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_cameras(make, count):
    cameras = make(count, height=20, width=30)
    assert (len(cameras), cameras.height, cameras.width) == (count, 20, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count"),
        ({"count": 2.0}, "count"),
        ({"count": 2, "radius": 0.0}, "radius"),
        ({"count": 2, "radius": math.nan}, "radius"),
        ({"count": 2, "elevation": 91.0}, "elevation"),
        ({"count": 2, "azimuth": (math.nan, 0.0)}, "azimuth"),
        ({"count": 2, "field_of_view": 180.0}, "field_of_view"),
        ({"count": 2, "target": (0.0, 0.0)}, "target"),
        (
            {"count": 3, "azimuth": 30},
            r"azimuth: expected the first and the last .* got 30\. Give it twice, \(30, 30\)",
        ),
        ({"count": 3, "azimuth": "30"}, "azimuth: expected the first and the last .*, two finite numbers, got '30'"),
        ({"count": 3, "azimuth": (0, 1, 2)}, r"azimuth: .* got \(0, 1, 2\)"),
        ({"count": 3, "elevation": (0, 1, 2)}, "elevation: expected one elevation, or the first and the last"),
        ({"count": 3, "elevation": None}, "elevation: .* got None"),
        ({"count": 3, "like": "path"}, r"like: expected Cameras, got 'path'\. load_cameras\(path\) reads a file"),
        ({"count": 3, "like": 3}, "like: expected Cameras, got 3"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(CamerasError, match=message):
        Cameras.orbit(**arguments)


def test_other_wrong_arguments():
    for call, message in (
        (lambda: Cameras.dolly(2, distance=(1.0, 0.0)), "distance"),
        (lambda: Cameras.translate(2, offset=(1.0, 0.0)), "offset"),
        (lambda: Cameras.interpolate(Cameras.orbit(1), 4), "keys"),
        (lambda: look_at(torch.zeros(1, 3)), "target"),
    ):
        with pytest.raises(CamerasError, match=message):
            call()


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Cameras.arc, {"azimuth": 30}, "azimuth: .*Give it twice"),
        (Cameras.spiral, {"azimuth": (0, 1)}, r"azimuth: expected one finite number, got \(0, 1\)"),
        (Cameras.spiral, {"turns": "two"}, "turns: expected one finite number, got 'two'"),
        (Cameras.lemniscate, {"degrees": None}, "degrees: expected one finite number, got None"),
        (Cameras.lemniscate, {"azimuth": (0, 1)}, "azimuth: expected one finite number"),
        (Cameras.lemniscate, {"elevation": (0, 1)}, "elevation: expected one finite number"),
        (Cameras.dolly, {"distance": 1.0}, "distance: expected the first and the last distance in radii, got 1.0"),
        (Cameras.dolly, {"distance": (1.0, 0.0)}, "distance: expected numbers above 0"),
        (Cameras.dolly, {"azimuth": (0, 1)}, "azimuth: expected one finite number"),
        (Cameras.zoom, {"factor": 2}, "factor: expected the first and the last factor"),
        (Cameras.zoom, {"elevation": (0, 1)}, "elevation: expected one finite number"),
        (Cameras.dolly_zoom, {"distance": 2}, "distance: expected the first and the last"),
        (Cameras.translate, {"offset": "far"}, "offset: expected a tensor or an array of numbers, got str"),
        (Cameras.translate, {"offset": 1.0}, "offset: expected 3 finite numbers"),
        (Cameras.translate, {"like": [Cameras.orbit(2)]}, r"like: .* a list\. Cameras\.cat\(list\) joins them"),
    ],
)
def test_wrong_arguments_of_the_other_paths(make, arguments, message):
    with pytest.raises(CamerasError, match=message):
        make(3, **arguments)


@pytest.mark.parametrize("pair", [[10, 50], torch.tensor([10.0, 50.0]), (torch.tensor(10), 50)])
def test_a_pair_is_whatever_holds_two_numbers(pair):
    assert Cameras.orbit(3, azimuth=pair).allclose(Cameras.orbit(3, azimuth=(10, 50)))
    assert Cameras.orbit(3, elevation=pair).allclose(Cameras.orbit(3, elevation=(10, 50)))
