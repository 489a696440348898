"""The shipped model, end to end, against what it gave when it was shipped (`shipped_model_values.py` says how)."""

import json

import numpy as np
import pytest
import torch
from toy.shipped_model_values import (
    CASES,
    DIGEST,
    TOLERANCES,
    VALUES,
    beyond_tolerance,
    digest,
    generate,
    load_pipeline,
    record,
    recorded,
)

from diffusers_mvcustom import Cameras, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.toy import AttributeReader, render, sample_scene
from diffusers_mvcustom.toy.shipped import shipped_folder
from diffusers_mvcustom.toy.tokenizer import toy_tokenizer

RECORD = "python tests/toy/shipped_model_values.py"


@pytest.fixture(scope="module")
def folders():
    return [shipped_folder(name) for name in ("toy", "toy-subject")]


@pytest.fixture(scope="module")
def values(folders):
    """What was recorded of these very weights."""
    assert VALUES.is_file(), f"nothing is recorded of the shipped model yet; run {RECORD}"
    values = recorded()
    assert str(values[DIGEST]) == digest(*folders), (
        f"the shipped model has changed since it was recorded; run {RECORD}"
    )
    assert values.keys() == {*CASES, DIGEST}, f"other cases were recorded; run {RECORD}"
    return values


@pytest.fixture(scope="module")
def pipelines(folders):
    """The model in every dtype, each loaded once."""
    return {dtype: load_pipeline(*folders, dtype) for dtype in TOLERANCES}


def case_and_dtype(case, dtype):
    # CPUs without bfloat16 instructions emulate it, which takes most of a minute.
    return pytest.param(case, dtype, marks=[pytest.mark.slow] if dtype == torch.bfloat16 else [])


@pytest.mark.parametrize(
    ("case", "dtype"), [case_and_dtype(case, dtype) for case, dtypes in CASES.items() for dtype in dtypes], ids=str
)
def test_it_gives_what_it_gave(values, pipelines, case, dtype):
    images = generate(pipelines[dtype], case)
    assert images.shape == values[case].shape
    assert beyond_tolerance(images, values[case], TOLERANCES[dtype]) == {}


def test_the_cases_differ_from_each_other(values):
    """What the subject and DFR do is larger than what rounding in float32 may."""
    for one, other in [("text", "subject"), ("subject", "subject with DFR at a given depth")]:
        assert beyond_tolerance(values[one], values[other], TOLERANCES[torch.float32])


def test_the_reader_loads_and_reads_renders():
    folder = shipped_folder("toy-attribute-reader")
    reader = AttributeReader.from_pretrained(folder, dtype=torch.float32).eval()
    scenes = [sample_scene("validation", index) for index in range(16)]
    camera = Cameras.orbit(1, azimuth=(30, 30), height=64, width=64)
    images = torch.cat([render(scene, camera).images for scene in scenes])
    right = [found["category"] == scene.attributes.category for found, scene in zip(reader.read(images), scenes)]
    assert sum(right) >= 12


# --- the harness itself, on a model of random weights ---


@pytest.fixture(scope="module")
def random_folders(tmp_path_factory, make_components):
    folder = tmp_path_factory.mktemp("random")
    pipe = MVCustomPipeline(**make_components("tiny"))
    photos = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    references = ReferenceViews(photos, Cameras.orbit(4, height=64, width=64))
    subject = SubjectAdapter.create(
        pipe.unet, references, "<toy>", "car", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    for name, parameter in subject.named_parameters():
        if "projection" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    pipe.save_pretrained(folder / "model")
    subject.save_pretrained(folder / "subject")
    record(folder / "model", folder / "subject", folder / "values.npz")
    return folder


def test_recorded_values_come_back(random_folders):
    values = recorded(random_folders / "values.npz")
    assert str(values[DIGEST]) == digest(random_folders / "model", random_folders / "subject")
    pipe = load_pipeline(random_folders / "model", random_folders / "subject")
    for case in CASES:
        assert values[case].shape == (4, 3, 64, 64)
        assert beyond_tolerance(generate(pipe, case), values[case], TOLERANCES[torch.float32]) == {}
    assert pipe.subject is not None
    assert (random_folders / "values.npz").stat().st_size < 500_000


def test_small_changes_of_the_weights_are_noticed(random_folders):
    values = recorded(random_folders / "values.npz")
    pipe = load_pipeline(random_folders / "model", random_folders / "subject")
    with torch.no_grad():
        pipe.unet.up_blocks[1].motion_modules[0].proj_out.weight.mul_(1.1)
    for case in CASES:
        assert beyond_tolerance(generate(pipe, case), values[case], TOLERANCES[torch.float32]), case


def test_other_files_have_another_digest(random_folders, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = digest(tmp_path)
    (tmp_path / "README.md").write_text("not part of it")
    assert digest(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    assert digest(tmp_path) != first


def test_tolerances_bound_mean_and_outliers():
    expected = np.zeros((1, 3, 10, 10), np.float16)
    tolerance = TOLERANCES[torch.float32]
    assert beyond_tolerance(expected + np.float32(0.9e-3), expected, tolerance) == {}
    assert beyond_tolerance(expected + np.float32(1.1e-3), expected, tolerance).keys() == {"mean"}
    spots = np.zeros((1, 3, 10, 10), np.float32)
    spots[0, 0, 0, :6] = 0.04  # one in fifty
    assert beyond_tolerance(spots, expected, tolerance).keys() == {"most"}
    assert beyond_tolerance(spots * np.nan, expected, tolerance).keys() == {"mean", "most"}


def test_the_tokenizer_is_what_its_words_make_in_any_process(tmp_path):
    toy_tokenizer().save_pretrained(tmp_path)
    shipped = shipped_folder("toy") / "tokenizer" / "tokenizer.json"
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == json.loads(shipped.read_text())
