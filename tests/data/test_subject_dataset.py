"""From a posed capture, or a prepared folder, to a subject dataset; and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_capture import HEIGHT, NUM_VIEWS, WIDTH, render
from synthetic_capture import poses as cube_poses

from diffusers_mvcustom.cameras import Cameras, load_capture, normalize_cameras, save_cameras
from diffusers_mvcustom.data import load_subject_dataset
from diffusers_mvcustom.data.manifest import SUBJECT_KEY, SubjectRecord
from diffusers_mvcustom.data.silhouettes import convention_that_fits
from diffusers_mvcustom.errors import CamerasError, MVCustomError


@pytest.fixture
def capture(cube_capture, tmp_path):
    return shutil.copytree(cube_capture, tmp_path / "capture")


def edit(folder, change) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))


def test_a_capture_is_brought_into_the_subject_frame(capture):
    dataset = load_subject_dataset(capture, height=32, width=32)
    expected, frame = normalize_cameras(load_capture(capture).cameras)
    assert len(dataset) == NUM_VIEWS
    assert dataset.views.images.shape == (NUM_VIEWS, 3, 32, 32)
    assert dataset.views.masks.shape == (NUM_VIEWS, 1, 32, 32)
    assert dataset.views.cameras.allclose(expected.cover(32, 32))
    assert dataset.subject_frame == frame
    assert dataset.class_noun is None
    assert dataset.views.captions is None


def test_a_prepared_folder_keeps_its_frame_noun_names_and_captions(capture):
    cameras, frame = normalize_cameras(load_capture(capture).cameras)

    def prepare(content):
        content[SUBJECT_KEY] = SubjectRecord(frame, "cube", "<my-cube>").to_dict()
        poses = cameras.camera_to_world.double() * torch.tensor([1.0, -1.0, -1.0, 1.0])
        for i, entry in enumerate(content["frames"]):
            entry |= {"name": f"IMG_{i}.JPG", "caption": f"a cube {i}", "transform_matrix": poses[i].tolist()}

    edit(capture, prepare)
    dataset = load_subject_dataset(capture)
    assert dataset.views.cameras.allclose(cameras)
    assert dataset.subject_frame == frame
    assert (dataset.class_noun, dataset.token) == ("cube", "<my-cube>")
    assert dataset.views.names[3] == "IMG_3.JPG"
    assert dataset.views.captions[5] == "a cube 5"
    with pytest.raises(MVCustomError, match="prepare it again"):
        load_subject_dataset(capture, up=(0, 0, 1))


def test_held_out_photos_are_apart_from_the_others_and_spread(capture):
    dataset = load_subject_dataset(capture)
    training, held_out = dataset.split(3)
    assert len(training) == NUM_VIEWS - 3
    assert set(training.views.names) | set(held_out.views.names) == set(dataset.views.names)
    directions = torch.nn.functional.normalize(held_out.views.cameras.centers, dim=-1)
    assert (directions @ directions.T).fill_diagonal_(-1).max() < np.cos(np.deg2rad(80))  # 120° apart but for heights
    for wrong in (0, NUM_VIEWS - 2, True, 2.0):
        with pytest.raises(MVCustomError, match="held_out: expected a whole number from 1 to 9"):
            dataset.split(wrong)


def test_masks_can_come_from_alpha_from_a_folder_or_be_ignored(capture, tmp_path):
    def without_masks(content):
        for entry in content["frames"]:
            del entry["mask_path"]

    with_files = load_subject_dataset(capture, height=24, width=40)
    shutil.move(capture / "masks", tmp_path / "other")
    edit(capture, without_masks)
    assert load_subject_dataset(capture).views.masks is None
    with pytest.raises(MVCustomError, match="masks: expected a mask for every photo"):
        load_subject_dataset(capture, masks="required")
    from_folder = load_subject_dataset(capture, height=24, width=40, masks=tmp_path / "other")
    assert torch.equal(from_folder.views.masks, with_files.views.masks)
    (tmp_path / "other" / "07.png").unlink()
    with pytest.raises(MVCustomError, match=r"1 of 12 have none: 07\.png"):
        load_subject_dataset(capture, masks=tmp_path / "other")
    for i, pose in enumerate(cube_poses()):
        colors, mask = render(pose)
        Image.fromarray(np.dstack([colors, mask.astype(np.uint8) * 255])).save(capture / "images" / f"{i:02d}.png")
    from_alpha = load_subject_dataset(capture, height=24, width=40, masks="required")
    assert torch.equal(from_alpha.views.masks, with_files.views.masks)
    assert load_subject_dataset(capture, masks="none").views.masks is None
    Image.fromarray(render(cube_poses()[4])[0]).save(capture / "images" / "04.png")
    with pytest.raises(MVCustomError, match=r"1 of 12 have none: images/04\.png"):
        load_subject_dataset(capture)


def test_too_few_photos(capture):
    edit(capture, lambda content: content.update(frames=content["frames"][:2]))
    with pytest.raises(MVCustomError, match=r"capture: expected at least 3 photos .* got 2"):
        load_subject_dataset(capture)


@pytest.mark.parametrize("same", ["bytes", "pixels"])
def test_a_photo_that_is_there_twice_is_named_with_its_double(capture, same):
    images = capture / "images"
    if same == "bytes":
        shutil.copy(images / "02.png", images / "09.png")
    else:
        Image.open(images / "02.png").save(images / "09.png", compress_level=0)
        assert (images / "02.png").read_bytes() != (images / "09.png").read_bytes()
    with pytest.raises(MVCustomError, match=r"duplicate .* images/02\.png = images/09\.png"):
        load_subject_dataset(capture)


@pytest.mark.parametrize(("part", "what"), [("images", "photos"), ("masks", "masks")])
def test_missing_files_are_all_named(capture, part, what):
    for name in ("01.png", "08.png"):
        (capture / part / name).unlink()
    with pytest.raises(MVCustomError, match=rf"2 of 12 {what} are not there: .*{part}/01\.png, .*{part}/08\.png"):
        load_subject_dataset(capture)


def test_masks_of_some_photos_only_or_without_a_subject(capture):
    edit(capture, lambda content: content["frames"][6].pop("mask_path"))
    with pytest.raises(MVCustomError, match=r"1 of 12 have none: images/06\.png"):
        load_subject_dataset(capture)
    edit(capture, lambda content: content["frames"][6].update(mask_path="masks/06.png"))
    Image.new("L", (WIDTH, HEIGHT)).save(capture / "masks" / "03.png")
    with pytest.raises(MVCustomError, match=r"there is none in 1 of 12: images/03\.png"):
        load_subject_dataset(capture)


def test_an_unreadable_photo(capture):
    (capture / "images" / "05.png").write_bytes(b"no image")
    with pytest.raises(MVCustomError, match=r"05\.png: expected an image"):
        load_subject_dataset(capture)


def test_cameras_in_another_convention_are_told(capture):
    def flip(content):
        for entry in content["frames"]:  # OpenCV matrices in an OpenGL file
            entry["transform_matrix"] = (np.array(entry["transform_matrix"]) * [1, -1, -1, 1]).tolist()

    edit(capture, flip)
    with pytest.raises(CamerasError, match=r"only 0 of 12 cameras look at .* OpenGL poses given as OpenCV"):
        load_subject_dataset(capture)


def test_inverted_poses_are_told(buddha, tmp_path):
    content = json.loads((buddha / "transforms.json").read_text())
    for entry in content["frames"]:
        pose = np.array(entry["transform_matrix"]) * [1, -1, -1, 1]
        entry["transform_matrix"] = (np.linalg.inv(pose) * [1, -1, -1, 1]).tolist()
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    for part in ("images", "masks"):
        shutil.copytree(buddha / part, tmp_path / part)
    # The inverted cameras are a ring that looks at one point: only the silhouettes tell.
    with pytest.raises(CamerasError, match=r"world-to-camera matrices given as camera-to-world\? So they fit 9\d%"):
        load_subject_dataset(tmp_path, height=64, width=64)
    assert len(load_subject_dataset(tmp_path, height=64, width=64, masks="none")) == 13


def test_poor_masks_of_right_cameras_are_no_contradiction(buddha):
    capture = load_capture(buddha)
    masks = load_subject_dataset(buddha, height=48, width=85).views.masks
    masks[::4, :, :, :42] = 0  # the left half is missing in every fourth
    cameras = capture.cameras.cover(48, 85)
    assert convention_that_fits(cameras, masks) is None
    inverted = Cameras(cameras.world_to_camera, cameras.intrinsics, 48, 85)
    assert "world-to-camera matrices given as camera-to-world" in convention_that_fits(inverted, masks)


def test_a_single_stray_camera_is_a_warning(capture):
    def turn_around(content):
        content["frames"][2]["transform_matrix"] = (
            np.array(content["frames"][2]["transform_matrix"]) * [-1, 1, -1, 1]
        ).tolist()

    edit(capture, turn_around)
    with pytest.warns(UserWarning, match=r"1 of 12 cameras do not look at the subject: images/02\.png"):
        load_subject_dataset(capture)


def test_a_colmap_model_without_masks_is_a_dataset_too(capture):
    cameras = load_capture(capture).cameras
    model = capture / "sparse" / "0"
    save_cameras(
        model,
        Cameras(cameras.camera_to_world, cameras.intrinsics, HEIGHT, WIDTH),
        names=[f"{i:02d}.png" for i in range(NUM_VIEWS)],
    )
    (capture / "transforms.json").unlink()
    dataset = load_subject_dataset(capture)
    assert dataset.views.masks is None
    assert torch.equal(dataset.views.images, load_subject_dataset(capture, masks=capture / "masks").views.images)
