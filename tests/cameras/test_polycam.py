"""Polycam's raw data, written here as the app documents it."""

import json

import pytest
import torch
from PIL import Image

from diffusers_mvcustom.cameras import Cameras, load_capture
from diffusers_mvcustom.errors import CamerasError, MVCustomError

CAMERAS = Cameras.orbit(3, elevation=30.0, height=24, width=32)


def write(folder, cameras=CAMERAS, which=("cameras", "images")):
    """Rows of the camera-to-world matrix with y up and z backward."""
    for part in which:
        (folder / part).mkdir(parents=True)
    for i, camera in enumerate(cameras):
        pose = camera.camera_to_world[0].double() @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
        matrix = camera.intrinsics[0]
        frame = {f"t_{row}{column}": pose[row, column].item() for row in range(3) for column in range(4)}
        frame |= {"fx": matrix[0, 0].item(), "fy": matrix[1, 1].item(), "cx": matrix[0, 2].item()}
        frame |= {"cy": matrix[1, 2].item(), "width": 32, "height": 24, "blur_score": 100.0, "neighbors": []}
        (folder / which[0] / f"{1000 + i}.json").write_text(json.dumps(frame))
        Image.new("RGB", (32, 24), (i, 0, 0)).save(folder / which[1] / f"{1000 + i}.jpg")


@pytest.mark.parametrize("inside", ["keyframes", "."])
def test_cameras_and_photos(tmp_path, inside):
    write(tmp_path / inside)
    capture = load_capture(tmp_path)
    assert capture.cameras.allclose(CAMERAS, atol=1e-5)
    assert capture.names == ("1000.jpg", "1001.jpg", "1002.jpg")
    assert all(path.is_file() for path in capture.image_paths)


def test_corrected_cameras_come_first_and_those_without_a_photo_are_left_out(tmp_path):
    write(tmp_path / "keyframes")
    corrected = Cameras.orbit(3, elevation=10.0, height=24, width=32)
    write(tmp_path / "keyframes", corrected, ("corrected_cameras", "corrected_images"))
    (tmp_path / "keyframes" / "corrected_images" / "1001.jpg").unlink()
    capture = load_capture(tmp_path)
    assert capture.cameras.allclose(corrected[[0, 2]], atol=1e-5)
    assert capture.names == ("1000.jpg", "1002.jpg")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(MVCustomError, match="or Polycam's keyframes"):
        load_capture(tmp_path)
    with pytest.raises(MVCustomError, match="expected Polycam's raw data"):
        load_capture(tmp_path, "polycam")
    write(tmp_path)
    file = tmp_path / "cameras" / "1001.json"
    frame = json.loads(file.read_text())
    file.write_text(json.dumps({**frame, "t_12": None}))
    with pytest.raises(CamerasError, match=r"1001\.json: t_12: expected a finite number"):
        load_capture(tmp_path)
    file.write_text("{")
    with pytest.raises(MVCustomError, match=r"1001\.json: expected JSON"):
        load_capture(tmp_path)
    file.write_text(json.dumps({**frame, "width": 33}))
    with pytest.raises(CamerasError, match="photos of one size"):
        load_capture(tmp_path)
