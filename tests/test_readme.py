"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.page_blocks import Block, blocks_of
from docs.shell_blocks import check_command, commands_of, inside, run_command

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


def run_block(marker, folder):
    """Runs the commands below a marker in this process, whose imports are there."""
    with inside(folder):
        for words in commands_of(Block(PAGE, 0, "bash", block(marker))):
            run_command(words)


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


def test_from_posed_photos_to_views(folder, capsys):
    run_block("toy", folder)
    printed = capsys.readouterr().out
    assert "30 photos of a yellow car" in printed
    assert "30 cameras of 64 × 64" in printed
    assert "4 views of 64 × 64" in printed
    assert (folder / "out" / "training" / "losses.png").is_file()
    assert len(load_capture(folder / "out" / "views")) == 4


def test_photos_of_a_real_thing(folder, buddha, capsys):
    (folder / "buddha").symlink_to(buddha)
    run_block("buddha", folder)
    assert "13 cameras of 684 × 385" in capsys.readouterr().out
    assert (folder / "out" / "buddha" / "subject" / "feature_nerf.safetensors").is_file()
    assert len(load_capture(folder / "out" / "heads")) == 10  # 3 are held out


def test_the_two_commands():
    assert block("tests").strip() == "pytest"  # after the installation
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in README


def test_what_needs_downloads_can_be_parsed():
    parsed = [block for block in blocks_of(PAGE) if block.only_parsed]
    assert parsed
    for one in parsed:
        for words in commands_of(one):
            check_command(words)
