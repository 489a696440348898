"""The `mvcustom` command."""

import json
import re
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from PIL import Image

from diffusers_mvcustom.cameras import load_cameras, load_capture
from diffusers_mvcustom.cli import main


def test_the_command_as_a_process(tmp_path):
    """Everything else here runs in this process."""
    command = [sys.executable, "-m", "diffusers_mvcustom.cli", "cameras", "show", "nothing.json"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith("mvcustom: ")
    assert process.stderr.count("\n") == 1
    process = subprocess.run([*command[:3], "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0
    assert "generate" in process.stdout


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("app",),
        ("demo",),
        ("benchmark",),
        ("evaluate",),
        ("generate",),
        ("random-model",),
        ("prepare",),
        ("train-lora",),
        ("train-backbone",),
        ("subject", "create"),
        ("cameras", "show"),
        ("cameras", "convert"),
        ("toy", "photos"),
    ],
)
def test_every_command_has_help_with_an_example(mvcustom, command):
    text = mvcustom(*command, "--help").stdout.lower()
    assert "usage" in text
    assert not command or "example" in text


def test_from_posed_photos_to_views(mvcustom, cube_capture, tmp_path):
    mvcustom("random-model", "model")
    made = mvcustom(
        "subject", "create", cube_capture, "-o", "cube", "--model", "model", "--token", "<cube>", "--class-noun", "toy"
    )
    assert "12 reference views of 64 × 48" in made.stdout
    generated = mvcustom(
        "generate", "--model", "model", "--subject", "cube", "--prompt", "a <cube> toy by a lake",
        "--cameras", "references", "--views", 3, "--steps", 2, "-o", "out",
    )  # fmt: skip
    assert re.search(r"1 × 3 views of 64 × 64 in [\d.]+ s", generated.stdout)
    out = tmp_path / "out"
    assert len(list((out / "images").glob("*.png"))) == 3
    record = json.loads((out / "generation.json").read_text())
    assert (record["prompt"], record["token"]) == ("a <cube> toy by a lake", "<cube>")
    assert (record["num_inference_steps"], record["seed"]) == (2, 0)
    assert Image.open(out / "views.gif").n_frames == 3
    assert Image.open(out / "contact_sheet.png").size == (2 * 64, 2 * 64)
    capture = load_capture(out)
    assert len(capture.cameras) == 3
    assert all(path.is_file() for path in capture.image_paths)
    assert load_cameras(out / "sparse" / "0").allclose(capture.cameras, atol=1e-4)


def test_nothing_that_is_there_is_replaced_unasked(mvcustom, cube_capture, tmp_path):
    create = (
        "subject",
        "create",
        cube_capture,
        "-o",
        "cube",
        "--model",
        "tiny",
        "--token",
        "<cube>",
        "--class-noun",
        "toy",
    )
    mvcustom(*create)
    (tmp_path / "cube" / "samples").mkdir()
    assert "output: cube holds a subject" in mvcustom(*create, code=1).stderr
    assert (tmp_path / "cube" / "samples").is_dir()
    mvcustom(*create, "--overwrite")
    assert not (tmp_path / "cube" / "samples").exists()
    mvcustom("random-model", "model")
    before = (tmp_path / "model" / "unet" / "config.json").stat().st_mtime_ns
    assert "output: model holds a model" in mvcustom("random-model", "model", code=1).stderr
    assert (tmp_path / "model" / "unet" / "config.json").stat().st_mtime_ns == before
    mvcustom("random-model", "model", "--overwrite")


def test_a_subject_is_made_of_cameras_that_see_it_and_of_a_new_word(mvcustom, cube_capture, tmp_path):
    create = ("subject", "create", "-o", "cube", "--model", "tiny", "--class-noun", "toy", "--token")
    assert "already is a word" in mvcustom(*create, "toy", cube_capture, code=1).stderr
    wrong = tmp_path / "wrong"
    shutil.copytree(cube_capture, wrong)
    transforms = json.loads((wrong / "transforms.json").read_text())
    for frame in transforms["frames"]:  # OpenCV's axes: y down, z forward
        frame["transform_matrix"] = [[r[0], -r[1], -r[2], r[3]] for r in frame["transform_matrix"]]
    (wrong / "transforms.json").write_text(json.dumps(transforms))
    assert "0 of 12 cameras look at the point" in mvcustom(*create, "<cube>", wrong, code=1).stderr
    assert not (tmp_path / "cube").exists()


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        (
            "--model",
            "out/nowhere",
            "model: out/nowhere: there is no such folder, and as a Hub id it is not in the cache",
        ),
        ("--model", "tinny", "model: expected a folder, a Hub id such as you/base, or one of toy, tiny, sd15"),
        ("--model", "a/b/c", "model: a/b/c: there is no such folder, and it is no Hub id either"),
        ("--motion-adapter", "out/nowhere", "motion_adapter: out/nowhere: there is no such folder"),
        ("--depth-model", "out/nowhere", "depth_model: out/nowhere: there is no such folder"),
    ],
)
def test_a_model_that_is_not_there_is_named(mvcustom, monkeypatch, option, name, message):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    given = {"--model": "tiny", option: name}
    options = [word for pair in given.items() for word in pair]
    lines = mvcustom("generate", *options, "--prompt", "a", "--orbit", 2, "-o", "out", code=1).stderr.splitlines()
    assert any(line.startswith(f"mvcustom: {message}") for line in lines), lines


