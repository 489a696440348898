"""What the README shows is what happens."""

import re
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
    """Runs the commands below a marker in this process, whose imports are there; trainings of 4 steps instead of 20."""
    text = re.sub(r"--max_train_steps 20\b", "--max_train_steps 4", block(marker))
    with inside(folder):
        for words in commands_of(Block(PAGE, 0, "bash", text)):
            run_command(words)


def test_the_demo(folder, capsys):
    demo = block("demo").strip()
    assert demo == "mvcustom demo"
    # The whole demo takes a minute; tests/test_demo.py has its details.
    with inside(folder):
        run_command([*demo.split(), "--views", "3", "--steps", "2"])
    assert "2 prompts × 2 × 3 views of 64 × 64" in capsys.readouterr().out
    for name in (
        "overview.png",
        "overview.gif",
        "prompt-1/without/views.gif",
        "prompt-2/with-dfr-and-clc/sparse/0/images.bin",
    ):
        assert (folder / "out" / "demo" / name).is_file()
    assert len(load_capture(folder / "out" / "demo" / "prompt-1" / "without")) == 3


def test_python(folder):
    (folder / "models").symlink_to(Path(__file__).parents[1] / "models")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    with inside(folder):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
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
