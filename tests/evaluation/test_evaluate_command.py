"""`mvcustom evaluate` on what `mvcustom generate` writes."""

import json
import shutil

import pytest
import torch
from evaluation.view_sets import textured_views
from typer.testing import CliRunner

from diffusers_mvcustom.cli import app
from diffusers_mvcustom.cli.evaluate import _sets_of_views
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import read_record, save_views
from diffusers_mvcustom.models.feature_nerf_config import FeatureNeRFConfig
from diffusers_mvcustom.subjects import ReferenceViews, SubjectConfig


def mvcustom(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def views():
    return textured_views(count=4, height=96, width=128, of_ring=24)


@pytest.fixture
def generated(tmp_path, views):
    """Two sets of views, as generated for two prompts."""
    images, cameras = views
    folder = tmp_path / "out"
    prompts = ("a <toy> block on a table", "a <toy> block in negative")
    records = [{"prompt": prompt, "token": "<toy>", "seed": 0} for prompt in prompts]
    save_views(folder, torch.stack([images, 1 - images]), cameras, records=records)
    return folder


@pytest.fixture
def subject(tmp_path, views):
    """The parts of a subject folder that are read."""
    images, cameras = views
    folder = tmp_path / "subject"
    folder.mkdir()
    config = SubjectConfig(
        token="<toy>",
        class_noun="block",
        initializer_token="block",
        pose_conditioned_blocks={"down_blocks.0.attentions.0.transformer_blocks.0": 8},
        feature_nerf=FeatureNeRFConfig(),
    )
    config.save(folder / "subject_config.json")
    ReferenceViews(images, cameras.to("cpu", torch.float32), torch.ones(4, 1, 96, 128)).save(folder / "references")
    return folder


def test_table_json_and_markdown(generated, subject):
    ended = mvcustom(
        "evaluate", generated, "--reference", subject, "--threads", 1, "--clip", subject, "--dinov2", subject
    )
    assert ended.exit_code == 0, ended.output
    record = json.loads((generated / "evaluation.json").read_text())
    assert [one["folder"] for one in record["sets"]] == ["0", "1"]
    assert [one["prompt"] for one in record["sets"]] == ["a <toy> block on a table", "a <toy> block in negative"]
    assert all("of 4 views registered" in one["structure_from_motion"] for one in record["sets"])
    assert record["scores"]["camera pose accuracy"]["requested"] == 2 * 6
    assert record["paper"]["camera pose accuracy"] == record["scores"]["camera pose accuracy"]["value"]
    assert "cannot be loaded" in record["unavailable"]["text alignment (CLIPScore)"]  # that folder holds no CLIP
    assert record["settings"]["threads"] == 1
    assert record["environment"]["torch"] == torch.__version__
    table = [line for line in (generated / "evaluation.md").read_text().splitlines() if line.startswith("|")]
    assert "\n".join(table) in ended.output
    assert f"2 set(s), 8 views, {len(record['scores'])} of 12 scores" in ended.output


def test_written_elsewhere_and_one_set_without_a_record(tmp_path, generated):
    (generated / "1" / "generation.json").unlink()
    ended = mvcustom("evaluate", generated / "1", "--threads", 1, "-o", tmp_path / "report")
    assert ended.exit_code == 0, ended.output
    record = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert record["unavailable"]["text alignment (CLIPScore)"] == "no prompt is known"
    assert record["unavailable"]["identity preservation (DINOv2)"] == "no reference views are given"
    assert not (generated / "1" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out, subject: (out / "0" / "generation.json").write_text("{"), "generation.json: expected JSON"),
        (
            lambda out, subject: (out / "0" / "generation.json").write_text('{"prompt": 3}'),
            "prompt and token are texts",
        ),
        (lambda out, subject: (out / "1" / "images" / "0002.png").unlink(), "0002.png"),
        (lambda out, subject: (out / "1" / "images" / "0002.png").write_text("no image"), "0002.png"),
        (lambda out, subject: (subject / "subject_config.json").unlink(), "expected a subject folder"),
        (lambda out, subject: (out / "transforms.json").write_text("{}"), "a set of views and folders with sets too"),
        (
            lambda out, subject: (out / "1" / "generation.json").write_text('{"token": "<other>"}'),
            "the views are of <other>",
        ),
        (lambda out, subject: [(out / i / "transforms.json").unlink() for i in "01"], "as `mvcustom generate` writes"),
    ],
)
def test_what_cannot_be_read_is_named_before_anything_is_computed(generated, subject, spoil, message):
    spoil(generated, subject)
    ended = mvcustom("evaluate", generated, "--reference", subject)
    assert isinstance(ended.exception, ValueError), ended.output
    assert message in str(ended.exception)
    assert not (generated / "evaluation.json").exists()


def test_folders_of_any_name_in_natural_order(generated):
    for name in ("named", "10"):
        shutil.copytree(generated / "1", generated / name)
    assert [folder.name for folder in _sets_of_views(generated)] == ["0", "1", "10", "named"]
    assert _sets_of_views(generated / "named") == [generated / "named"]


def test_a_record_comes_back_and_none_is_empty(tmp_path):
    record = {"prompt": "ein Würfel", "token": None, "seed": 3}
    save_views(tmp_path / "out", torch.rand(1, 2, 3, 8, 8), records=[record])
    assert read_record(tmp_path / "out") == record
    assert read_record(tmp_path / "none") == {}
    with pytest.raises(MVCustomError, match="records: expected one per set of views"):
        save_views(tmp_path / "out", torch.rand(1, 2, 3, 8, 8), records=[record, record])


def test_help_has_an_example():
    assert "mvcustom evaluate out/views --reference out/my-mug/subject" in " ".join(
        mvcustom("evaluate", "--help").output.split()
    )
