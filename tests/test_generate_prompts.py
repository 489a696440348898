"""`mvcustom generate --prompts`: many prompts, by one process or several, and again."""

import json
import re

import pytest
import torch
from accelerate import PartialState, debug_launcher
from PIL import Image
from typer.testing import CliRunner

from diffusers_mvcustom import Cameras, MVCustomError, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.cli import app
from diffusers_mvcustom.cli.prompt_file import PromptRequest, read_prompts
from diffusers_mvcustom.subjects import initial_token_embedding

PROMPTS = ["a mug by a lake", "a blue car", "a toy on a table"]


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="session")
def model(tiny_model_without_depth):
    return tiny_model_without_depth


@pytest.fixture
def subject(model, tmp_path):
    pipe = MVCustomPipeline.from_pretrained(model)
    cameras = Cameras.orbit(2, height=64, width=64)
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    adapter = SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(photos, cameras),
        "<it>",
        "mug",
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug"),
    )
    adapter.save_pretrained(tmp_path / "subject")
    return tmp_path / "subject"


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n\n")
    return file


def arguments(model, prompts, output, *more):
    given = ("generate", "--model", model, "--prompts", prompts, "--orbit", 2, "--steps", 1, "-o", output, *more)
    return [str(argument) for argument in (*given, "--device", "cpu")]


def generate(*given, code=0):
    result = CliRunner().invoke(app, arguments(*given))
    assert result.exit_code == code, result.output
    PartialState._reset_state()
    return result.output


def frames(folder):
    """The bytes of all frames below a folder, by path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("images/*.png"))}


def in_this_process(given):
    app(given, standalone_mode=False)


def test_two_processes_give_what_one_gives(model, prompts, tmp_path, capfd):
    alone = generate(model, prompts, tmp_path / "one")
    assert "3 prompts: 3 generated, 0 there already, 0 failed" in alone
    assert "by 1 process" in alone
    together = arguments(model, prompts, tmp_path / "two")[: -len(("--device", "cpu"))]
    debug_launcher(in_this_process, (together,), num_processes=2)
    assert "by 2 processes" in capfd.readouterr().out
    expected = frames(tmp_path / "one")
    assert sorted({name.split("/")[0] for name in expected}) == ["0000", "0001", "0002"]
    assert len(expected) == 3 * 2
    assert frames(tmp_path / "two") == expected
    for i, prompt in enumerate(PROMPTS):
        records = [
            json.loads((tmp_path / side / f"{i:04d}" / "generation.json").read_text()) for side in ("one", "two")
        ]
        assert records[0] == records[1]
        assert records[0]["prompt"] == prompt


def test_what_is_finished_is_left_out(model, prompts, tmp_path):
    out = tmp_path / "out"
    generate(model, prompts, out)
    expected = frames(out)
    (out / "0001" / "generation.json").unlink()  # as if the command had been killed while writing
    (out / "0002" / "images" / "0000.png").write_bytes(b"mine")
    assert "3 prompts: 1 generated, 2 there already" in generate(model, prompts, out)
    assert (out / "0002" / "images" / "0000.png").read_bytes() == b"mine"
    prompts.write_text("\n".join([*PROMPTS[:2], "a red car"]))
    assert "3 prompts: 1 generated, 2 there already" in generate(model, prompts, out)  # another prompt
    prompts.write_text("\n".join(PROMPTS))
    assert "3 prompts: 3 generated, 0 there already" in generate(model, prompts, out, "--overwrite")
    assert frames(out) == expected


def test_other_cameras_or_settings_are_other_views(model, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a mug")
    generate(model, file, tmp_path / "out")
    for other in (("--elevation", 30), ("--seed", 1)):
        assert "1 generated, 0 there already" in generate(model, file, tmp_path / "out", *other)


def test_views_without_a_subject_are_not_those_of_a_users_world(model, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a mug")
    generate(model, file, tmp_path / "out")
    assert "name a --subject that knows it" in generate(model, file, tmp_path / "out", "--frame", "user", code=1)


def test_subjects_seeds_and_names_of_their_own(model, subject, tmp_path):
    file = tmp_path / "prompts.json"
    entries = [
        {"prompt": "a <it> mug", "subject": str(subject), "output": "mine"},
        "a mug",
        {"prompt": "a mug", "seed": 7},
        {"prompt": "a mug", "subject": str(tmp_path / "nothing")},
        {"prompt": "a mug", "subject": str(subject)},
    ]
    file.write_text(json.dumps(entries))
    output = generate(model, file, tmp_path / "out", code=1)
    assert "5 prompts: 3 generated, 0 there already, 2 failed" in output
    assert re.search(r"0003: .*nothing", output)
    assert "0004: prompt: expected the loaded subject's token '<it>'" in output
    out = tmp_path / "out"
    assert sorted(folder.name for folder in out.iterdir()) == ["0001", "0002", "mine"]
    assert json.loads((out / "mine" / "generation.json").read_text())["token"] == "<it>"
    assert json.loads((out / "0001" / "generation.json").read_text())["token"] is None
    assert frames(out / "0001") != frames(out / "0002")


def test_a_long_path_and_an_anchor_image(model, prompts, tmp_path):
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "anchor.png")
    generate(
        model, prompts, tmp_path / "out", "--orbit", 5, "--views-at-a-time", 2,
        "--anchor", 0, "--anchor-image", tmp_path / "anchor.png",
    )  # fmt: skip
    views = sorted((tmp_path / "out" / "0000" / "images").iterdir())
    assert len(views) == 5
    red, green, blue = Image.open(views[0]).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert red > green > blue
    record = json.loads((tmp_path / "out" / "0000" / "generation.json").read_text())
    assert record["views_at_a_time"] == 2
    assert record["anchor_image"] == [str(tmp_path / "anchor.png")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(["one", {"prompt": "two", "subject": "me/it", "seed": 3, "output": "second"}]),
        "- one\n- prompt: two\n  subject: me/it\n  seed: 3\n  output: second\n",
    ],
)
def test_lists_of_prompts(tmp_path, text):
    file = tmp_path / ("prompts.json" if text.startswith("[") else "prompts.yaml")
    file.write_text(text)
    assert read_prompts(file) == [
        PromptRequest("one", "0000"),
        PromptRequest("two", "second", subject="me/it", seed=3),
    ]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("p.csv", "one", "expected a .txt"),
        ("p.txt", "\n\n", "at least one prompt"),
        ("p.json", "[", "not well formed"),
        ("p.yaml", "a: [", "not well formed"),
        ("p.json", '{"prompt": "one"}', "expected a list"),
        ("p.json", '[{"promt": "one"}]', r"entry 0.*unknown \['promt'\]"),
        ("p.json", '["one", 2]', "entry 1.*got 2"),
        ("p.json", '[{"seed": 1}]', "expected a prompt"),
        ("p.json", '[{"prompt": " "}]', "expected a prompt"),
        ("p.json", '[{"prompt": "a", "seed": 1.5}]', "seed"),
        ("p.json", '[{"prompt": "a", "subject": 1}]', "subject"),
        ("p.json", '[{"prompt": "a", "output": "../up"}]', "output"),
        ("p.json", '["a", {"prompt": "b", "output": "0000"}]', r"\['0000'\] twice"),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(MVCustomError, match=match):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MVCustomError, match=r"nothing\.txt cannot be read"):
        read_prompts(tmp_path / "nothing.txt")


def test_a_prompt_and_a_file_of_prompts_contradict_each_other(model, prompts, tmp_path):
    result = CliRunner().invoke(app, arguments(model, prompts, tmp_path / "out", "--prompt", "a mug"))
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
