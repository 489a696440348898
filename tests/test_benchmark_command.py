"""`mvcustom benchmark`, run as users run it: on random weights, at its smallest."""

import json

import pytest

from diffusers_mvcustom.cli import main

TRAINING = """
model: tiny
initializer_token: mug
resolution: 64
max_train_steps: 2
train_batch_size: 1
crops_per_photo: 1
num_references: 1
num_generation_references: 2
feature_nerf: {num_samples: 2}
prior_probability: 0.0
rank: 1
"""


@pytest.mark.slow
def test_a_quick_run_writes_report_and_sheets_and_goes_on_where_it_stopped(mvcustom, tmp_path):
    (tmp_path / "training.yaml").write_text(TRAINING)
    arguments = (
        "--suite", "toy", "--model", "tiny", "--training", "training.yaml", "--training-steps", 1, "--quick",
        "--views", 4, "--steps", 2, "--training-views", 3, "--split", "validation", "-o", "report",
    )  # fmt: skip
    process = mvcustom("benchmark", *arguments)
    assert "7 methods × 2 sets of 4 views" in process.stdout
    results = json.loads((tmp_path / "report" / "toy_benchmark.json").read_text())
    assert results["settings"]["split"] == "validation"
    assert results["environment"]["commit"]
    assert results["training"] == "training.yaml, 1 steps"
    (record,) = {json.loads(file.read_text())["training"]["steps"] for file in tmp_path.rglob("subject_config.json")}
    assert record == 1
    assert (tmp_path / "report" / "toy_benchmark.md").read_text().count("| full |") == 3  # all, and each path alone
    assert len(list((tmp_path / "report" / "toy_benchmark").glob("*.jpg"))) == 2
    again = mvcustom("benchmark", *arguments)
    assert json.loads((tmp_path / "report" / "toy_benchmark.json").read_text())["methods"] == results["methods"]
    assert "0.0 min" in again.stdout or "0.1 min" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--model", "nowhere"), "model"),
        (("--model", "tiny", "--reader", "nowhere"), "reader"),
        (("--model", "tiny", "--split", "test"), "split"),
        (("--model", "tiny", "--training", "nowhere"), "config"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_made(tmp_path, capsys, arguments, named):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *arguments, "-o", str(tmp_path / "report")])
    assert ended.value.code == 1
    assert named in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("toy_benchmark.*"))


def test_choices_are_not_made_on_subjects_of_reports(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "--suite", "toy-choices", "--split", "unseen_subjects", "-o", str(tmp_path / "report")])
    assert ended.value.code == 2
    assert "validation" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
