"""How a long path is cut into windows; no model is needed for that."""

import pytest
import torch

from diffusers_mvcustom import AnchorSettings, Cameras, MVCustomError
from diffusers_mvcustom.pipelines.view_windows import nearest_view, plan_windows


def plan(count, views_at_a_time, longest=32, anchor=None, **options):
    cameras = Cameras.orbit(count, azimuth=(0, 2 * count), height=64, width=64)
    settings = anchor if isinstance(anchor, AnchorSettings) else AnchorSettings(frames=anchor)
    return plan_windows(cameras, views_at_a_time, longest, settings, **options)


@pytest.mark.parametrize(("count", "views_at_a_time"), [(16, None), (16, 16), (3, 16), (1, 1)])
def test_fewer_views_than_a_window_are_one_window(count, views_at_a_time):
    (window,) = plan(count, views_at_a_time).windows
    assert window.frames == tuple(range(count))
    assert window.known == ()
    assert window.anchors == (count // 2,)


@pytest.mark.parametrize("count", [17, 33, 64, 100])
@pytest.mark.parametrize("views_at_a_time", [1, 5, 16])
@pytest.mark.parametrize("keep_first", [False, True])
def test_every_view_is_generated_once_beside_known_ones(count, views_at_a_time, keep_first):
    windows = plan(count, views_at_a_time, keep_first=keep_first).windows
    generated = [frame for window in windows for frame in window.new]
    assert sorted(generated) == list(range(count))
    assert len(windows) == -(-count // views_at_a_time)
    there = set()
    for i, window in enumerate(windows):
        assert list(window.frames) == sorted(window.frames)
        assert set(window.known) <= there
        assert len(window.known) == 0 if i == 0 else 1 <= len(window.known) <= 1 + keep_first
        assert 0 < len(window.new) <= views_at_a_time
        assert set(window.anchors) <= set(window.frames)
        there |= set(window.new)
    sizes = [len(window.new) for window in windows]
    assert max(sizes) - min(sizes) <= 1


def test_sixty_four_views_are_four_windows_from_the_middle_outwards():
    windows = plan(64, 16).windows
    assert [(window.new[0], window.new[-1]) for window in windows] == [(32, 47), (16, 31), (48, 63), (0, 15)]
    assert [window.known for window in windows] == [(), (32,), (47,), (16,)]
    assert sum(len(window.frames) for window in windows) <= 4.2 * 16
    assert max(len(window.frames) for window in windows) <= 1.2 * 16


def test_windows_stay_within_what_the_motion_modules_know():
    assert max(len(window.frames) for window in plan(64, 32, longest=32).windows) <= 32
    assert max(len(window.frames) for window in plan(64, 32, longest=32, keep_first=True).windows) <= 32
    with pytest.raises(MVCustomError, match="views_at_a_time"):
        plan(4, 1, longest=1)


def test_the_named_anchor_is_in_the_first_window():
    result = plan(64, 16, anchor=[60, -16])
    assert result.anchors == (60, 48)
    assert result.windows[0].anchors == (60, 48)
    assert result.windows[0].frames == tuple(range(48, 64))
    with pytest.raises(MVCustomError, match=r"views 0 to 15.*\[40\]"):
        plan(64, 16, anchor=[2, 40])
    with pytest.raises(MVCustomError, match="anchor"):
        plan(64, 16, anchor=64)


def test_images_may_be_anywhere_on_the_path():
    result = plan(64, 16, anchor=[2, 40], anchors_are_given=True)
    assert result.anchors == (2, 40)
    first = result.windows[0]
    assert first.frames == (*range(16), 40)
    assert first.known == first.anchors == (2, 40)
    assert 2 not in first.new
    (of_40,) = [window for window in result.windows if 40 in window.frames and 41 in window.frames]
    assert set(of_40.known) == {31, 40}  # its own, and the nearest of the window before


def test_a_closed_path_meets_where_it_began():
    cameras = Cameras.orbit(32, height=64, width=64)
    windows = plan_windows(cameras, 8, 32, AnchorSettings(frames=0, keep_first=True), keep_first=True).windows
    assert windows[-1].new == tuple(range(24, 32))
    assert 0 in windows[-1].known


def test_the_nearest_view_counts_position_and_direction():
    turning = torch.eye(4).repeat(4, 1, 1)
    for i, degrees in enumerate((0.0, 40.0, 10.0, 20.0)):
        angle = torch.deg2rad(torch.tensor(degrees))
        turning[i, 0, 0] = turning[i, 2, 2] = angle.cos()
        turning[i, 0, 2], turning[i, 2, 0] = angle.sin(), -angle.sin()
    turning[:, :3, 3] = torch.tensor([0.0, 0.0, -1.0])
    on_the_spot = Cameras.from_focal(turning, 64.0, 64, 64)
    assert nearest_view(on_the_spot, [0, 1, 2], [3]) == 2
    moving = Cameras.translate(4, offset=(1.0, 0.0, 0.0), height=64, width=64)
    assert nearest_view(moving, [0, 1, 2], [3]) == 2
    assert nearest_view(moving, [3, 0], [1, 2]) in (0, 3)
    orbit = Cameras.orbit(8, height=64, width=64)
    assert nearest_view(orbit, [0, 3, 4], [6, 7]) == 0
