"""A disk that is full leaves what was there, and nothing half-written beside it."""

import pytest
import torch
from fuzz.command_targets import run
from fuzz.subject_targets import tiny_subject
from PIL import Image
from reliability.events import digest, files_up_to

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.cameras import Cameras, save_camera_plot, save_cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import read_record, save_views

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


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("write", [write_views, write_subject, write_camera_files, write_model, write_plot])
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


def test_a_picture_of_the_subject_that_cannot_be_written(tmp_path):
    """A failure after most is written is a failure of the whole."""
    subject = tiny_subject()
    subject.save_pretrained(tmp_path / "subject")
    before = digest(tmp_path)
    large = Image.effect_noise((256, 256), 60)
    with files_up_to(1 << 15), pytest.raises(MVCustomError, match="could not be written"):
        subject.save_pretrained(tmp_path / "subject", samples={"large": large})
    assert digest(tmp_path) == before


@pytest.mark.parametrize("room", [512, 1 << 13])
def test_views_that_cannot_be_replaced_keep_their_record(room, tmp_path):
    save_views(tmp_path / "out", noise(0), CAMERAS, records=[{"prompt": "one", "token": None}])
    before = digest(tmp_path)
    with files_up_to(room), pytest.raises(MVCustomError, match=r"path: .*out could not be written.*as it was"):
        save_views(tmp_path / "out", noise(1), CAMERAS, records=[{"prompt": "another " * 2000, "token": None}])
    assert digest(tmp_path) == before
    assert read_record(tmp_path / "out")["prompt"] == "one"


def test_a_record_that_cannot_be_encoded_leaves_the_views_before(tmp_path):
    save_views(tmp_path / "out", noise(0), CAMERAS, records=[{"prompt": "one", "token": None}])
    before = digest(tmp_path)
    with pytest.raises(MVCustomError, match="records"):
        save_views(tmp_path / "out", noise(1), CAMERAS, records=[{"prompt": "\ud800", "token": None}])
    assert digest(tmp_path) == before


def test_views_without_a_record_do_not_keep_an_older_one(tmp_path):
    save_views(tmp_path / "out", noise(0), CAMERAS, records=[{"prompt": "one", "token": None}])
    save_views(tmp_path / "out", noise(1), CAMERAS)
    assert read_record(tmp_path / "out") == {}
