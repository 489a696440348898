"""Ctrl-C leaves a state that one can go on from. Training and preparing have their own tests beside their code."""

import json

import pytest
from accelerate import PartialState
from fuzz.command_targets import run
from fuzz.subject_targets import tiny_subject
from PIL import Image
from reliability.events import ctrl_c_when, digest

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.export import save_views
from diffusers_mvcustom.files.whole import replaced_file, replaced_folder

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="session")
def model(tiny_model_without_depth):
    return tiny_model_without_depth


def generate(folder, model, *more):
    PartialState._reset_state()
    given = ("generate", "--model", model, "--orbit", 2, "--steps", 1, "--device", "cpu", "-o", "out", *more)
    return run([str(argument) for argument in given], folder)


def interrupted(code, errors):
    return code == 130 and errors.splitlines()[-1] == "mvcustom: interrupted" and "Traceback" not in errors


def test_while_one_set_of_views_is_written(model, tmp_path):
    with ctrl_c_when("open", "0001.png"):
        code, _, errors = generate(tmp_path, model, "--prompt", "a mug")
    assert interrupted(code, errors)
    assert not list(tmp_path.iterdir())
    assert generate(tmp_path, model, "--prompt", "a mug")[0] == 0


@pytest.mark.parametrize("count", range(1, 8))
def test_while_views_take_the_place_of_earlier_ones(tmp_path, count):
    """Every file and folder is the old one or the new one, whole."""
    cameras, out = Cameras.orbit(2, height=8, width=8), tmp_path / "out"
    old, new = ([[Image.new("RGB", (8, 8), color)] * 2] for color in ("red", "blue"))
    save_views(tmp_path / "new", new, cameras, formats=["gif", "colmap"])
    save_views(out, old, cameras, formats=["gif", "colmap"])
    before, after = digest(out), digest(tmp_path / "new")
    with pytest.raises(KeyboardInterrupt), ctrl_c_when("os.rename", count=count):
        save_views(out, new, cameras, formats=["gif", "colmap"])
    there = digest(out)
    assert there.keys() == before.keys()
    assert all(content in (before[name], after[name]) for name, content in there.items())
    assert {name.split("/")[0] for name in there} == {name.split("/")[0] for name in before}


def test_many_prompts_go_on_where_they_stopped(model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a mug\na car\na toy\n")
    with ctrl_c_when("open", "0001.png", count=2):  # of the second prompt
        code, _, errors = generate(tmp_path, model, "--prompts", "prompts.txt")
    assert interrupted(code, errors)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0000"]
    before = digest(tmp_path / "out" / "0000")
    assert json.loads(before["generation.json"])["prompt"] == "a mug"
    code, out, _ = generate(tmp_path, model, "--prompts", "prompts.txt")
    assert code == 0
    assert "3 prompts: 2 generated, 1 there already" in out
    assert digest(tmp_path / "out" / "0000") == before


def test_while_an_evaluation_reads(model, tmp_path):
    assert generate(tmp_path, model, "--prompt", "a mug")[0] == 0
    before = digest(tmp_path)
    with ctrl_c_when("open", "0001.png"):
        code, _, errors = run(["evaluate", "out", "--device", "cpu"], tmp_path)
    assert interrupted(code, errors)
    assert digest(tmp_path) == before


def test_while_a_model_is_written(tmp_path):
    with ctrl_c_when("open", "model_index.json"):
        code, _, errors = run(["random-model", "model"], tmp_path)
    assert interrupted(code, errors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("event", "count"), [("os.mkdir", 1), ("os.rename", 1), ("os.rename", 2), ("shutil.rmtree", 1)]
)
def test_at_every_step_of_replacing_a_folder(tmp_path, event, count):
    """The folder is the old one or the new one, whole."""
    folder = tmp_path / "folder"
    with replaced_folder(folder) as new:
        (new / "content").write_text("old")
    with pytest.raises(KeyboardInterrupt), ctrl_c_when(event, count=count), replaced_folder(folder) as new:
        (new / "content").write_text("new")
    assert (folder / "content").read_text() in ("old", "new")
    assert event != "os.mkdir" or (folder / "content").read_text() == "old"


def test_while_a_file_or_a_subject_is_written(tmp_path):
    subject = tiny_subject()
    subject.save_pretrained(tmp_path / "subject")
    (tmp_path / "file").write_text("old")
    before = digest(tmp_path)
    with pytest.raises(KeyboardInterrupt), ctrl_c_when("open", "001.png"):
        subject.save_pretrained(tmp_path / "subject")
    with pytest.raises(KeyboardInterrupt), ctrl_c_when("open", ".new"), replaced_file(tmp_path / "file") as new:
        new.write_text("new")
    assert digest(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
