"""RRA, RTA, AUC against hand-computed cases, a plain loop, and across processes."""

import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from textured_scene import pose_errors

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.evaluation import CameraAccuracy, camera_accuracy, relative_pose_errors
from diffusers_mvcustom.evaluation.camera_accuracy import area_under_curve, rotation_angle


def turn(degrees, axis=1):
    """A rotation about one axis, `(3, 3)`."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def poses(*centers, rotations=None):
    made = torch.eye(4, dtype=torch.float64).repeat(len(centers), 1, 1)
    made[:, :3, 3] = torch.tensor(centers, dtype=torch.float64)
    if rotations is not None:
        made[:, :3, :3] = torch.stack(rotations)
    return made


def random_poses(count, seed):
    generator = torch.Generator().manual_seed(seed)
    made = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    made[:, :3, :3] = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)).Q
    made[:, :3, :3] *= torch.linalg.det(made[:, :3, :3])[:, None, None]
    made[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return made


def test_a_turned_view_is_off_by_its_angle_in_the_pairs_it_is_in():
    target = poses((0, 0, 0), (1, 0, 0), (0, 0, 2))
    found = target.clone()
    found[2, :3, :3] = turn(20)
    errors = relative_pose_errors(found, target)  # pairs (0, 1), (0, 2), (1, 2)
    assert errors.rotation.tolist() == pytest.approx([0, 20, 20])
    assert errors.translation.tolist() == pytest.approx([0, 0, 0])  # seen from the first view of each pair
    numbers = camera_accuracy(found, target)
    assert numbers["RRA@15"] == pytest.approx(1 / 3)
    assert numbers["RTA@15"] == 1.0
    assert numbers["accuracy@15"] == pytest.approx(1 / 3)
    assert numbers["AUC@30"] == pytest.approx((20 * 1 / 3 + 10 * 1.0) / 30)  # 1° to 20°: one pair; 21° to 30°: three
    assert numbers["median_rotation_degrees"] == pytest.approx(20)
    assert (numbers["pairs"], numbers["pairs_found"]) == (3, 3)


def test_a_moved_view_is_off_by_the_angle_between_the_directions():
    target = poses((0, 0, 0), (1, 0, 0))
    found = poses((0, 0, 0), (5 * math.cos(math.radians(10)), 5 * math.sin(math.radians(10)), 0))
    errors = relative_pose_errors(found, target)
    assert errors.translation.tolist() == pytest.approx([10])
    assert errors.rotation.tolist() == [0]


def test_opposite_directions_are_as_wrong_as_can_be_unless_the_sign_is_ignored():
    target, found = poses((0, 0, 0), (1, 0, 0)), poses((0, 0, 0), (-1, 0, 0))
    assert relative_pose_errors(found, target).translation.tolist() == pytest.approx([180])
    assert relative_pose_errors(found, target, ignore_sign=True).translation.tolist() == pytest.approx([0])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_neither_world_nor_scale_matter_and_a_plain_loop_says_the_same(count):
    target, found = random_poses(count, 0), random_poses(count, 1)
    errors = relative_pose_errors(found, target)
    rotation, translation = pose_errors(found.numpy(), target.numpy())
    np.testing.assert_allclose(errors.rotation, rotation, atol=1e-5)
    np.testing.assert_allclose(errors.translation, translation, atol=1e-5)
    similarity = random_poses(1, 2)
    elsewhere = similarity @ found
    elsewhere[:, :3, 3] *= 3.5
    moved = relative_pose_errors(elsewhere, target)
    torch.testing.assert_close(moved.rotation, errors.rotation)
    torch.testing.assert_close(moved.translation, errors.translation)
    assert camera_accuracy(elsewhere, found)["accuracy@5"] == 1.0


def test_views_without_a_pose_count_as_the_worst_and_their_poses_are_not_read():
    target = random_poses(4, 3)
    found = target.clone()
    found[1] = math.nan
    registered = torch.tensor([True, False, True, True])
    errors = relative_pose_errors(found, target, registered)
    assert errors.found.tolist() == [False, True, True, False, False, True]  # 01 02 03 12 13 23
    assert errors.rotation[~errors.found].tolist() == [180] * 3
    assert errors.translation[~errors.found].tolist() == [180] * 3
    numbers = camera_accuracy(found, target, registered)
    assert numbers["RRA@15"] == numbers["RTA@15"] == numbers["AUC@30"] == 3 / 6
    nothing = camera_accuracy(found, target, torch.zeros(4, dtype=torch.bool))
    assert nothing["RRA@15"] == nothing["RTA@15"] == nothing["AUC@30"] == 0
    assert nothing["median_translation_degrees"] == 180


def test_views_at_one_place_have_no_direction_to_be_wrong_about():
    target = poses((1, 0, 0), (1, 0, 0), (2, 0, 0), rotations=[turn(0), turn(30), turn(60)])
    found = target.clone()
    found[1, :3, 3] += torch.tensor([0, 0.01, 0])
    errors = relative_pose_errors(found, target)
    assert errors.translation.isnan().tolist() == [True, False, False]
    numbers = camera_accuracy(found, target)
    assert numbers["RTA@15"] == 2 / 2
    assert numbers["accuracy@15"] == 3 / 3  # the rotation alone decides the first pair
    still = camera_accuracy(found[:2], target[:2])
    assert math.isnan(still["RTA@15"])
    assert math.isnan(still["median_translation_degrees"])
    assert still["accuracy@15"] == still["RRA@15"] == 1.0


def test_found_at_one_place_is_wrong_where_the_target_moves():
    target = poses((0, 0, 0), (1, 0, 0), (2, 0, 0))
    found = poses((3, 3, 3), (3, 3, 3), (3, 3, 3 + 1e-9))
    numbers = camera_accuracy(found, target)
    assert (numbers["RRA@15"], numbers["RTA@15"], numbers["median_translation_degrees"]) == (1, 0, 180)


def test_small_and_large_angles_are_exact():
    for degrees in (1e-7, 0.2, 90.0, 179.9999):
        assert rotation_angle(turn(degrees, axis=0)).item() == pytest.approx(degrees, rel=1e-6)


def test_area_counts_an_error_from_its_next_whole_degree_on():
    assert area_under_curve(torch.tensor([0.0]), 30) == 1.0
    assert area_under_curve(torch.tensor([29.5]), 30) == pytest.approx(1 / 30)
    assert area_under_curve(torch.tensor([30.0]), 30) == 0.0


def test_accumulating_is_pooling_the_pairs():
    metric = CameraAccuracy()
    target = random_poses(3, 5)
    metric.update(target, target)  # 3 pairs, all right
    metric.update(random_poses(2, 6), target[:2], torch.tensor([True, False]))  # 1 pair, not found
    numbers = metric.compute()
    assert (numbers["pairs"], numbers["pairs_found"], numbers["RRA@15"]) == (4, 3, 3 / 4)
    assert set(metric.higher_is_better) <= set(numbers)
    metric.reset()
    with pytest.raises(MVCustomError, match="nothing to compute"):
        metric.compute()


@pytest.mark.parametrize(
    ("found", "registered", "message"),
    [
        (torch.eye(4)[None], None, "at least 2"),
        (torch.eye(4), None, r"found: expected Cameras or poses of shape \(N, 4, 4\)"),
        (torch.eye(4).repeat(3, 1, 1), torch.ones(2, dtype=torch.bool), r"registered: expected bool of shape \(3,\)"),
        (torch.eye(4).repeat(3, 1, 1), torch.ones(3), "registered: expected bool"),
    ],
)
def test_bad_input_is_named(found, registered, message):
    target = Cameras.orbit(3) if found.shape[0] == 3 else torch.eye(4)[None]
    with pytest.raises(MVCustomError, match=message):
        relative_pose_errors(found, target, registered)


def test_two_processes_compute_what_one_would(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import json
            import sys
            from pathlib import Path
            import torch
            import torch.distributed as dist
            from diffusers_mvcustom.cameras import Cameras
            from diffusers_mvcustom.evaluation import CameraAccuracy

            dist.init_process_group("gloo")
            target = Cameras.orbit(4)
            metric = CameraAccuracy()
            if dist.get_rank() == 0:  # 6 pairs right, then 3 of 6 not found
                metric.update(target, target)
                metric.update(target, target, torch.tensor([True, True, True, False]))
            first = metric.compute()
            metric.reset()
            if dist.get_rank() == 1:
                metric.update(target[:2], target[:2])
            else:
                metric.update(target[:2], target[:2], torch.tensor([True, False]))
            second = metric.compute()
            result = [first["pairs"], first["RRA@15"], second["pairs"], second["RTA@15"]]
            (Path(sys.argv[1]) / f"rank{dist.get_rank()}.json").write_text(json.dumps(result))
            dist.destroy_process_group()
            """
        )
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    ended = subprocess.run([*launcher, str(program), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    # A file a process: lines that two processes print at once run into each other.
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == [12, (6 + 3) / 12, 2, 1 / 2]
