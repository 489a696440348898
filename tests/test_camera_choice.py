"""The cameras that `mvcustom generate` is told: paths, files in either world, and what does not go together."""

import json

import pytest
import torch
import typer
from command_line import run_mvcustom

from diffusers_mvcustom import Cameras, MVCustomError, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.cameras import SubjectFrame, camera_to_world_in, load_cameras, save_cameras
from diffusers_mvcustom.cli.camera_choice import CameraChoice
from diffusers_mvcustom.subjects import initial_token_embedding

TURN = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
FRAME = SubjectFrame(4.0, TURN, torch.tensor([1.0, 2.0, 3.0]))
SIZE = {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"orbit": 4}, Cameras.orbit(4, **SIZE)),
        (
            {"orbit": 3, "azimuth": (-40, 40), "elevation": 5.0},
            Cameras.orbit(3, azimuth=(-40, 40), elevation=5.0, **SIZE),
        ),
        ({"orbit": 3, "rise": 10.0}, Cameras.orbit(3, elevation=(20.0, 30.0), **SIZE)),
        ({"arc": 3}, Cameras.arc(3, **SIZE)),
        ({"arc": 3, "elevation": 5.0, "rise": -10.0}, Cameras.arc(3, elevation=(5.0, -5.0), **SIZE)),
        ({"spiral": 3}, Cameras.spiral(3, **SIZE)),
        ({"spiral": 5, "azimuth": (0, 540)}, Cameras.spiral(5, turns=1.5, **SIZE)),
        (
            {"spiral": 3, "azimuth": (-40, 40), "elevation": 60.0, "rise": 0.0},
            Cameras.arc(3, azimuth=(-40, 40), elevation=60.0, **SIZE),
        ),
        ({"spiral": 3, "elevation": 10.0}, Cameras.spiral(3, elevation=(10.0, 60.0), **SIZE)),
        ({"spiral": 3, "rise": 20.0}, Cameras.spiral(3, elevation=(0.0, 20.0), **SIZE)),
        ({"lemniscate": 4}, Cameras.lemniscate(4, **SIZE)),
        (
            {"lemniscate": 4, "azimuth": (10, 50), "elevation": 5.0},
            Cameras.lemniscate(4, degrees=20.0, azimuth=30.0, elevation=5.0, **SIZE),
        ),
        ({"dolly": 3}, Cameras.dolly(3, **SIZE)),
        (
            {"dolly": 3, "distance": (1.5, 1.0), "azimuth": (30, 30)},
            Cameras.dolly(3, distance=(1.5, 1.0), azimuth=30, **SIZE),
        ),
        ({"zoom": 3, "factor": (1.0, 3.0)}, Cameras.zoom(3, factor=(1.0, 3.0), **SIZE)),
        ({"dolly_zoom": 3, "distance": (2.0, 1.0)}, Cameras.dolly_zoom(3, distance=(2.0, 1.0), **SIZE)),
        ({"translate": 3, "offset": (0.0, 0.2, 0.1)}, Cameras.translate(3, offset=(0.0, 0.2, 0.1), **SIZE)),
        ({"orbit": 2, "radius": 0.7, "field_of_view": 30.0}, Cameras.orbit(2, radius=0.7, field_of_view=30.0, **SIZE)),
        ({"orbit": 2, "target": (0.0, 0.1, 0.0)}, Cameras.orbit(2, target=(0.0, 0.1, 0.0), **SIZE)),
        ({"orbit": 2, "height": 48}, Cameras.orbit(2, height=48, width=64)),
        ({"arc": 9, "views": 3}, Cameras.arc(3, **SIZE)),
    ],
)
def test_paths_are_those_of_python(options, expected):
    choice = CameraChoice(**options)
    choice.check()
    assert choice.of(None, 64).allclose(expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of --cameras, --orbit, .*got none"),
        ({"orbit": 2, "dolly_zoom": 3}, "got --orbit, --dolly-zoom"),
        ({"orbit": 2, "cameras_frame": "user"}, "give --cameras FILE"),
        ({"cameras": "references", "cameras_frame": "user"}, "give --cameras FILE"),
        ({"cameras": "a.json", "cameras_frame": "world"}, "expected subject or user"),
        ({"cameras": "references", "azimuth": (0, 1), "radius": 1.0}, "--azimuth, --radius: not for --cameras"),
        ({"orbit": 2, "interpolate": 4}, "--interpolate: not for --orbit"),
        ({"orbit": 2, "distance": (1.0, 2.0)}, "--distance: not for --orbit, which takes --azimuth"),
        ({"lemniscate": 2, "rise": 1.0}, "--rise: not for --lemniscate"),
        ({"dolly": 2, "factor": (1.0, 2.0)}, "--factor: not for --dolly"),
        ({"dolly": 2, "azimuth": (0.0, 10.0)}, "--dolly stays at one azimuth"),
        ({"spiral": 3, "elevation": 60.0}, "rises from 60° by 50° .as a spiral does without --rise"),
        ({"orbit": 2, "elevation": 95.0}, "elevation"),
        ({"orbit": 2, "field_of_view": 180.0}, "field_of_view"),
        ({"orbit": 2, "azimuth": (float("nan"), 0.0)}, "azimuth"),
        ({"cameras": "nothing.json"}, "nothing.json"),
    ],
)
def test_what_does_not_go_together(options, message):
    """All of it before there is a model."""
    with pytest.raises((typer.BadParameter, MVCustomError), match=message):
        CameraChoice(**options).check()


