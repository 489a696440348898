"""A whole run on random components: real trainer, real pipeline, all methods; and going on where it stopped."""

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.evaluation.toy_suite import (
    CHOICES,
    CONTROLS,
    METHODS,
    Method,
    SuiteSettings,
    ToySuite,
    cases_of,
    subjects_of,
    write_json,
    write_page,
    write_sheets,
)
from diffusers_mvcustom.evaluation.toy_suite.environment import environment
from diffusers_mvcustom.evaluation.toy_suite.known_geometry import KnownGeometry
from diffusers_mvcustom.evaluation.toy_suite.methods import generate
from diffusers_mvcustom.evaluation.toy_suite.scores import ViewScores
from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter

SETTINGS = SuiteSettings(
    split="validation",
    subjects=1,
    prompts=1,
    seeds=1,
    paths=("rotation",),
    views=4,
    steps=2,
    training_views=4,
    size=32,
)
TRAINING = """
model: tiny
initializer_token: mug
resolution: 32
max_train_steps: 2
train_batch_size: 1
crops_per_photo: 1
num_references: 2
num_generation_references: 2
feature_nerf: {num_samples: 4}
prior_probability: 0.0
rank: 2
"""


class _CountingLoader:
    """Gives fresh tiny pipelines and remembers how many."""

    def __init__(self, make_components):
        self.make_components, self.count = make_components, 0

    def __call__(self):
        self.count += 1
        return MVCustomPipeline(**self.make_components("tiny"), attention_window=None)


