import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from diffusers_mvcustom.toy import read_caption, render, sample_scene
from diffusers_mvcustom.toy.training.clips import NUM_FRAMES, export_clips, path_cameras
from diffusers_mvcustom.training.clip_geometry import ClipGeometry
from diffusers_mvcustom.training.video_sources import find_videos


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    export_clips(folder, "train", 3, size=16)
    return folder


def files(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_clip_is_a_folder_of_frames_and_a_caption(clips):
    frames = [f"{number:06d}/{frame:02d}.png" for number in range(3) for frame in range(NUM_FRAMES)]
    beside = [f"{number:06d}{suffix}" for number in range(3) for suffix in (".txt", ".geometry.safetensors")]
    assert files(clips).keys() == {*frames, *beside}
    scene = sample_scene("train", 1_000_001)
    expected = (render(scene, path_cameras("train", 1, 16)).images[5] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(clips / "000001" / "05.png")), expected)
    views, geometry = render(scene, path_cameras("train", 1, 16)), find_videos(str(clips))[1].geometry
    known = ClipGeometry.from_bytes(geometry.read())
    assert (known.cameras.height, known.cameras.width) == (4, 4)  # that of the latents
    torch.testing.assert_close(known.depth, views.depth[:, 0, 2::4, 2::4], rtol=1e-3, atol=0)
    assert torch.equal(known.subject > 0, F.max_pool2d(views.masks, 4)[:, 0] > 0)
    found = read_caption((clips / "000001.txt").read_text())
    assert found["category"] == scene.attributes.category


def test_an_interrupted_export_goes_on_where_it_stopped(clips, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupting(numbers):
        yield 0
        raise Interrupted

    with pytest.raises(Interrupted):
        export_clips(tmp_path, "train", 3, size=16, progress=interrupting)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["000000"]
    (tmp_path / "000000" / "00.png").write_bytes(b"looked at, not written again")
    export_clips(tmp_path, "train", 3, size=16)
    assert (tmp_path / "000000" / "00.png").read_bytes() == b"looked at, not written again"
    shutil.rmtree(tmp_path / "000000")
    export_clips(tmp_path, "train", 3, size=16)
    assert files(tmp_path) == files(clips)


def test_paths_go_around_the_subject_or_past_it():
    kinds = set()
    for number in range(12):
        cameras = path_cameras("train", number, 16)
        assert len(cameras) == NUM_FRAMES
        axes = cameras.optical_axes
        toward = -(cameras.centers * axes).sum(-1) / cameras.centers.norm(dim=-1)
        assert (toward > 0.9).all()
        steps = cameras.centers.diff(dim=0).norm(dim=-1)
        assert 0 < steps.max() < 0.35
        turning = not torch.allclose(axes[0], axes[-1], atol=1e-4)
        kinds.add(turning)
        assert turning == bool((toward > 0.999).all())  # around it: always at it; past it: in one direction
    assert kinds == {True, False}
