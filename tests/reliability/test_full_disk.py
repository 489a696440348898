"""A disk that is full leaves what was there, and nothing half-written beside it."""

import pytest
import torch
from fuzz.command_targets import run
from fuzz.subject_targets import tiny_subject
from PIL import Image
from reliability.events import digest, files_up_to

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.cameras import Cameras, save_camera_plot, save_cameras
from diffusers_mvcustom.cli.generation_record import read_record, write_record
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import save_views

CAMERAS = Cameras.orbit(3, height=64, width=64)


def noise(seed):
    return torch.rand(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def write_views(folder):
    save_views(folder, noise(len(list(folder.parent.iterdir()))), CAMERAS)


def write_subject(folder):
    tiny_subject().save_pretrained(folder)


def write_camera_files(folder):
    save_cameras(folder / "transforms.json", CAMERAS)


def write_model(folder):
    save_cameras(folder, CAMERAS, "colmap", points=(torch.rand(500, 3), torch.zeros(500, 3)))


def write_plot(folder):
    save_camera_plot(folder / "plot.png", CAMERAS)


def write_generation(folder):
    folder.mkdir(exist_ok=True)
    write_record(folder, {"prompt": "a mug " * 500, "token": None})


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize(
    "write", [write_views, write_subject, write_camera_files, write_model, write_plot, write_generation]
)
def test_what_was_there_stays(write, there_before, tmp_path):
    if there_before:
        write(tmp_path / "out")
    before = digest(tmp_path)
    with files_up_to(512), pytest.raises((MVCustomError, OSError)):
        write(tmp_path / "out")
    assert digest(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))
    write(tmp_path / "out")  # with room again


def test_a_new_pipeline_s_folder_is_not_there(components, tmp_path):
    pipe = MVCustomPipeline(**components)
    with files_up_to(1 << 14), pytest.raises(MVCustomError, match="Nothing was written"):
        pipe.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with files_up_to(1 << 14), pytest.raises(MVCustomError, match="save again"):
        pipe.save_pretrained(tmp_path / "model")
    pipe.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"
    MVCustomPipeline.from_pretrained(tmp_path / "model")


def test_the_command_says_so_in_one_line(tmp_path):
    with files_up_to(1 << 14):
        code, _, errors = run(["random-model", "model"], tmp_path)
    assert code == 1
    last = errors.splitlines()[-1]
    assert last.startswith("mvcustom: save_directory: model could not be written")
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_a_record_that_cannot_be_encoded_leaves_the_one_before(tmp_path):
    write_record(tmp_path, {"prompt": "one", "token": None})
    with pytest.raises(UnicodeEncodeError):
        write_record(tmp_path, {"prompt": "\ud800", "token": None})
    assert read_record(tmp_path)["prompt"] == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["generation.json"]


def test_a_picture_of_the_subject_that_cannot_be_written(tmp_path):
    """A failure after most is written is a failure of the whole."""
    subject = tiny_subject()
    subject.save_pretrained(tmp_path / "subject")
    before = digest(tmp_path)
    large = Image.effect_noise((256, 256), 60)
    with files_up_to(1 << 15), pytest.raises(MVCustomError, match="could not be written"):
        subject.save_pretrained(tmp_path / "subject", samples={"large": large})
    assert digest(tmp_path) == before
