"""Which photos share a lens, where features are looked for, and what happens to COLMAP's own errors."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from textured_scene import ring, write_photos

from diffusers_mvcustom.data import colmap_attempt
from diffusers_mvcustom.data.photos import Photo, find_photos, read_photos
from diffusers_mvcustom.data.structure_from_motion import _groups, find_cameras
from diffusers_mvcustom.errors import MVCustomError


def test_photos_of_one_size_and_one_lens_share_a_camera():
    photos = [
        Photo(Path("a"), 4000, 3000, 3000.0, "One 0.750"),
        Photo(Path("b"), 3000, 4000, 3000.0, "One 0.750"),
        Photo(Path("c"), 4000, 3000, 3000.0, "One 0.750"),
        Photo(Path("d"), 4000, 3000, 9000.0, "One 2.250"),
        Photo(Path("e"), 4000, 3000),
    ]
    sizes = [(1600, 1200), (1200, 1600), (1600, 1200), (1600, 1200), (1600, 1200)]
    assert _groups(photos, list("abcde"), sizes) == [
        {"names": ["a", "c"], "camera_params": f"{3000 * 1600 / 4000},800.0,600.0,0"},
        {"names": ["b"], "camera_params": f"{3000 * 1200 / 3000},600.0,800.0,0"},
        {"names": ["d"], "camera_params": f"{9000 * 1600 / 4000},800.0,600.0,0"},
        {"names": ["e"], "camera_params": ""},  # nothing is known of it
    ]


def test_features_are_looked_for_in_the_masks_only(tmp_path):
    folder = write_photos(tmp_path / "photos", ring(24)[:3], 192, 256)
    photos = read_photos(folder, find_photos(folder))
    masks = []
    for photo in photos:
        masks.append(tmp_path / f"{photo.path.stem}.png")
        Image.new("L", (photo.width, photo.height)).save(masks[-1])
    with pytest.raises(MVCustomError, match=r"3 photos have too little texture .*something patterned"):
        find_cameras(folder, photos, masks=masks)


def test_photos_that_show_different_things_fail_for_lack_of_overlap(tmp_path):
    folder = write_photos(tmp_path / "photos", ring(3), 216, 288)
    photos = read_photos(folder, find_photos(folder))
    lines = []
    with pytest.raises(MVCustomError, match=r"3 photos could be placed.*overlap too little: move about 15°"):
        find_cameras(folder, photos, report=lines.append)
    assert any(line.startswith("standard settings: ") for line in lines)
    assert any(line.startswith("finer, affine features") for line in lines)


def test_an_error_inside_of_colmap_is_one_of_ours(tmp_path, monkeypatch):
    folder = write_photos(tmp_path / "photos", ring(24)[:3], 48, 64)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'Check failed: something' >&2\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(MVCustomError, match=r"COLMAP ended with exit code -6: .*Check failed: something"):
        find_cameras(folder, read_photos(folder, find_photos(folder)))


def test_the_attempt_is_a_program_that_needs_nothing_of_the_package(tmp_path):
    program = "import sys; import runpy; sys.argv = ['x', 'missing.json']\n"
    program += "sys.path.insert(0, 'first')\nsys.modules['diffusers_mvcustom'] = None\nsys.modules['torch'] = None\n"
    program += f"runpy.run_path({colmap_attempt.__file__!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert "FileNotFoundError" in ended.stderr  # it came as far as its job
