"""What fuzzing found in prompt files, trainers' settings, records and the command line."""

import json

import pytest
from fuzz.command_targets import run
from fuzz.settings_targets import ALIAS_BOMB
from fuzz.watch import attempt, bounded

from diffusers_mvcustom.cli.failures import failure_line
from diffusers_mvcustom.cli.prompt_file import read_prompts
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import read_record
from diffusers_mvcustom.training.command_line import parse_settings
from diffusers_mvcustom.training.subject_training_config import SubjectTrainingConfig
from diffusers_mvcustom.training.video_captions import read_metadata

DEEP = "[" * 3000


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("p.json", DEEP, "nested too deeply"),
        ("p.yaml", "[" * 500, "nested too deeply"),
        ("p.yaml", ALIAS_BOMB, "aliases are not read"),
        ("p.yaml", "- !!int ''", "not well formed"),
        ("p.yaml", "- !!timestamp x", "not well formed"),
        ("p.yaml", "- !!python/object/apply:os.system [true]", "not well formed"),
        ("p.yaml", '- "\\ud800"', "surrogate"),
        ("p.json", '["\\ud800"]', "surrogate"),
        ("p.json", json.dumps([{"prompt": "a", "seed": 2**64}]), "seed"),
        ("p.json", json.dumps([{"prompt": "a", "output": "a\0b"}]), "output"),
        ("p.json", json.dumps([{"prompt": "a", "output": "n" * 300}]), "output"),
        ("p.json", json.dumps([{"prompt": "a", "output": "..\\up"}]), "output"),
    ],
)
def test_prompt_files(folder, name, text, match):
    (folder / name).write_text(text)
    kind, error = attempt(folder, lambda: read_prompts(folder / name))
    assert kind == "refused"
    assert match in str(error)


def settings(folder, **changes):
    values = {"model": "tiny", "data": "photos", "output_dir": "out", "token": "<it>", **changes}
    (folder / "s.yaml").write_text(json.dumps(values))
    return lambda: parse_settings(
        SubjectTrainingConfig, ["--config", str(folder / "s.yaml")], program="t", description="", epilog=""
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prompts": ["{token.__class__}"]}, "prompts"),
        ({"prompts": ["{token:>99999999999}"]}, "prompts"),
        ({"validation_prompt": "{token!r}"}, "validation_prompt"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"rgb_loss_weight": float("inf")}, "rgb_loss_weight"),
    ],
)
def test_trainer_settings(folder, changes, match):
    kind, error = attempt(folder, settings(folder, **changes))
    assert kind == "refused"
    assert match in str(error)


@pytest.mark.parametrize("text", [ALIAS_BOMB, "[" * 500, "- 1", "model: !!int ''", "a" * 5])
def test_settings_that_no_trainer_has(folder, text):
    call = settings(folder)
    (folder / "s.yaml").write_text(text)
    kind, error = attempt(folder, call)
    assert kind == "refused"
    assert "s.yaml" in str(error)


def test_a_record_that_is_nested_too_deeply(folder):
    (folder / "generation.json").write_text(DEEP)
    assert attempt(folder, lambda: read_record(folder))[0] == "refused"


@pytest.mark.parametrize("name", ["../canary.png", "/canary.png", "a/../../canary.png", "..\\canary.png"])
def test_videos_of_a_metadata_file_stay_inside(folder, name):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name}))
    kind, error = attempt(folder, lambda: read_metadata(folder / "metadata.jsonl"))
    assert kind == "refused"
    assert "leads out" in str(error)


def test_a_table_that_is_none(folder):
    (folder / "metadata.csv").write_text("file_name,caption\na.mp4," + "x" * 200_000)
    assert attempt(folder, lambda: read_metadata(folder / "metadata.csv"))[0] == "refused"


# --- the command ---

GENERATE = ["generate", "--model", "m", "-o", "o", "--orbit", "2", "--prompt", "a"]


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["generate"], 2, "mvcustom generate: "),
        (["nothing"], 2, "mvcustom: "),
        (["cameras", "nothing"], 2, "mvcustom cameras: "),
        (["generate", "--mistyped"], 2, "mvcustom generate: "),
        ([*GENERATE, "--seed", str(2**64)], 2, "mvcustom generate: "),
        (["demo", "--device", "abacus"], 2, "mvcustom demo: "),
        (["cameras", "convert", "\x1b[31m.json", "o"], 1, "mvcustom: \\x1b[31m.json"),
        (["cameras", "convert", "n" * 5000, "o"], 1, "mvcustom: nnn"),
        (["train-lora", "--config", "nothing"], 1, "mvcustom: --config"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(tmp_path, arguments, code, start):
    ended, out, errors = run(arguments, tmp_path)
    assert ended == code
    assert errors.startswith(start)
    assert errors.count("\n") == 1
    assert len(errors) < 1500
    assert not out
    assert not list(tmp_path.iterdir())


def test_without_arguments_there_is_help(tmp_path):
    code, out, errors = run([], tmp_path)
    assert code in (0, 2)
    assert "Usage" in out + errors


def test_unexpected_errors_are_named_and_shown_with_debug(tmp_path):
    assert (
        failure_line("mvcustom", RuntimeError("no\nroom")) == "mvcustom: RuntimeError: no room (--debug shows where)"
    )
    assert failure_line("mvcustom", MemoryError()) == "mvcustom: MemoryError"
    with pytest.raises(MVCustomError), bounded():
        run(["cameras", "convert", "nothing.json", "o", "--debug"], tmp_path)