def test_a_device_that_is_not_there(mvcustom):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    ended = mvcustom(
        "generate", "--model", "tiny", "--prompt", "a", "--orbit", 2, "-o", "o", "--device", "cuda", code=2
    )
    assert "there is no cuda device here" in ended.stderr


def test_a_folder_named_like_a_random_model_comes_first(mvcustom, tmp_path):
    (tmp_path / "tiny").mkdir()
    ended = mvcustom("generate", "--model", "tiny", "--prompt", "a", "--orbit", 2, "-o", "out", code=1)
    assert "model: tiny cannot be loaded" in ended.stderr


def test_cameras_show_and_convert(mvcustom, cube_capture, tmp_path):
    shown = mvcustom("cameras", "show", cube_capture / "transforms.json", "--normalize", "-o", "plot.png")
    assert "12 cameras of 64 × 48" in shown.stdout
    assert Image.open(tmp_path / "plot.png").size[0] > 200
    mvcustom("cameras", "convert", cube_capture / "transforms.json", "sparse", "--format", "colmap")
    original = load_cameras(cube_capture / "transforms.json")
    assert load_cameras(tmp_path / "sparse").allclose(original, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cameras", "show", "nothing.json"), "nothing.json"),
        (("generate", "--model", "nothing", "--prompt", "a", "--orbit", 2, "-o", "out"), "nothing"),
    ],
)
def test_errors_are_one_line(mvcustom, tmp_path, arguments, message):
    process = mvcustom(*arguments, code=1)
    lines = [line for line in process.stderr.splitlines() if line.startswith("mvcustom: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()
    assert "Traceback" in mvcustom("--debug", *arguments, code=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--model", "m", "--prompt", "a", "-o", "out"),
        ("generate", "--model", "m", "--prompt", "a", "--orbit", 2, "--spiral", 2, "-o", "out"),
        ("generate", "--model", "m", "--prompt", "a", "--orbit", 2, "-o", "out", "--dtype", "float8"),
        ("generate", "--model", "m", "--prompt", "a", "--orbit", 2, "-o", "out", "--mistyped", 1),
    ],
)
def test_wrong_options_are_refused(mvcustom, arguments):
    mvcustom(*arguments, code=2)


def test_an_option_that_takes_one_value_is_given_once(mvcustom):
    for twice in (("--subject", "a", "--subject", "b"), ("--subject", "a", "--subject=b")):
        refused = mvcustom("generate", "--model", "tiny", "--prompt", "a", "--prompt", "b", *twice, "-o", "o", code=2)
        assert "--subject: given more than once" in refused.stderr
    refused = mvcustom("cameras", "show", "a.json", "--height", 3, "--height", 4, code=2).stderr
    assert "--height: given more than once" in refused


def test_an_option_of_two_numbers_says_so(mvcustom):
    refused = mvcustom("generate", "--prompt", "a", "--orbit", 2, "--azimuth", 30, "-o", "out", code=2).stderr
    assert "--azimuth takes 2 numbers, one after the other" in refused


def test_the_version(mvcustom):
    assert re.fullmatch(r"diffusers-mvcustom \d[\w.+]*\n", mvcustom("--version").stdout)


def test_prepared_photos_are_no_views_and_no_subject(mvcustom, cube_capture, tmp_path):
    mvcustom("prepare", cube_capture, "-o", "cube", "--class-noun", "mug")
    before = sorted((tmp_path / "cube").rglob("*"))
    assert "these are the photos of a subject" in mvcustom("evaluate", "cube", code=1).stderr
    assert sorted((tmp_path / "cube").rglob("*")) == before
    used = ("generate", "--model", "tiny", "--subject", "cube", "--prompt", "a", "--orbit", 2, "-o", "out")
    assert "of which `mvcustom train-lora --data` makes a subject" in mvcustom(*used, code=1).stderr


def test_photos_of_a_toy_subject(tmp_path, capsys):
    photos = str(tmp_path / "photos")
    with pytest.raises(SystemExit) as stop:
        main(["toy", "photos", photos, "--index", "4", "--count", "5", "--size", "32"])
    assert stop.value.code == 0
    assert "5 photos of a yellow car with a blue roof" in capsys.readouterr().out
    capture = load_capture(tmp_path / "photos" / "transforms.json")
    assert len(capture.cameras) == 5
    assert (capture.cameras.height, capture.cameras.width) == (32, 32)
    assert len(list((tmp_path / "photos" / "masks").iterdir())) == 5
    before = (tmp_path / "photos" / "transforms.json").read_bytes()
    for arguments, reason in ((["photos"], "is there already"), (["other", "--split", "nowhere"], "expected one of")):
        with pytest.raises(SystemExit) as stop:
            main(["toy", "photos", str(tmp_path / arguments[0]), *arguments[1:]])
        assert stop.value.code == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert (tmp_path / "photos" / "transforms.json").read_bytes() == before