@pytest.fixture(scope="module")
def make_suite(make_components, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy-suite")
    training = folder / "training.yaml"
    training.write_text(TRAINING)

    def make(settings=SETTINGS, load_model=None, **options):
        loader = _CountingLoader(make_components)
        suite = ToySuite(
            load_model or loader,
            model_name="tiny",
            model_key="random weights",
            cells=folder / "cells",
            settings=settings,
            training_arguments=["--config", str(training)],
            **options,
        )
        return suite, loader

    return make


@pytest.fixture(scope="module")
def finished(make_suite):
    from accelerate.state import AcceleratorState

    suite, loader = make_suite()
    results = suite.run(progress=iter)
    AcceleratorState._reset_state(True)
    return suite, loader, results


def test_every_method_and_control_has_every_number(finished):
    _, loader, results = finished
    assert loader.count == 3  # two trainings, one for generating
    assert set(results["methods"]) == {method.title for method in METHODS}
    assert set(results["controls"]) == set(CONTROLS)
    assert results["cases"] == 1
    for title, row in results["methods"].items():
        assert row["failures"] == {}, title
        assert row["numbers"]["seconds"]["mean"] > 0
        assert row["numbers"]["peak GiB"]["mean"] > 0
        missing = [name for name, value in row["numbers"].items() if value["mean"] is None]
        assert missing == ["text"], title
    assert set(results["trainings"]) == {"pose-conditioned", "lora"}


def test_a_rerun_does_nothing_again_and_more_seeds_only_what_is_new(finished, make_suite):
    _, _, results = finished
    suite, loader = make_suite()
    assert suite.run(progress=iter) == results
    assert loader.count == 0
    more, loader = make_suite(replace(SETTINGS, seeds=2), methods=METHODS[:1])
    got = more.run(progress=iter)
    assert loader.count == 1  # trained before
    assert got["methods"]["full"]["each"].items() > results["methods"]["full"]["each"].items()
    assert got["methods"]["full"]["numbers"]["consistency"]["spread"] is not None


def test_other_motion_modules_take_the_subjects_that_are_trained(finished, make_suite):
    suite, _, _ = finished
    other, loader = make_suite(methods=METHODS[:1], image_model_key="random weights")
    other.model_key = "other motion modules"
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    with pytest.raises(MVCustomError, match="has not been generated"):
        other.views(case, METHODS[0])
    other.run(progress=iter)
    assert loader.count == 1  # for generating alone
    assert torch.equal(other.views(case, METHODS[0]), suite.views(case, METHODS[0]))


def test_the_spread_of_a_single_seed_is_over_subjects(make_suite):
    settings = replace(SETTINGS, subjects=2)
    suite, _ = make_suite(settings)
    first, second = (next(cases_of(settings, subject)) for subject in subjects_of(settings))
    worst = ViewScores.worst(first, "failed", reader=False)
    numbers = suite._numbers({first: worst, second: replace(worst, consistency=1.0)}, None)
    assert numbers["consistency"] == {"mean": 0.5, "spread": pytest.approx(math.sqrt(0.5))}
    assert numbers["repetition"]["spread"] == 0


def test_methods_start_from_one_noise_and_differ_by_what_they_leave_out(finished):
    suite, _, _ = finished
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    views = {method.name: suite.views(case, method) for method in METHODS}
    for name, images in views.items():
        assert images.shape == (4, 3, 32, 32)
        # Random pictures show no ground that the depth could be fitted to.
        assert torch.equal(images, views["full"]) == (name in ("full", "without_ground")), name


def test_only_lora_and_token_alone_are_blind_to_cameras(finished):
    suite, _, _ = finished
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    pipe = suite.load_model()
    pipe.set_progress_bar_config(disable=True)
    for kind in ("pose-conditioned", "lora"):
        pipe.load_subject(suite.trainings.folder(case.subject, kind), adapter_name=kind)
    for method in METHODS:
        one, other = (
            generate(pipe, method, replace(case, path=path), replace(SETTINGS, steps=1)).images
            for path in ("rotation", "translation")
        )
        assert torch.equal(one, other) == (method.name == "lora"), method.name
    assert pipe.config.attention_window is None  # as it was before the method with window 1


def test_choices_change_one_setting_each(finished):
    suite, _, _ = finished
    assert len({method.name for method in CHOICES}) == len({method.title for method in CHOICES}) == len(CHOICES)
    changed = [method for method in CHOICES if method.hook_settings or method.anchor or method.guidance]
    assert len(changed) == len(CHOICES) - 3  # besides full and the two without hooks
    for method in changed:
        settings = [*method.hook_settings.values(), *(one for one in (method.anchor, method.guidance) if one)]
        assert [len(setting) for setting in settings] == [1], method.name
        assert {"hook_settings", "anchor", "guidance"} & set(method.to_dict())
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    pipe = suite.load_model()
    pipe.set_progress_bar_config(disable=True)
    pipe.load_subject(suite.trainings.folder(case.subject, "pose-conditioned"), adapter_name="pose-conditioned")
    before = [repr(hook) for hook in pipe.hooks]
    hooks = METHODS[0].hooks
    views = {
        method.name: generate(pipe, method, case, SETTINGS).images
        for method in (
            METHODS[0],
            Method("layers", "", hooks=hooks, hook_settings={hooks[0]: {"layers": r"up_blocks\.0\..*"}}),
            Method("anchor", "", hooks=hooks, anchor={"frames": 0}),
            Method("same", "", hooks=hooks, anchor={"align": True}),
            Method("guided", "", hooks=hooks, guidance={"reference_guidance_scale": 6.0}),
        )
    }
    guided = replace(SETTINGS, reference_guidance_scale=6.0)
    assert torch.equal(views["guided"], generate(pipe, METHODS[0], case, guided).images)
    assert not torch.equal(views["guided"], views["full"])
    assert torch.equal(views["same"], views["full"])
    assert not torch.equal(views["layers"], views["full"])
    assert not torch.equal(views["anchor"], views["full"])
    assert [repr(hook) for hook in pipe.hooks] == before


def test_exact_depth_takes_the_place_of_preview_and_estimate(finished):
    suite, _, _ = finished
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    pipe = suite.load_model()
    pipe.set_progress_bar_config(disable=True)
    pipe.load_subject(suite.trainings.folder(case.subject, "pose-conditioned"), adapter_name="pose-conditioned")
    exact, other = (method for method in METHODS if method.exact_depth)
    assert (exact.hooks, exact.one_dimensional, other.one_dimensional) == (METHODS[0].hooks, False, True)
    assert exact.to_dict()["exact_depth"] is True
    assert "exact_depth" not in METHODS[0].to_dict()  # left out as other defaults are
    views = generate(pipe, exact, case, SETTINGS).images
    torch.testing.assert_close(views, suite.views(case, exact), atol=0.6 / 255, rtol=0)  # kept in 8 bit
    with torch.no_grad():  # another depth model makes no difference
        for parameter in pipe.depth_estimator.parameters():
            parameter.normal_()
    assert torch.equal(views, generate(pipe, exact, case, SETTINGS).images)
    # The anchor's own depth counts, not another view's.
    first = replace(exact, anchor={"frames": 0})
    moved = generate(pipe, first, case, SETTINGS).images
    known = KnownGeometry.of(case)
    side = case.size // pipe.vae_scale_factor
    noise = torch.randn(1, 4, case.views, side, side, generator=torch.Generator().manual_seed(case.seed))
    given = pipe(
        case.prompt,
        cameras=case.cameras(),
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance_scale,
        reference_guidance_scale=SETTINGS.reference_guidance_scale,
        latents=noise,
        generator=torch.Generator().manual_seed(case.seed),
        anchor=0,
        anchor_depth=known.depth[0],
        pose_guidance_end=1.0,
        output_type="pt",
    ).frames[0]
    assert torch.equal(moved, given.clamp(0, 1))


def test_what_the_pipeline_gives_up_counts_as_the_worst(make_suite, make_components, finished):
    def broken():
        pipe = MVCustomPipeline(**make_components("tiny"))
        with torch.no_grad():
            pipe.unet.conv_out.bias.fill_(float("nan"))
        return pipe

    method = METHODS[2]
    # Steps are others than those of the views that are there already; the trainings are the same.
    suite, _ = make_suite(replace(SETTINGS, steps=1), load_model=broken, methods=(method,))
    row = suite.run(progress=iter)["methods"][method.title]
    assert "NaN" in next(iter(row["failures"].values()))
    assert row["numbers"]["subject RRA@15"]["mean"] == 0
    assert row["numbers"]["failed"]["mean"] == 1
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    assert (suite.views(case, method) == 0).all()


def test_the_report_says_what_was_measured_and_how(finished, tmp_path):
    suite, _, results = finished
    results = results | {
        "command": "mvcustom benchmark",
        "model": {"name": "tiny", "key": "random weights"},
        "reader": None,
        "training": "training.yaml",
        "environment": environment("cpu"),
    }
    sheets = write_sheets(suite, tmp_path / "sheets")
    write_json(tmp_path / "toy_benchmark.json", results)
    write_page(tmp_path / "toy_choices.md", results, [])
    assert "[toy_choices.json](toy_choices.json)" in (tmp_path / "toy_choices.md").read_text()
    write_page(tmp_path / "toy_benchmark.md", results, [sheet.name for sheet in sheets])
    assert json.loads((tmp_path / "toy_benchmark.json").read_text()) == json.loads(json.dumps(results))
    page = (tmp_path / "toy_benchmark.md").read_text()
    for title in [*(method.title for method in METHODS), *CONTROLS]:
        assert f"| {title} |" in page
    full = results["methods"]["full"]["numbers"]["consistency"]["mean"]
    assert f"{full:.3f}" in page
    assert "deviation over subjects" in page
    assert "settings training.yaml" in page
    assert "missing" in page  # text alignment, without a reader
    assert torch.__version__.split("+")[0] in page
    assert len(sheets) == 1
    with Image.open(sheets[0]) as sheet:
        assert sheet.width > 4 * 176


def test_one_dimensional_motion_modules_are_for_methods_with_that_attention(finished, make_suite, tmp_path):
    before, _, _ = finished
    _, adapter = random_unet2d_and_motion_adapter("tiny", seed=5)
    adapter.save_pretrained(tmp_path)
    suite, loader = make_suite(one_dimensional_motion=tmp_path)
    suite.run(progress=iter)
    assert loader.count == 1  # to generate anew by one method
    case = next(cases_of(SETTINGS, subjects_of(SETTINGS)[0]))
    for method in METHODS:
        same = torch.equal(suite.views(case, method), before.views(case, method))
        assert same != method.one_dimensional, method.name
