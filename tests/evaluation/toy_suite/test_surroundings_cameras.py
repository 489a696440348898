"""The camera's movement read off the surroundings: exact for true renders; nonsense is wrong, each in its own way."""

import pytest
import torch

from diffusers_mvcustom.evaluation.toy_suite.controls import foreign_views
from diffusers_mvcustom.evaluation.toy_suite.surroundings_cameras import (
    WORST_ERROR,
    moved_poses,
    movement_pairs,
    surroundings_movements,
)


def errors(views, known):
    return [movement.error for movement in surroundings_movements(views, known)]


def test_true_renders_are_right_though_objects_stand_about(seen):
    _, views, known = seen
    movements = surroundings_movements(views, known)
    assert [movement.pair for movement in movements] == movement_pairs(len(views))
    assert all(movement.is_right for movement in movements), movements
    assert max(movement.degrees for movement in movements) < 5


def test_a_view_that_did_not_move_has_error_1(seen):
    _, views, known = seen
    assert errors(views[2:3].expand_as(views), known) == pytest.approx([1.0] * 4, abs=0.02)


def test_views_in_reverse_moved_the_opposite_way(seen):
    _, views, known = seen
    found = errors(views.flip(0), known)
    assert min(found) > 1.2, found


def test_half_and_double_the_movement_are_wrong(seen):
    _, views, known = seen
    half = torch.stack([views[1], views[2]])  # as if they were further apart
    assert 0.35 < surroundings_movements(half, _pair(known, 0, 2), [(0, 1)])[0].error < 0.65
    double = torch.stack([views[1], views[3]])
    assert surroundings_movements(double, _pair(known, 1, 2), [(0, 1)])[0].error > 0.6


def test_pictures_of_nothing_in_common_are_wrong(seen):
    case, views, known = seen
    noise = torch.rand(views.shape, generator=torch.Generator().manual_seed(0))
    assert errors(noise, known) == [WORST_ERROR] * 4
    assert errors(torch.full_like(views, 0.3), known) == [WORST_ERROR] * 4
    assert sum(movement.is_right for movement in surroundings_movements(foreign_views(case), known)) <= 1


def test_movements_are_about_the_vertical_and_sideways(rotation):
    pose = rotation.cameras().camera_to_world[0]
    turned, moved = moved_poses(pose, torch.tensor([90.0, 0.0]), torch.tensor([0.0, 0.25]))
    x, y, z = pose[:3, 3]
    torch.testing.assert_close(turned[:3, 3], torch.stack([z, y, -x]))
    torch.testing.assert_close(moved[:3, 3], pose[:3, 3] + 0.25 * pose[:3, 0])
    torch.testing.assert_close(moved[:3, :3], pose[:3, :3])


def _pair(known, i, j):
    """What is known of two of the views."""
    return type(known)(known.cameras[[i, j]], known.lit[:, [i, j]], known.depth[[i, j]], known.masks[[i, j]])
