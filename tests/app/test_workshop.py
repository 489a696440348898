"""The app without its browser, on a tiny random model."""

import json
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from diffusers_mvcustom.app import CameraPath, Cancelled, Order, Workshop
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import views_to_pil

ORDER = Order("a <it> mug by a lake", path=CameraPath(views=3, span=40), steps=2)


def pixels(views):
    return np.stack([np.asarray(view) for view in views])


def test_what_is_loaded(workshop):
    assert "subject <it> (mug), 64 × 64, on cpu" in workshop.description
    assert workshop.example_prompt.startswith("a <it> mug")
    assert workshop.side == 64
    assert workshop.has_hooks
    assert len(workshop.references) == 4


def test_the_photos_guide_if_they_are_told_to(workshop):
    plain = workshop.generate(ORDER)
    guided = workshop.generate(replace(ORDER, reference_guidance_scale=3.0))
    assert not np.array_equal(pixels(plain.sets[0].views), pixels(guided.sets[0].views))


def test_two_sets_from_the_same_noise(workshop):
    told = []
    made = workshop.generate(replace(ORDER, compare=True), lambda share, text: told.append((share, text)))
    assert [one.label for one in made.sets] == ["with DFR and CLC", "without DFR and CLC"]
    with_hooks, without = made.sets
    assert not np.array_equal(pixels(with_hooks.views), pixels(without.views))
    # The plain set is what the pipeline gives without hooks for the same noise.
    cameras = workshop.cameras(ORDER)
    plain = workshop.pipe(
        ORDER.prompt, cameras, num_inference_steps=2, hooks=[], latents=workshop._noise(ORDER, cameras)
    )
    assert np.array_equal(pixels(without.views), pixels(views_to_pil(plain.frames)[0]))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert "with DFR and CLC: step 2 of 2" in [text for _, text in told]
    assert "2 × 3 views of 64 × 64" in made.summary


def test_the_archive_holds_everything(workshop, tmp_path):
    made = workshop.generate(replace(ORDER, compare=True, clc=False))
    with zipfile.ZipFile(made.archive) as archive:
        archive.extractall(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"with-dfr", "without-dfr-and-clc", "settings.json"}
    for name in ("images/0002.png", "sparse/0/points3D.bin", "transforms.json", "views.gif", "points.ply"):
        assert (tmp_path / "with-dfr" / name).stat().st_size > 0
    assert not (tmp_path / "without-dfr-and-clc" / "points.ply").exists()
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["prompt"], settings["path"]["span"], settings["clc"]) == (ORDER.prompt, 40, False)


def test_a_preview_is_quick(workshop):
    made = workshop.generate(replace(ORDER, path=CameraPath(views=9), steps=30, compare=True).preview())
    assert [one.label for one in made.sets] == ["without DFR and CLC"]
    assert len(made.sets[0].views) == 3
    assert "8 steps" in made.summary


def test_the_same_order_gives_the_same_views(workshop):
    first, again, other = (workshop.generate(replace(ORDER, seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(pixels(first.sets[0].views), pixels(again.sets[0].views))
    assert not np.array_equal(pixels(first.sets[0].views), pixels(other.sets[0].views))


@pytest.mark.parametrize("when", ["preparing", "step 2 of 50"])
def test_a_cancelled_run_ends_soon_and_the_next_one_works(workshop, when):
    told = []

    def progress(share, text):
        told.append(text)
        if text.endswith(when):
            assert not workshop.cancel("another's")
            assert workshop.cancel("mine")

    with pytest.raises(Cancelled):
        workshop.generate(replace(ORDER, steps=50, compare=True), progress, run="mine")
    assert len(told) <= 4
    assert not workshop.cancel("mine")  # nothing is running
    assert len(workshop.generate(ORDER, run="mine").sets) == 1


def test_cancelled_from_another_thread(workshop):
    begun, ended = threading.Event(), []

    def run():
        try:
            workshop.generate(replace(ORDER, steps=400), lambda share, text: begun.set(), run="mine")
        except Cancelled:
            ended.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    assert workshop.cancel("mine")
    thread.join(60)
    assert ended == ["cancelled"]


def test_files_of_old_runs_go(model):
    workshop = Workshop("cpu")
    workshop.load(str(model))
    order = Order("a mug", path=CameraPath(views=1), steps=1)
    made = [workshop.generate(order) for _ in range(9)]
    assert [one.archive.is_file() for one in made] == [False] + [True] * 8
    workshop.close()
    assert not made[-1].archive.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "prompt: expected a text"),
        ({"prompt": "a mug"}, "'<it>'"),
        ({"steps": 0}, "steps: expected"),
        ({"height": 63}, "height"),
        ({"path": CameraPath("loop")}, "preset"),
        ({"dfr": False, "clc": False, "compare": True}, "expected DFR or CLC to compare with"),
    ],
)
def test_what_cannot_be_generated_is_said_and_leaves_no_file(workshop, changes, message):
    before = workshop._runs.copy()
    with pytest.raises(MVCustomError, match=message):
        workshop.generate(replace(ORDER, **changes))
    assert workshop._runs == before


def test_without_depth_there_are_no_hooks(model_without_depth):
    workshop = Workshop("cpu")
    with pytest.raises(MVCustomError, match="none is loaded"):
        _ = workshop.description
    workshop.load(str(model_without_depth))
    assert not workshop.has_hooks
    assert "no DFR and CLC" in workshop.description
    made = workshop.generate(Order("a mug", path=CameraPath(views=2), steps=1))
    assert [one.label for one in made.sets] == ["without DFR and CLC"]
    with pytest.raises(MVCustomError, match="load a subject"):
        workshop.generate(Order("a mug", path=CameraPath(views=2), steps=1, frame="user"))
    workshop.close()


def test_what_cannot_be_loaded_changes_nothing(workshop, model, tmp_path):
    for wrong in (("", None), (str(tmp_path / "nothing"), None), (str(model), str(tmp_path / "nothing"))):
        with pytest.raises((ValueError, OSError)):
            workshop.load(*wrong)
    assert "subject <it> (mug)" in workshop.description
    assert len(workshop.generate(ORDER).sets) == 1
