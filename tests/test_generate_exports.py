"""What `mvcustom generate` and a pipeline's output write: formats, single files, and the user's own world."""

import json

import pycolmap
import pytest
import torch
import trimesh
from PIL import Image
from typer.testing import CliRunner

from diffusers_mvcustom import AnchorSettings, Cameras, MVCustomError, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.cameras import SubjectFrame, load_cameras
from diffusers_mvcustom.cli import app
from diffusers_mvcustom.cli.evaluate import _load_views
from diffusers_mvcustom.subjects import initial_token_embedding

FRAME = SubjectFrame(
    2.5, torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]), torch.tensor([1.0, 2.0, 3.0])
)


@pytest.fixture(scope="session")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def subject(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    pipe = MVCustomPipeline.from_pretrained(model)
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(photos, Cameras.orbit(2, height=64, width=64)),
        "<it>",
        "mug",
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug"),
        subject_frame=FRAME,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def generate(model, tmp_path):
    def generate(name, *more, prompt="a mug by a lake", code=0):
        given = ["generate", "--model", model, "--orbit", 3, "--azimuth", -20, 20, "--steps", 2, "-o", tmp_path / name]
        result = CliRunner().invoke(app, [str(argument) for argument in [*given, "--prompt", prompt, *more]])
        assert (result.exit_code != 0) == bool(code), result.output
        return result

    return generate


def test_a_folder_in_the_users_world(generate, subject, tmp_path):
    formats = ("--format", "webp", "--format", "colmap", "--format", "ply")
    generate("out", "--subject", subject, "--frame", "user", *formats, prompt="a <it> mug by a lake")
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        *("images", "sparse", "contact_sheet.png", "points.ply", "transforms.json", "views.webp", "generation.json")
    }
    written = load_cameras(out / "transforms.json")
    target = FRAME.to_subject(written)
    assert target.allclose(Cameras.orbit(3, azimuth=(-20, 20), like=target, elevation=20.0), atol=1e-4)
    model = pycolmap.Reconstruction(out / "sparse" / "0")
    centers = torch.tensor([model.images[i].projection_center().tolist() for i in (1, 2, 3)])
    torch.testing.assert_close(centers, written.centers.float(), rtol=1e-5, atol=1e-5)
    assert model.num_points3D() > 0
    assert len(trimesh.load(out / "points.ply").vertices) >= model.num_points3D()
    assert json.loads((out / "generation.json").read_text())["frame"] == "user"
    # Scores compare views with the subject's photos, in the subject frame.
    _, cameras = _load_views(out, FRAME)
    assert cameras.allclose(target, atol=1e-4)
    assert _load_views(out, None)[1].allclose(written, atol=1e-4)


def test_one_file(generate, tmp_path):
    generate("made/mug.gif", "--fps", 4)
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["mug.gif"]
    moving = Image.open(tmp_path / "made" / "mug.gif")
    assert (moving.n_frames, moving.info["duration"]) == (3, 250)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--format", "avi"), "formats: expected some of gif, mp4"),
        (("--frame", "world"), "--frame: expected subject or user"),
        (("--prompt", "another"), "one set of views, got 2"),
    ],
)
def test_refused_before_the_model_is_loaded(generate, tmp_path, more, message):
    name = "mug.gif" if more[0] == "--prompt" else "out"
    result = generate(name, "--model", "no-such-model", *more, code=1)
    said = str(result.exception) + result.output
    assert message in " ".join(said.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_without_a_subject_there_is_no_other_world(generate, tmp_path):
    result = generate("out", "--frame", "user", code=1)
    assert "name a --subject" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_geometry_is_what_the_hooks_used(model):
    pipe = MVCustomPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    cameras = Cameras.orbit(3, azimuth=(-20, 20), height=64, width=48)
    call = {"cameras": cameras, "num_inference_steps": 2, "output_type": "np"}
    out = pipe(["a mug", "a car"], anchor=AnchorSettings(frames=(0, 2), discontinuity=0.3), **call)
    assert len(out.geometry) == 2
    for depth, given in zip(out.geometry, out.anchor_depth):
        assert (depth.frames, depth.discontinuity) == ((0, 2), 0.3)
        assert torch.equal(depth.depth, given)
    plain = pipe("a mug", hooks=[], **call)
    assert plain.geometry is None


@pytest.mark.parametrize(
    ("options", "message"), [({"frame": "world"}, "expected 'subject' or 'user'"), ({"frame": "user"}, "no subject")]
)
def test_an_output_says_what_cannot_be_saved(model, tmp_path, options, message):
    pipe = MVCustomPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    out = pipe("a mug", Cameras.orbit(1, height=64, width=64), num_inference_steps=1)
    with pytest.raises(MVCustomError, match=message):
        out.save(tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_the_reach_of_the_attention_is_set_and_recorded(generate, tmp_path):
    def made(name, *more):
        generate(name, *more)
        record = json.loads((tmp_path / name / "generation.json").read_text())
        views = sorted((tmp_path / name / "images").iterdir())
        return (record["attention_window"], record["temporal_heads"]), [view.read_bytes() for view in views]

    dense, views = made("dense", "--window", "full")
    some, others = made("some", "--window", "full", "--temporal-heads", 1)
    assert (dense, some) == ((None, 0), (None, 1))
    assert views != others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "full", "--temporal-heads", 2], "temporal_heads: expected a number of heads from 0 to 1"),
        (["--window", 1, "--temporal-heads", 1], "--temporal-heads: expected a window wider than 1"),
    ],
)
def test_a_reach_that_cannot_be(generate, tmp_path, options, message):
    result = generate("out", *options, code=1)
    assert message in f"{result.exception} {' '.join(result.output.split())}"
    assert not (tmp_path / "out").exists()
