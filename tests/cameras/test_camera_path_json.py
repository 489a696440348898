"""Camera paths of others: nerfstudio's camera_path.json, JSON files without an image size, or with other axes."""

import json
import math

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras, camera_to_world_in, load_cameras, load_capture
from diffusers_mvcustom.errors import CamerasError, MVCustomError

PATH = Cameras.orbit(3, azimuth=(-30, 50), elevation=25.0, height=30, width=40, field_of_view=60.0)


def camera_path(**change):
    """What the viewer writes: OpenGL camera-to-world matrices row by row, vertical field of view in degrees."""
    content = {
        "default_fov": 75,
        "keyframes": [],
        "camera_type": "perspective",
        "render_height": 30,
        "render_width": 40,
        "fps": 24,
        "seconds": 4,
        "is_cycle": False,
        "camera_path": [
            {"camera_to_world": pose.flatten().tolist(), "fov": 60.0, "aspect": 1.7}
            for pose in camera_to_world_in(PATH, "opengl")
        ],
    }
    return {name: value for name, value in {**content, **change}.items() if value is not None}


def blender(**change):
    """What Blender's scripts write: an angle, poses, and no image size."""
    frames = [{"transform_matrix": pose.tolist()} for pose in camera_to_world_in(PATH, "opengl")]
    return {"camera_angle_x": 2 * math.atan(20 / PATH.focal[0, 0].item()), "frames": frames, **change}


def write(folder, content, name="camera_path.json"):
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_a_path_of_nerfstudios_viewer(tmp_path):
    file = write(tmp_path, camera_path())
    assert load_cameras(file).allclose(PATH.to(dtype=torch.float64), atol=1e-5)
    assert load_cameras(file, height=99, width=99).height == 30  # the file's own size comes first
    changing = camera_path()
    changing["camera_path"][1]["fov"] = 90.0
    assert load_cameras(write(tmp_path, changing)).focal[1].tolist() == pytest.approx([15.0, 15.0])
    assert load_capture(file).names == ("0000", "0001", "0002")


def test_a_path_without_a_size(tmp_path):
    file = write(tmp_path, camera_path(render_height=None, render_width=None))
    assert load_cameras(file, height=30, width=40).allclose(PATH.to(dtype=torch.float64), atol=1e-5)
    with pytest.raises(CamerasError, match=r"camera_path\.json: render_height: .*lacks.*--height and --width"):
        load_cameras(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (camera_path(camera_path=[]), "at least one camera.*two keyframes"),
        (camera_path(camera_path=[1]), "at least one camera"),
        (camera_path(camera_type="equirectangular"), "expected perspective, got 'equirectangular'"),
        (camera_path(render_width=0), "render_width: expected a size"),
        (camera_path(camera_path=[{"fov": 50}]), r"camera_path\[0\]: camera_to_world: expected 16"),
        (camera_path(camera_path=[{"camera_to_world": [1] * 15 + ["a"], "fov": 50}]), "expected 16 finite"),
        (camera_path(camera_path=[{"camera_to_world": torch.eye(4).flatten().tolist()}]), "fov: .*got None"),
        (camera_path(camera_path=[{"camera_to_world": [2.0] * 16, "fov": 50}]), "bottom row"),
    ],
)
def test_malformed_paths(tmp_path, content, message):
    with pytest.raises(MVCustomError, match=message) as caught:
        load_cameras(write(tmp_path, content))
    assert "camera_path.json" in str(caught.value)


def test_other_json_is_no_path(tmp_path):
    with pytest.raises(MVCustomError, match="frames"):
        load_cameras(write(tmp_path, {"cameras": []}))
    with pytest.raises(CamerasError, match="camera_path: expected a JSON object"):
        load_cameras(write(tmp_path, blender()), "camera_path_json")


def test_a_transforms_json_without_a_size(tmp_path):
    for name in ("transforms.json", "mine.json"):
        file = write(tmp_path, blender(), name)
        assert load_cameras(file, height=30, width=40).allclose(PATH.to(dtype=torch.float64), atol=1e-5)
        with pytest.raises(CamerasError, match=r"h: expected the height in pixels.*--height and --width"):
            load_cameras(file)
        with pytest.raises(CamerasError, match=r"w: expected the width in pixels"):
            load_cameras(file, height=30)
        with pytest.raises(CamerasError, match="width"):
            load_cameras(file, height=30, width=0)


@pytest.mark.parametrize("convention", ["opencv", "opencv_w2c", "opengl", "pytorch3d"])
def test_axes_other_than_opengl(tmp_path, convention):
    poses = camera_to_world_in(PATH, convention)
    frames = [{"transform_matrix": pose.tolist()} for pose in poses]
    size = {"height": 30, "width": 40}
    read = load_cameras(write(tmp_path, blender(frames=frames), "a.json"), convention=convention, **size)
    assert read.allclose(PATH.to(dtype=torch.float64), atol=1e-5)
    path = [{"camera_to_world": pose.flatten().tolist(), "fov": 60.0} for pose in poses]
    read = load_cameras(write(tmp_path, camera_path(camera_path=path)), convention=convention)
    assert read.allclose(PATH.to(dtype=torch.float64), atol=1e-5)


def test_axes_that_nobody_knows(tmp_path):
    with pytest.raises(CamerasError, match="expected one of opencv"):
        load_cameras(write(tmp_path, camera_path()), convention="unreal")
    (tmp_path / "clip.txt").write_text("https://\n")
    with pytest.raises(CamerasError, match="only for JSON"):
        load_cameras(tmp_path / "clip.txt", height=4, width=6, convention="opencv")
