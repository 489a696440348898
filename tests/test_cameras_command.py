"""`mvcustom cameras`: what it says of cameras that look away, files without a size, and the formats that it writes."""

import json
import shutil

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, camera_to_world_in, load_cameras, load_capture, save_cameras

AROUND = Cameras.orbit(13, height=48, width=64)


def flipped(cameras, which):
    poses = cameras.camera_to_world.clone()
    poses[which, :3, 1:3] *= -1
    return Cameras(poses, cameras.intrinsics, cameras.height, cameras.width)


@pytest.mark.parametrize("normalize", [(), ("--normalize",)])
def test_cameras_of_another_convention_are_warned_of(mvcustom, tmp_path, normalize):
    save_cameras(tmp_path / "capture.json", AROUND)
    assert "warning" not in mvcustom("cameras", "show", "capture.json", *normalize).stderr
    save_cameras(tmp_path / "capture.json", flipped(AROUND, slice(None)))
    shown = mvcustom("cameras", "show", "capture.json", *normalize)
    expected = "warning: capture.json: only 0 of 13 cameras look at the point that their axes have in common."
    assert expected in shown.stderr
    assert "--convention opencv" in shown.stderr
    assert "13 cameras of 64 × 48" in shown.stdout
    assert "warning" not in mvcustom("cameras", "show", "capture.json", "--convention", "opencv").stderr


def test_single_cameras_that_look_away_are_named(mvcustom, tmp_path):
    save_cameras(tmp_path / "capture.json", flipped(AROUND, [2, 7]))
    shown = mvcustom("cameras", "show", "capture.json").stderr
    assert "2 of 13 cameras do not look at the point that the axes have in common: 2, 7" in shown


def test_cameras_without_a_common_point_are_not_judged(mvcustom, tmp_path):
    save_cameras(tmp_path / "path.json", Cameras.translate(4))
    assert "warning" not in mvcustom("cameras", "show", "path.json").stderr


def test_conversion_from_other_axes(mvcustom, tmp_path):
    poses = camera_to_world_in(AROUND, "opencv_w2c")
    frames = [{"transform_matrix": pose.tolist()} for pose in poses]
    (tmp_path / "theirs.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames}))
    refused = mvcustom("cameras", "convert", "theirs.json", "mine.json", code=1).stderr
    assert "give --height and --width" in refused
    size = ("--height", 48, "--width", 64)
    mvcustom("cameras", "convert", "theirs.json", "mine.json", "--convention", "opencv_w2c", *size)
    torch.testing.assert_close(
        load_cameras(tmp_path / "mine.json").camera_to_world.float(), AROUND.camera_to_world, atol=1e-5, rtol=1e-5
    )


def test_converted_cameras_keep_their_photos(mvcustom, tmp_path, cube_capture):
    shutil.copytree(cube_capture, tmp_path / "capture")
    photos = load_capture(tmp_path / "capture").image_paths
    mvcustom("cameras", "convert", "capture", "capture/mine.json")
    assert load_capture(tmp_path / "capture" / "mine.json").image_paths == photos
    masks = load_capture(tmp_path / "capture").mask_paths
    assert all(mask.is_file() for mask in masks)
    assert load_capture(tmp_path / "capture" / "mine.json").mask_paths == masks
    mvcustom("cameras", "convert", "capture/transforms.json", "above.json")
    assert [p.resolve() for p in load_capture(tmp_path / "above.json").image_paths] == [p.resolve() for p in photos]
    mvcustom("cameras", "convert", "capture", "capture/sparse")
    assert load_capture(tmp_path / "capture" / "sparse").names == load_capture(tmp_path / "capture").names
    mvcustom("cameras", "convert", "capture", "small.json", "--width", 32, "--height", 24)  # cameras of other pictures
    assert not any(path and path.exists() for path in load_capture(tmp_path / "small.json").image_paths)


def test_a_name_of_two_lines_is_not_written(mvcustom, tmp_path):
    save_cameras(tmp_path / "names.json", AROUND)
    transforms = json.loads((tmp_path / "names.json").read_text())
    transforms["frames"][3]["file_path"] = "a\n2 1 0 0 0 0 0 0 1 b"
    (tmp_path / "names.json").write_text(json.dumps(transforms))
    refused = mvcustom("cameras", "convert", "names.json", "out", "--format", "colmap_text", code=1).stderr
    assert "names: expected names of photos" in refused
    assert not (tmp_path / "out").exists()


def test_a_clip_that_knows_no_size(mvcustom, tmp_path):
    save_cameras(tmp_path / "clip.txt", AROUND)
    assert "--height, --width: a RealEstate10K file" in mvcustom("cameras", "show", "clip.txt", code=1).stderr
    assert "13 cameras of 64 × 48" in mvcustom("cameras", "show", "clip.txt", "--height", 48, "--width", 64).stdout


def test_another_size_resizes_and_crops(mvcustom, tmp_path):
    save_cameras(tmp_path / "capture.json", AROUND)
    mvcustom("cameras", "convert", "capture.json", "square.json", "--width", 48)
    assert load_cameras(tmp_path / "square.json").to(dtype=torch.float32).allclose(AROUND.cover(48, 48), atol=1e-4)


def test_the_formats_are_in_the_help(mvcustom, tmp_path):
    text = mvcustom("cameras", "convert", "--help").stdout
    refused = mvcustom("cameras", "convert", "x.json", "out", "--format", "xyz", code=1).stderr
    assert "x.json" in refused
    save_cameras(tmp_path / "x.json", AROUND)
    refused = mvcustom("cameras", "convert", "x.json", "out", "--format", "xyz", code=1).stderr
    for name in ("transforms_json", "colmap", "colmap_text", "real_estate10k"):
        assert name in text
        assert name in refused
