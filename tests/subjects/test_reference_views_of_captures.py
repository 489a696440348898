"""From photos with a camera file to reference views, on a synthetic capture and on real photos."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_capture import HEIGHT, WIDTH

from diffusers_mvcustom.cameras import load_capture, normalize_cameras
from diffusers_mvcustom.cameras.distortion import Distortion
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.subjects import ReferenceViews, SubjectAdapter


def of_subject(folder, **size) -> tuple[ReferenceViews, object]:
    capture = load_capture(folder)
    cameras, frame = normalize_cameras(capture.cameras)
    return ReferenceViews.from_capture(capture.with_cameras(cameras), **size), frame


@pytest.fixture
def capture_folder(cube_capture, tmp_path):
    return shutil.copytree(cube_capture, tmp_path / "capture")


def test_a_capture_gives_its_photos_masks_and_cameras(cube_capture, cube_views):
    views = ReferenceViews.from_capture(load_capture(cube_capture))
    assert torch.equal(views.images, cube_views.images)
    assert torch.equal(views.masks, cube_views.masks)
    assert views.cameras.allclose(cube_views.cameras)
    assert len(set(views.names)) == 12


def test_reading_at_another_size_is_reading_and_then_covering(cube_capture):
    capture = load_capture(cube_capture)
    views = ReferenceViews.from_capture(capture, height=32, width=24)
    expected = ReferenceViews.from_capture(capture).cover(32, 24)
    assert torch.equal(views.images, expected.images)
    assert torch.equal(views.masks, expected.masks)
    assert views.cameras.allclose(expected.cameras)
    with pytest.raises(MVCustomError, match="both or neither"):
        ReferenceViews.from_capture(capture, height=32)


def test_a_mask_of_another_size_is_named(capture_folder):
    Image.new("L", (30, 20)).save(capture_folder / "masks" / "03.png")
    with pytest.raises(MVCustomError, match=r"03\.png: expected 48 × 64 pixels .* got 20 × 30"):
        ReferenceViews.from_capture(load_capture(capture_folder))


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_an_unreadable_photo_is_named(capture_folder, content):
    file = capture_folder / "images" / "07.png"
    capture = load_capture(capture_folder)
    file.write_bytes(file.read_bytes()[:300] if content is None else content)
    with pytest.raises(MVCustomError, match=r"07\.png: expected an image"):
        ReferenceViews.from_capture(capture)
    file.unlink()
    with pytest.raises(MVCustomError, match=r"07\.png: there is no such image"):
        ReferenceViews.from_capture(capture)


def test_photos_without_masks_are_all_or_none(capture_folder):
    file = capture_folder / "transforms.json"
    content = json.loads(file.read_text())
    del content["frames"][2]["mask_path"]
    file.write_text(json.dumps(content))
    with pytest.raises(MVCustomError, match=r"masks for all photos or for none.*02\.png"):
        ReferenceViews.from_capture(load_capture(capture_folder))
    for frame in content["frames"]:
        frame.pop("mask_path", None)
    file.write_text(json.dumps(content))
    assert ReferenceViews.from_capture(load_capture(capture_folder)).masks is None


def test_photos_without_files_are_refused(cube_capture):
    capture = load_capture(cube_capture)
    capture = replace(capture, image_paths=(None, *capture.image_paths[1:]))
    with pytest.raises(MVCustomError, match="an image for every camera"):
        ReferenceViews.from_capture(capture)


def test_lens_distortion_is_undone_in_photos_and_masks(cube_capture, tmp_path):
    """Photos that the lens bent come back as the pinhole photos that they were bent from, away from the rim."""
    capture = load_capture(cube_capture)
    lens = Distortion(radial=(3.0,))
    y, x = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    expected = ReferenceViews.from_capture(capture)
    focal, center = expected.cameras.focal[0, 0].item(), np.array([WIDTH / 2, HEIGHT / 2])
    bent = (np.stack([x, y], -1) - center) / focal  # a pixel of the lens's photo; invert the lens by fixed-point steps
    straight = bent.copy()
    for _ in range(200):
        straight = bent / (1 + 3.0 * (straight**2).sum(-1, keepdims=True))
    column, row = np.moveaxis(straight * focal + center - 0.5, -1, 0).round().astype(int)
    files = {}
    for kind, pixels in (("image_paths", expected.images), ("mask_paths", expected.masks)):
        photos = (pixels[:, :, row.clip(0, HEIGHT - 1), column.clip(0, WIDTH - 1)] * 255).round().byte().numpy()
        files[kind] = tuple(tmp_path / f"{kind}-{i}.png" for i in range(len(photos)))
        for file, photo in zip(files[kind], photos):
            Image.fromarray(photo.transpose(1, 2, 0).squeeze()).save(file)
    capture = replace(capture, **files)
    undone, left = ReferenceViews.from_capture(replace(capture, distortion=lens)), ReferenceViews.from_capture(capture)
    for kind in ("images", "masks"):
        error, error_if_left = (
            (getattr(views, kind) - getattr(expected, kind)).abs()[..., 8:-8, 8:-8].mean() for views in (undone, left)
        )
        assert error < 0.6 * error_if_left  # the photos were bent without interpolation
    assert undone.cameras.allclose(expected.cameras)


# --- real photos ---


def test_real_photos_become_a_subject_that_changes_nothing_until_trained(buddha, unet, tmp_path):
    views, frame = of_subject(buddha, height=48, width=80)
    assert len(views) == 13
    assert views.cameras.centers.norm(dim=-1).max().item() == pytest.approx(1, abs=1e-5)
    assert 0.02 < views.masks.mean() < 0.6
    adapter = SubjectAdapter.create(unet, views, "<buddha>", "statue", subject_frame=frame)
    adapter.check_cameras(views.cameras)
    adapter.save_pretrained(tmp_path / "subject")
    loaded = SubjectAdapter.from_pretrained(tmp_path / "subject")
    assert loaded.config == adapter.config
    assert loaded.config.subject_frame == frame
    assert torch.equal(loaded.references.images, views.images)
    assert torch.equal(loaded.references.masks, views.masks)
    assert torch.equal(loaded.references.cameras.camera_to_world, views.cameras.camera_to_world)
    assert torch.equal(loaded.references.cameras.intrinsics, views.cameras.intrinsics)
    state = adapter.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    sample, text = torch.randn(1, 4, 3, 12, 20, generator=generator), torch.randn(3, 7, 32, generator=generator)
    with torch.no_grad():
        expected = unet(sample, 500, encoder_hidden_states=text).sample
        loaded.attach(unet)
        assert torch.equal(unet(sample, 500, encoder_hidden_states=text).sample, expected)


def test_real_photos_selected_for_a_generation_come_from_all_around(buddha):
    views, _ = of_subject(buddha, height=24, width=40)
    directions = torch.nn.functional.normalize(views.cameras.centers, dim=-1)
    chosen = torch.nn.functional.normalize(views.select(6).cameras.centers, dim=-1)
    coverage = (directions @ chosen.T).amax(dim=1).min()  # the photo farthest from a chosen one
    first = (directions @ directions[:6].T).amax(dim=1).min()
    assert coverage > first
    apart = (chosen @ chosen.T - 2 * torch.eye(6)).max()
    assert apart < (directions[:6] @ directions[:6].T - 2 * torch.eye(6)).max()


def test_real_photos_at_full_size_keep_their_bytes(buddha):
    views, _ = of_subject(buddha)
    capture = load_capture(buddha)
    assert (views.height, views.width) == (385, 684)
    with Image.open(capture.image_paths[4]) as image:
        assert np.array_equal((views.images[4].permute(1, 2, 0) * 255).round().byte().numpy(), np.array(image))
    with Image.open(capture.mask_paths[4]) as mask:
        assert np.array_equal((views.masks[4, 0] * 255).round().byte().numpy(), np.array(mask.convert("L")))
