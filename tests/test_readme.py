"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.page_blocks import blocks_of
from docs.shell_blocks import check_command, commands_of

from diffusers_mvcustom.cameras import load_capture

PAGE = Path(__file__).parents[1] / "README.md"
README = PAGE.read_text(encoding="utf-8")


def block(marker):
    """The commands below a `<!-- marker -->`, without the installation."""
    text = re.search(rf"<!-- {marker} -->\n```bash\n(.*?)```", README, re.DOTALL).group(1)
    return re.sub(r"pip install ([^&\n]*&& |.*\n)", "", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def run(command, folder):
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"]}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_the_demo_and_python(folder):
    demo = block("demo").strip()
    assert demo == "mvcustom demo"
    # The whole demo takes a minute; tests/test_demo.py has its details.
    assert "2 prompts × 2 × 3 views of 64 × 64" in run(["bash", "-euc", f"{demo} --views 3 --steps 3"], folder)
    for name in (
        "overview.png",
        "overview.gif",
        "prompt-1/without/views.gif",
        "prompt-2/with-dfr-and-clc/sparse/0/images.bin",
    ):
        assert (folder / "out" / "demo" / name).is_file()
    assert len(load_capture(folder / "out" / "demo" / "prompt-1" / "without")) == 3
    (folder / "models").symlink_to(Path(__file__).parents[1] / "models")
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        run([sys.executable, "-c", code], folder)
    assert len(load_capture(folder / "out" / "car")) == 8


def test_from_photos_to_views(folder, buddha):
    (folder / "buddha").symlink_to(buddha)
    printed = run(["bash", "-euc", block("buddha")], folder)
    assert "13 cameras of 684 × 385" in printed
    assert "13 reference views of 684 × 385" in printed
    assert "13 views of 64 × 64" in printed
    assert len(load_capture(folder / "out" / "buddha-views")) == 13


def test_training_a_subject(folder, buddha):
    if not (folder / "buddha").exists():
        (folder / "buddha").symlink_to(buddha)
    (folder / "train_lora.py").symlink_to(Path(__file__).parents[1] / "train_lora.py")
    run(["bash", "-euc", block("train")], folder)
    assert (folder / "out" / "buddha-training" / "subject" / "feature_nerf.safetensors").is_file()
    assert (folder / "out" / "buddha-training" / "losses.png").is_file()


def test_the_two_commands():
    assert block("tests").strip() == "pytest"  # after the installation
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in README


def test_what_needs_downloads_can_be_parsed():
    parsed = [block for block in blocks_of(PAGE) if block.only_parsed]
    assert parsed
    for one in parsed:
        for words in commands_of(one):
            check_command(words)
