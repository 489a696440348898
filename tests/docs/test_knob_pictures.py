"""The script that makes the pictures of generating.md runs, small; the page stays as it is."""

import subprocess
import sys

import PIL.Image
from docs.page_blocks import DOCS


def test_pictures_of_hooks_are_made(tmp_path):
    page = (DOCS / "generating.md").read_bytes()
    script = DOCS / "pictures" / "make_knob_pictures.py"
    small = ["--only", "hooks", "--views", "2", "--steps", "2", "-o", tmp_path]
    made = subprocess.run([sys.executable, script, *small], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    with PIL.Image.open(tmp_path / "hooks.webp") as sheet:
        assert sheet.width > 2 * 64
    assert (DOCS / "generating.md").read_bytes() == page
