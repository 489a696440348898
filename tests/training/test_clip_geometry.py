"""Depth and cameras of clips: read and written, cropped with the frames, and noise carried by them."""

import pytest
import torch
from safetensors.torch import save

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy.rendering import render
from diffusers_mvcustom.toy.splits import sample_scene
from diffusers_mvcustom.training.clip_geometry import ClipGeometry


def plane(count=3, height=16, width=16, shift=0.25, distance=1.0):
    """A wall that cameras move past sideways: each frame sees it `shift` × width / 2 pixels farther."""
    cameras = Cameras.from_focal(torch.eye(4).repeat(count, 1, 1), width / 2.0, height=height, width=width)
    cameras.camera_to_world[:, 0, 3] = torch.arange(count) * shift * distance
    return ClipGeometry(torch.full((count, height, width), distance), cameras)


def white(count=3, height=16, width=16, channels=4):
    return torch.randn(channels, count, height, width, generator=torch.Generator().manual_seed(0))


def test_noise_moves_with_what_is_seen():
    noise = white()
    carried = plane().carried(noise, anchor=1)  # two pixels a frame
    assert torch.equal(carried[:, 1], noise[:, 1])
    torch.testing.assert_close(carried[:, 2, :, 1:13], noise[:, 1, :, 3:15], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(carried[:, 0, :, 3:15], noise[:, 1, :, 1:13], rtol=1e-3, atol=1e-3)
    # What the anchor did not see keeps its own.
    assert torch.equal(carried[:, 2, :, 14:], noise[:, 2, :, 14:])


def test_mirrored_frames_have_mirrored_noise():
    from dataclasses import replace

    noise, geometry = white(), plane()
    mirrored = replace(geometry, mirrored=True).carried(noise, anchor=0)
    assert torch.equal(mirrored, geometry.carried(noise.flip(-1), anchor=0).flip(-1))
    torch.testing.assert_close(mirrored[:, 1, :, 3:15], noise[:, 0, :, 1:13], rtol=1e-3, atol=1e-3)


def test_the_subject_keeps_its_own_noise():
    geometry = plane()
    subject = torch.zeros_like(geometry.depth)
    subject[:, 4:8, 4:8] = 1.0
    noise = white()
    carried = ClipGeometry(geometry.depth, geometry.cameras, subject).carried(noise, anchor=1)
    assert torch.equal(carried[:, 2, 4:8, 4:8], noise[:, 2, 4:8, 4:8])
    assert not torch.equal(carried[:, 2, 10:14, 4:8], noise[:, 2, 10:14, 4:8])


@pytest.mark.parametrize("size", [(8, 8), (12, 24)])
def test_noise_of_another_size_than_the_depth(size):
    noise = white(height=size[0], width=size[1])
    carried, step = plane().carried(noise, anchor=0), size[1] // 8
    inside = slice(1, size[0] - 1), slice(1, size[1] - 1 - step)
    moved = slice(inside[1].start + step, inside[1].stop + step)
    torch.testing.assert_close(
        carried[:, 1, inside[0], inside[1]], noise[:, 0, inside[0], moved], rtol=1e-3, atol=1e-3
    )


def test_carried_noise_stays_white():
    """In a scene with things and a sky: variance 1, no correlation between neighbours beyond what sampling gives."""
    cameras = Cameras.orbit(5, azimuth=(-20, 20), height=32, width=32)
    views = render(sample_scene("train", 3), cameras)
    geometry = ClipGeometry(views.depth[:, 0], cameras, views.masks[:, 0])
    noise = white(5, 32, 32, channels=64)
    carried = geometry.carried(noise, anchor=2)
    assert (carried[:, 1] != noise[:, 1]).any(dim=0).float().mean() > 0.4  # much of it is the anchor's
    torch.testing.assert_close(carried.var(dim=0).mean(), torch.tensor(1.0), atol=0.05, rtol=0)


def test_a_crop_sees_what_the_whole_sees():
    """Noise carried in the lower right quarter of double size is the whole's there, where the anchor's quarter saw it."""
    whole = plane(height=16, width=16)
    part = whole.cropped(0.5, 0.5, 0.5, 0.5)
    assert part.depth.shape == whole.depth.shape
    torch.testing.assert_close(part.cameras.intrinsics[0], torch.tensor([[16.0, 0, 0], [0, 16.0, 0], [0, 0, 1]]))
    noise = white()
    carried = part.carried(noise, anchor=0)  # four pixels of the crop a frame
    torch.testing.assert_close(carried[:, 1, 1:15, 1:11], noise[:, 0, 1:15, 5:15], rtol=1e-3, atol=1e-3)
    assert torch.equal(whole.cropped(0.0, 0.0, 1.0, 1.0).depth, whole.depth)


def test_written_and_read_again(tmp_path):
    geometry = plane()
    geometry = ClipGeometry(geometry.depth, geometry.cameras, torch.rand(3, 16, 16))
    geometry.save(tmp_path / "a.geometry.safetensors")
    again = ClipGeometry.from_bytes((tmp_path / "a.geometry.safetensors").read_bytes())
    torch.testing.assert_close(again.depth, geometry.depth, rtol=1e-3, atol=0)
    torch.testing.assert_close(again.subject, geometry.subject, rtol=1e-3, atol=1e-3)
    assert again.cameras.allclose(geometry.cameras)
    assert again.frames([0, 2]).cameras.allclose(geometry.cameras[[0, 2]])
    # Scenes in kilometres or in micrometres are no farther from the truth.
    for scale in (1e-6, 1e6):
        small = ClipGeometry(geometry.depth * scale, geometry.cameras)
        small.save(tmp_path / "c.geometry.safetensors")
        again = ClipGeometry.from_bytes((tmp_path / "c.geometry.safetensors").read_bytes())
        torch.testing.assert_close(again.depth, small.depth, rtol=1e-3, atol=0)
    # Where nothing is near depth may be infinite, which half precision and meshes are spared.
    far = geometry.depth.clone()
    far[:, :4] = torch.inf
    ClipGeometry(far, geometry.cameras).save(tmp_path / "b.geometry.safetensors")
    again = ClipGeometry.from_bytes((tmp_path / "b.geometry.safetensors").read_bytes())
    assert again.depth.isinf().sum() == 3 * 4 * 16
    assert again.carried(white(), anchor=0).isfinite().all()


def test_files_that_cannot_be(tmp_path):
    geometry = plane()
    values = {
        "depth": geometry.depth,
        "camera_to_world": geometry.cameras.camera_to_world,
        "intrinsics": geometry.cameras.intrinsics.contiguous(),
    }
    for content, match in (
        (b"no safetensors", "expected a safetensors file"),
        (save({"depth": geometry.depth}), "missing: camera_to_world, intrinsics"),
        (save({**values, "depth": geometry.depth[0].contiguous()}), r"depth: expected shape \(F, h, w\)"),
        (save({**values, "depth": geometry.depth[:2].contiguous()}), r"depth: expected shape \(3, 16, 16\)"),
        (save({**values, "depth": -geometry.depth}), "depth: expected z-depth above 0"),
        (save({**values, "depth": geometry.depth * torch.nan}), "depth: expected z-depth above 0"),
        (save({**values, "subject": geometry.depth[:, :8].contiguous()}), r"subject: expected shape \(3, 16, 16\)"),
    ):
        with pytest.raises(MVCustomError, match=match):
            ClipGeometry.from_bytes(content)