def test_a_path_through_the_cameras_of_a_file(tmp_path):
    keys = Cameras.arc(3, azimuth=(-40, 60), height=48, width=64)
    save_cameras(tmp_path / "keys.json", keys)
    choice = CameraChoice(cameras=str(tmp_path / "keys.json"), interpolate=7, height=48, width=64)
    choice.check()
    assert choice.of(None, 64).to(dtype=torch.float32).allclose(Cameras.interpolate(keys, 7), atol=1e-5)


@pytest.fixture(scope="module")
def subject(tiny_model_without_depth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    pipe = MVCustomPipeline.from_pretrained(tiny_model_without_depth)
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(photos, Cameras.orbit(2, radius=0.8, **SIZE)),
        "<it>",
        "mug",
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug"),
        subject_frame=FRAME,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def generate(tiny_model_without_depth, subject, tmp_path):
    def generate(*options, code=0):
        model = ("--model", tiny_model_without_depth, "--subject", subject, "--prompt", "a <it> mug")
        ended = run_mvcustom(tmp_path, "generate", *model, "--steps", 1, "--format", "gif", "-o", "out", *options)
        assert ended.returncode == code, ended.stderr[-3000:]
        return ended

    return generate


def test_a_file_in_the_world_of_the_photos(generate, tmp_path):
    target = Cameras.arc(3, elevation=30.0, **SIZE)
    save_cameras(tmp_path / "capture.json", FRAME.to_user(target))
    refused = generate("--cameras", "capture.json", code=1).stderr
    assert "--cameras-frame user brings them into the subject frame" in refused
    assert "to_subject(" not in refused
    assert not (tmp_path / "out").exists()
    generate("--cameras", "capture.json", "--cameras-frame", "user")
    written = load_cameras(tmp_path / "out" / "transforms.json")
    assert written.to(dtype=torch.float32).allclose(target, atol=1e-4)
    generate("--cameras", "capture.json", "--cameras-frame", "user", "--frame", "user")
    written = load_cameras(tmp_path / "out" / "transforms.json")
    assert written.to(dtype=torch.float32).allclose(FRAME.to_user(target), atol=1e-4)


def test_a_path_takes_distance_and_lens_of_the_photos(generate, tmp_path):
    generate("--spiral", 3, "--azimuth", -40, 40, "--elevation", 60, "--rise", 10)
    expected = Cameras.arc(3, azimuth=(-40, 40), elevation=(60.0, 70.0), radius=0.8, **SIZE)
    assert load_cameras(tmp_path / "out" / "transforms.json").to(dtype=torch.float32).allclose(expected, atol=1e-4)


def test_a_file_without_a_size(generate, tmp_path):
    poses = camera_to_world_in(Cameras.arc(2, **SIZE), "opengl")
    content = {"camera_angle_x": 0.9, "frames": [{"transform_matrix": pose.tolist()} for pose in poses]}
    (tmp_path / "path.json").write_text(json.dumps(content))
    refused = generate("--cameras", "path.json", code=1).stderr
    assert "give --height and --width" in refused
    generate("--cameras", "path.json", "--height", 64, "--width", 48)
    written = load_cameras(tmp_path / "out" / "transforms.json")
    assert written.field_of_view[0, 0].item() == pytest.approx(0.9 * 180 / torch.pi, abs=1e-3)
    assert (written.height, written.width) == (64, 48)


def test_without_a_subject_there_is_no_world_of_photos(tmp_path):
    save_cameras(tmp_path / "a.json", Cameras.arc(2))
    choice = CameraChoice(cameras=str(tmp_path / "a.json"), cameras_frame="user")
    choice.check()
    with pytest.raises(MVCustomError, match="name a --subject"):
        choice.of(None, 64)
    with pytest.raises(MVCustomError, match="name a --subject"):
        CameraChoice(cameras="references").of(None, 64)
