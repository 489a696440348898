"""What fuzzing found in cameras and camera files, each with the input that showed it."""

import gzip
import json
import os

import pytest
import torch
from fuzz.watch import attempt, bounded

from diffusers_mvcustom.cameras import (
    Cameras,
    SubjectFrame,
    cameras_from_convention,
    load_capture,
    save_cameras,
)
from diffusers_mvcustom.errors import CamerasError, MVCustomError

HUGE = 10**400
"""A whole number that JSON can hold and no float."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


def refused(folder, call, match=None):
    kind, error = attempt(folder, call)
    assert kind == "refused"
    if match is not None:
        assert match in str(error)


POSES, LENSES = Cameras.orbit(2).camera_to_world, Cameras.orbit(2).intrinsics


@pytest.mark.parametrize("size", [float("nan"), float("inf"), "64", {}, None, [], HUGE, 2**30, True, 0.5])
def test_sizes_that_are_none(size):
    for call in (
        lambda: Cameras(POSES, LENSES, size, 64),
        lambda: Cameras.from_focal(POSES, 50.0, 64, size),
        lambda: Cameras.orbit(2).cover(size, 64),
        lambda: Cameras.orbit(2).resize(64, size),
    ):
        with pytest.raises(CamerasError, match="whole number of pixels"):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: Cameras.from_focal(POSES, "wide", 64, 64),
        lambda: Cameras.from_focal(POSES, (1.0, 2.0, 3.0), 64, 64),
        lambda: Cameras.from_focal("poses", 50.0, 64, 64),
        lambda: Cameras(POSES.to_sparse(), LENSES, 64, 64),
        lambda: Cameras(POSES.to("meta"), LENSES, 64, 64),
        lambda: cameras_from_convention("poses", LENSES, 64, 64, convention="opengl"),
        lambda: cameras_from_convention(POSES, LENSES, 64, 64, convention=["opengl"]),
        lambda: Cameras.orbit(2, radius=HUGE),
        lambda: Cameras.orbit(2, elevation="high"),
        lambda: Cameras.orbit(2, target="there"),
        lambda: Cameras.orbit(2, height="tall"),
    ],
)
def test_arguments_of_another_kind(call):
    with pytest.raises(CamerasError):
        call()


def test_a_rotation_whose_product_overflows_is_none():
    poses = POSES.double().clone()
    poses[:, :3, :3] *= 1e200
    with pytest.raises(CamerasError, match="camera_to_world: expected"):
        Cameras(poses, LENSES, 64, 64)


def test_half_precision_poses_can_be_inverted():
    moved = POSES.clone()
    moved[:, :3, :3] = torch.eye(3)
    cameras = cameras_from_convention(moved.half(), LENSES, 64, 64, convention="opencv_w2c")
    torch.testing.assert_close(cameras.centers, -moved[:, :3, 3].half().float())


def test_whole_number_poses_keep_a_half_pixel():
    cameras = Cameras.from_focal(torch.eye(4, dtype=torch.int64)[None], 50, 63, 63)
    assert cameras.intrinsics[0, 0, 2] == 63 / 2


@pytest.mark.parametrize("values", [{"scale": HUGE}, {"rotation": [[1e200, 0, 0], [0, 1, 0], [0, 0, 1]]}])
def test_a_subject_frame_beyond_floats(values):
    with pytest.raises(MVCustomError, match="subject_frame"):
        SubjectFrame.from_dict({**SubjectFrame.identity().to_dict(), **values})


# --- transforms.json ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"file_path": "."}, "path of a file"),
        ({"file_path": "./"}, "path of a file"),
        ({"file_path": "n" * 300}, "too long"),
        ({"file_path": "a/" * 3000 + "b"}, "too long"),
        ({"file_path": "\ud800"}, "surrogate"),
        ({"file_path": "../canary.png"}, "leads out"),
        ({"mask_path": "/canary.png"}, "leads out"),
        ({"fl_x": HUGE}, "finite number"),
        ({"fl_x": None, "camera_angle_x": 5e-324}, "radians"),
    ],
)
def test_frames_of_a_transforms_json(folder, changes, match):
    save_cameras(folder / "transforms.json", Cameras.orbit(2))
    content = json.loads((folder / "transforms.json").read_text())
    lens = {name: content.pop(name) for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    for frame in content["frames"]:
        frame |= lens
        frame |= changes
        if frame["fl_x"] is None:
            del frame["fl_x"]
    (folder / "transforms.json").write_text(json.dumps(content))
    refused(folder, lambda: load_capture(folder), match)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "transforms.json")
    for path in (tmp_path, tmp_path / "transforms.json", "/dev/zero", "n" * 300):
        with pytest.raises(MVCustomError), bounded(seconds=2):
            load_capture(path)


# --- COLMAP, CO3Dv2, Polycam ---


def test_a_quaternion_whose_length_overflows_is_no_rotation(folder):
    save_cameras(folder / "model", Cameras.orbit(1), "colmap_text")
    file = folder / "model" / "images.txt"
    lines = file.read_text().splitlines()
    words = lines[2].split()
    words[1:5] = ["1e200", "1e200", "0", "0"]
    file.write_text("\n".join([*lines[:2], " ".join(words), ""]))
    refused(folder, lambda: load_capture(folder / "model"), "quaternions")


def annotations(folder, frames):
    file = folder / "cup" / "frame_annotations.jgz"
    file.parent.mkdir()
    file.write_bytes(frames if isinstance(frames, bytes) else gzip.compress(json.dumps(frames).encode()))
    return file


def test_a_decompression_bomb_of_annotations(folder):
    bomb = gzip.compress(b"[" + b"{}," * 10_000_000 + b"{}]", 1)
    file = annotations(folder, bomb)
    refused(folder, lambda: load_capture(file), "bomb")


def test_small_annotations_need_little_memory(folder):
    file = annotations(folder, [{}])
    with bounded(memory=1 << 28):
        refused(folder, lambda: load_capture(file), "frame 0")


@pytest.mark.parametrize("side", [float("inf"), HUGE, None])
def test_sizes_of_annotations(folder, side):
    view = {"R": [], "T": [], "focal_length": [], "principal_point": []}
    file = annotations(folder, [{"viewpoint": view, "image": {"path": "a.jpg", "size": [side, 3]}}])
    refused(folder, lambda: load_capture(file), "frame 0")


def test_a_keyframe_beyond_floats(folder):
    (folder / "cameras").mkdir()
    (folder / "images").mkdir()
    (folder / "images" / "1.jpg").touch()
    frame = {f"t_{i}{j}": HUGE for i in range(3) for j in range(4)}
    (folder / "cameras" / "1.json").write_text(json.dumps({**frame, "fx": 1.0}))
    refused(folder, lambda: load_capture(folder), "t_00")
