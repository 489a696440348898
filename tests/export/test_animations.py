import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import save_animation
from diffusers_mvcustom.export.animations import check_animation

COLORS = ("red", "lime", "blue", "white")


@pytest.fixture
def views():
    return [Image.new("RGB", (46, 30), color) for color in COLORS]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_pictures_that_move(views, tmp_path, kind):
    save_animation(tmp_path / f"views.{kind}", views, fps=5)
    with Image.open(tmp_path / f"views.{kind}") as moving:
        assert (moving.format, moving.n_frames, moving.size) == (kind.upper(), 4, (46, 30))
        assert moving.info["loop"] == 0
        for i, view in enumerate(views):
            moving.seek(i)
            shown = np.asarray(moving.convert("RGB"), dtype=int)
            assert moving.info["duration"] == 200
            assert np.abs(shown - np.asarray(view, dtype=int)).max() <= 6
    assert [file.name for file in tmp_path.iterdir()] == [f"views.{kind}"]


@pytest.mark.parametrize("size", [(46, 30), (45, 31)])
def test_video(tmp_path, size):
    views = [Image.new("RGB", size, color) for color in COLORS]
    save_animation(tmp_path / "views.mp4", views, fps=4)
    video = iio.imread(tmp_path / "views.mp4", plugin="FFMPEG")
    width, height = (side + side % 2 for side in size)
    assert video.shape == (4, height, width, 3)
    for shown, view in zip(video, views):
        middle = shown[8:-8, 8:-8].astype(int)
        assert np.abs(middle - np.asarray(view)[10, 10].astype(int)).max() <= 12
    assert iio.immeta(tmp_path / "views.mp4", plugin="FFMPEG")["fps"] == 4
    assert [file.name for file in tmp_path.iterdir()] == ["views.mp4"]


def test_a_video_without_its_writer_is_a_clear_error(tmp_path):
    """In a Python without imageio-ffmpeg, as after an install without the extra."""
    code = (
        "import sys\n"
        "sys.modules['imageio_ffmpeg'] = None\n"
        "from diffusers_mvcustom.export import check_export\n"
        "check_export('views.webp')\n"
        "check_export('views.mp4')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "pip install 'diffusers-mvcustom[video]'" in process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "fps", "message"),
    [("avi", 8, "gif, mp4, webp"), ("gif", 0, "fps"), ("gif", 2.5, "fps"), ("webp", True, "fps")],
)
def test_what_cannot_be_written_is_refused(kind, fps, message):
    with pytest.raises(MVCustomError, match=message):
        check_animation(kind, fps)


def test_an_interrupted_write_leaves_what_was_there(views, tmp_path):
    (tmp_path / "views.gif").write_bytes(b"before")
    with pytest.raises(AttributeError):
        save_animation(tmp_path / "views.gif", [*views, "no picture"])
    assert (tmp_path / "views.gif").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1
