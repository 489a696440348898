"""`mvcustom demo`, on a tiny model of random weights and an untrained subject."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffusers_mvcustom import Cameras, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.cameras import load_cameras
from diffusers_mvcustom.cli import app, main
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import render, sample_scene
from diffusers_mvcustom.toy.demo import demo_cameras, nearest_photos, run_demo
from diffusers_mvcustom.toy.labelled_sheets import LABEL_SIZE, LabelledViews, labelled_sheet, side_by_side, text_block
from diffusers_mvcustom.toy.shipped import SHIPPED, shipped_folder

SETS = [f"prompt-{number}/{kind}" for number in (1, 2) for kind in ("with-dfr-and-clc", "without")]


def references():
    """Twelve views of a subject, around it, at another size than the model's."""
    cameras = Cameras.orbit(12, elevation=25, height=48, width=60)
    views = render(sample_scene("unseen_subjects", 0), cameras, supersampling=1)
    return ReferenceViews(views.images, cameras, views.masks)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_components):
    """A model's and a subject's folder."""
    folder = tmp_path_factory.mktemp("demo")
    pipe = MVCustomPipeline(**make_components("tiny"))
    subject = SubjectAdapter.create(
        pipe.unet, references(), "<toy>", "car", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    pipe.save_pretrained(folder / "model")
    subject.save_pretrained(folder / "subject")
    return folder


@pytest.fixture
def pipe(folders):
    pipe = MVCustomPipeline.from_pretrained(folders / "model")
    pipe.load_subject(folders / "subject")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def made(folders):
    """What the command printed, and the folder it wrote."""
    output = folders / "demo"
    arguments = [
        "--model",
        folders / "model",
        "--subject",
        folders / "subject",
        "--views",
        3,
        "--steps",
        2,
        "-o",
        output,
    ]
    result = CliRunner().invoke(app, ["demo", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result, output


def test_every_set_is_there_with_its_cameras(made, pipe):
    result, output = made
    assert "2 prompts × 2 × 3 views of 64 × 64 in " in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert sorted(file.name for file in output.iterdir()) == [
        "README.txt", "overview.gif", "overview.png", "prompt-1", "prompt-2",
    ]  # fmt: skip
    expected = demo_cameras(pipe, 3)
    for name in SETS:
        assert sorted(file.name for file in (output / name / "images").iterdir()) == [f"{i:04d}.png" for i in range(3)]
        assert Image.open(output / name / "views.gif").n_frames == 3
        assert Image.open(output / name / "contact_sheet.png").size == (2 * 64, 2 * 64)
        assert load_cameras(output / name / "transforms.json").allclose(expected, atol=1e-5)
    text = (output / "README.txt").read_text()
    assert "a <toy> car on a beach at sunset with two trees" in text
    assert "3 views of 64 x 64" in text


def test_the_hooks_make_a_difference(made):
    first = [
        np.asarray(Image.open(made[1] / f"prompt-1/{kind}/images/0000.png"))
        for kind in ("with-dfr-and-clc", "without")
    ]
    assert (first[0] != first[1]).any()


def test_the_overviews_show_photos_and_all_sets(made, pipe):
    _, output = made
    sheet = Image.open(output / "overview.png")
    assert sheet.width == 3 * 192 + 4 * 6
    assert sheet.height > (1 + len(SETS)) * 192
    photo = nearest_photos(pipe.subject.references, demo_cameras(pipe, 3))[0].resize((192, 192), Image.LANCZOS)
    top = next(y for y in range(sheet.height - 192) if sheet.crop((6, y, 198, y + 192)).tobytes() == photo.tobytes())
    assert top < 100  # below its label alone
    animation = Image.open(output / "overview.gif")
    assert animation.n_frames == 3 + 1  # and back
    assert animation.width == 3 * 192 + 4 * 6  # the photo, with, without
    assert animation.height > 2 * 192


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(made, pipe, tmp_path):
    _, output = made
    run_demo(pipe, tmp_path / "again", views=3, steps=2, report=lambda line: None)
    files = {file.relative_to(output) for file in output.rglob("*") if file.is_file()}
    assert files == {
        file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*") if file.is_file()
    }
    differing = [name for name in files if (output / name).read_bytes() != (tmp_path / "again" / name).read_bytes()]
    assert differing == []
    run_demo(pipe, tmp_path / "other", views=3, steps=2, seed=1, report=lambda line: None)
    frame = "prompt-1/without/images/0000.png"
    assert (tmp_path / "other" / frame).read_bytes() != (output / frame).read_bytes()


def test_an_interrupted_demo_leaves_what_was_there(pipe, tmp_path):
    output = tmp_path / "demo"
    output.mkdir()
    (output / "README.txt").write_text("an earlier one")

    def interrupt(line):
        if line.startswith("2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(pipe, output, views=2, steps=1, report=interrupt)
    assert [file.name for file in tmp_path.iterdir()] == ["demo"]
    assert (output / "README.txt").read_text() == "an earlier one"
    run_demo(pipe, output, views=2, steps=1, report=lambda line: None)
    assert (output / "overview.png").is_file()
    assert "an earlier one" not in (output / "README.txt").read_text()


def test_what_cannot_work_is_refused_before_anything_is_generated(pipe, tmp_path, components):
    def refuse(line):
        pytest.fail("generating began")

    def demo(pipe=pipe, output=tmp_path / "demo", **options):
        return run_demo(pipe, output, **{"views": 2, "steps": 1, "report": refuse, **options})

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"")
    with pytest.raises(MVCustomError, match=r"output: .* holds 'mine.jpg', which no demo wrote"):
        demo(output=tmp_path / "photos")
    with pytest.raises(MVCustomError, match="views: expected a whole number of at least 2, got 1"):
        demo(views=1)
    with pytest.raises(MVCustomError, match="steps: expected a whole number of at least 1, got 0"):
        demo(steps=0)
    with pytest.raises(MVCustomError, match="pipe: expected a pipeline with a subject"):
        demo(MVCustomPipeline(**components))
    pipe.set_hooks([])
    with pytest.raises(MVCustomError, match="pipe: expected a pipeline with hooks"):
        demo()
    assert [file.name for file in tmp_path.iterdir()] == ["photos"]


def test_the_command_names_what_is_missing(capsys, tmp_path):
    missing = str(tmp_path / "nothing")
    with pytest.raises(SystemExit, match="1"):
        main(["demo", "--model", missing, "--subject", missing, "-o", str(tmp_path / "demo")])
    assert missing in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--model", missing, "-o", str(tmp_path / "demo")])
    assert "name a --subject too" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_shipped_folders_are_found_where_they_are_whole(tmp_path):
    for name in SHIPPED:
        with pytest.raises(MVCustomError, match=rf"'{name}' is not there: expected {SHIPPED[name]} in "):
            shipped_folder(name, [tmp_path / "package", tmp_path / "checkout"])
    (tmp_path / "package" / "toy").mkdir(parents=True)  # without what has to be in it
    (tmp_path / "checkout" / "toy").mkdir(parents=True)
    (tmp_path / "checkout" / "toy" / "model_index.json").write_text("{}")
    places = [tmp_path / "package", tmp_path / "checkout"]
    assert shipped_folder("toy", places) == tmp_path / "checkout" / "toy"
    (tmp_path / "package" / "toy" / "model_index.json").write_text("{}")
    assert shipped_folder("toy", places) == tmp_path / "package" / "toy"
    with pytest.raises(MVCustomError, match="name: expected one of"):
        shipped_folder("toys")


def test_the_nearest_photo_is_the_one_from_the_nearest_direction():
    cameras = Cameras.orbit(4, azimuth=(0, 360), height=32, width=32)
    images = torch.stack([torch.full((3, 32, 32), shade) for shade in (0.0, 0.2, 0.4, 0.6)])
    photos = ReferenceViews(images, cameras)
    asked = Cameras.orbit(3, azimuth=(80, 100), radius=2.0, height=16, width=24)
    assert [photo.getpixel((0, 0)) for photo in nearest_photos(photos, asked)] == [(51, 51, 51)] * 3
    assert nearest_photos(photos, asked)[0].size == (24, 16)


def test_sheets_refuse_what_does_not_fit():
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))
    with pytest.raises(MVCustomError, match=r"views: expected views of one size, got \[\(8, 8\), \(16, 8\)\]"):
        labelled_sheet([LabelledViews("a", [small, large])])
    with pytest.raises(MVCustomError, match="got none"):
        labelled_sheet([])
    with pytest.raises(MVCustomError, match=r"sets: expected as many views in each, got \[1, 2\]"):
        side_by_side([LabelledViews("a", [small]), LabelledViews("b", [small, small])])


def test_long_labels_are_broken_into_lines_that_fit():
    text = "a <toy> car on a beach at sunset with two trees and a long way to go"
    one, several = text_block(text, LABEL_SIZE, 4000), text_block(text, LABEL_SIZE, 200)
    assert several.height >= 3 * one.height
    ink = np.asarray(several.convert("L")) < 128
    assert ink[:, :200].any()
    assert not ink[:, -2:].any()
