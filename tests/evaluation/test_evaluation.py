"""All metrics at once: what is known of truth and nonsense, what is unavailable and why, across processes."""

import json
import multiprocessing

import pytest
import torch
import torch.distributed
from evaluation.view_sets import NONSENSE, nonsense, textured_views

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.cameras import load_capture, normalize_cameras
from diffusers_mvcustom.evaluation import Evaluation, MetricUnavailable
from diffusers_mvcustom.evaluation.evaluation_report import COLUMNS
from diffusers_mvcustom.subjects import ReferenceViews


def color_difference(one, other):
    return (one - other).abs().mean(dim=(1, 2, 3))


def color_similarity(one, other):
    return 1 - color_difference(one, other)


def brightness(images, text):
    return images.mean(dim=(1, 2, 3)) * (0.5 if text == "a mug" else 0.1)


def unavailable(*_):
    raise MetricUnavailable("weights are on the moon")


def with_own_scores(**changes):
    scores = {"dreamsim": color_difference, "lpips": color_difference, "dinov2": color_similarity, "clip": brightness}
    return Evaluation(**{**scores, "met3r": color_difference, "threads": 1, **changes})


def no_poses_needed(count=2):
    """Two views: too few for structure from motion, so nothing is started."""
    cameras = Cameras.orbit(count, azimuth=(0.0, 20.0), height=24, width=32)
    images = torch.rand(count, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    return images, cameras


def test_every_column_is_computed_or_said_to_be_unavailable():
    images, cameras = no_poses_needed()
    evaluation = with_own_scores(lpips=unavailable, met3r=None)
    said = evaluation.update(images, cameras, references=(images, cameras, None))
    assert said == "0 of 2 views registered: structure from motion needs 3 views, there are 2"
    report = evaluation.compute()
    assert [score.name for score in report.scores] == [
        column.name for column in COLUMNS if column.name not in report.unavailable
    ]
    assert report.unavailable == {
        "text alignment (CLIPScore)": "no prompt is known",
        "multi-view consistency (LPIPS)": "weights are on the moon",
        "multi-view consistency (MEt3R)": "no package to install: give a callable, in Python",
    }
    assert report["camera pose accuracy"] == report["RRA@15"] == report["views in place (COLMAP)"] == 0
    assert report["identity preservation (DreamSim)"] == pytest.approx(0, abs=1e-6)
    assert report["identity preservation (DINOv2)"] == pytest.approx(1, abs=1e-6)
    with pytest.raises(StopIteration):
        report["text alignment (CLIPScore)"]


def test_what_is_unavailable_is_not_tried_again_and_stays_so():
    tried = []

    def missing(images, text):
        tried.append(text)
        raise MetricUnavailable("weights are on the moon")

    images, cameras = no_poses_needed()
    evaluation = with_own_scores(clip=missing)
    for _ in range(2):
        evaluation.update(images, cameras, prompt="a mug")
    assert tried == ["a mug"]
    some = with_own_scores()
    some.update(images, cameras)
    some.update(images, cameras, prompt="a mug")
    assert some.compute().unavailable["text alignment (CLIPScore)"] == "no prompt is known"


def test_report_as_json_and_markdown():
    images, cameras = no_poses_needed()
    images[1] = 0.5
    evaluation = with_own_scores(lpips=unavailable)
    evaluation.update(images, cameras, prompt="a <v> mug", token="<v>")
    report = evaluation.compute()
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))  # features do not match: an infinite error
    assert values["numbers"]["tsed"]["median_error"] is None
    assert list(values["paper"]) == [
        "camera pose accuracy",
        "multi-view consistency (DreamSim)",
        "identity preservation (DreamSim)",
        "text alignment (CLIPScore)",
    ]
    assert values["paper"]["identity preservation (DreamSim)"] is None
    assert values["paper"]["multi-view consistency (DreamSim)"] == 1.0  # no pair agrees with its cameras
    assert values["paper"]["text alignment (CLIPScore)"] == pytest.approx(2.5 * 0.5 * images.mean().item())
    assert values["scores"]["TSED"] == {
        "value": 0.0,
        "higher_is_better": True,
        "scored": 0,
        "requested": 1,
        "unit": "pairs",
    }
    assert values["unavailable"]["identity preservation (DINOv2)"] == "no reference views are given"
    lines = report.to_markdown().splitlines()
    assert len(lines) == 2 + len(COLUMNS)
    assert lines[2].split("|")[1:4] == [
        f" {'camera pose accuracy ↑'.ljust(len(lines[0].split('|')[1]) - 2)} ",
        f" {'0.000'.ljust(len('not computed'))} ",
        " 0 of 1 pairs ",
    ]
    assert any("not computed" in line and "weights are on the moon" in line for line in lines)


def test_too_few_views_are_refused():
    images, cameras = no_poses_needed()
    with pytest.raises(MVCustomError, match="at least 2 views"):
        with_own_scores().update(images[:1], cameras[:1])
    with pytest.raises(MVCustomError, match="images: expected shape"):
        with_own_scores().update(images[..., :5], cameras)
    with pytest.raises(MVCustomError, match="nothing to compute"):
        with_own_scores(met3r=None).compute()


def _in_process(rank, store, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    images, cameras = no_poses_needed()
    evaluation = with_own_scores(lpips=unavailable if rank == 1 else color_difference)
    made = [images, images.flip(0), 0.5 * images]
    for part in made[:2] if rank == 0 else made[2:]:  # two sets in the first process, one in the second
        evaluation.update(part, cameras, prompt="a mug", references=(images, cameras, None))
    results.put((rank, evaluation.compute().to_dict()))
    torch.distributed.destroy_process_group()


def test_two_processes_compute_what_one_would(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_in_process, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for process in processes:
        process.start()
    both = dict(results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(timeout=20)
        assert process.exitcode == 0
    images, cameras = no_poses_needed()
    alone = with_own_scores(lpips=unavailable)
    for part in (images, images.flip(0), 0.5 * images):
        alone.update(part, cameras, prompt="a mug", references=(images, cameras, None))
    expected = alone.compute().to_dict()
    assert both[1] == expected
    lpips = "multi-view consistency (LPIPS)"
    assert both[0]["unavailable"] == {lpips: "unavailable in another process"}
    assert both[0]["scores"] == expected["scores"]
    assert expected["scores"]["text alignment (CLIPScore)"]["requested"] == 6


@pytest.fixture(scope="module")
def truth():
    images, cameras = textured_views()  # 16 views all around
    evaluation = with_own_scores()
    evaluation.update(images, cameras, prompt="a mug", references=(images, cameras, None))
    return evaluation.compute()


@pytest.mark.slow
def test_a_rendered_scene_scores_near_perfect(truth):
    for name in ("camera pose accuracy", "RRA@15", "RTA@15", "views in place (COLMAP)"):
        assert truth[name] == 1.0, name
    assert truth["AUC@30"] > 0.95
    assert truth["TSED"] > 0.9
    assert truth["multi-view consistency (DreamSim)"] < 0.3
    assert truth.numbers["sfm"]["views_registered"] == 16
    assert truth.numbers["cameras"]["median_rotation_degrees"] < 0.5
    assert truth.numbers["cameras"]["median_translation_degrees"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_scores_near_worst_in_every_metric_of_views_together(truth, kind):
    images, cameras = textured_views()
    evaluation = with_own_scores()
    evaluation.update(nonsense(kind, images), cameras, references=(images, cameras, None))
    report = evaluation.compute()
    for name in ("camera pose accuracy", "RRA@15", "RTA@15", "AUC@30", "views in place (COLMAP)", "TSED"):
        assert report[name] <= 0.15, (name, report[name])
    for name in ("multi-view consistency (DreamSim)", "multi-view consistency (LPIPS)"):
        assert report[name] >= 0.85, (name, report[name])
    assert report["multi-view consistency (MEt3R)"] >= 1.7
    assert report["identity preservation (DreamSim)"] > truth["identity preservation (DreamSim)"] + 0.05


@pytest.mark.slow
def test_photos_too_far_apart_are_reported_as_failed_k_of_n(buddha):
    capture = load_capture(buddha)
    photos = ReferenceViews.from_capture(capture.with_cameras(normalize_cameras(capture.cameras)[0]))
    evaluation = with_own_scores()
    said = evaluation.update(photos.images, photos.cameras, references=(photos.images, photos.cameras, photos.masks))
    assert "of 13 views registered: " in said
    assert "of 78 pairs of views show something in common" in said
    report = evaluation.compute()
    accuracy = next(score for score in report.scores if score.name == "camera pose accuracy")
    assert accuracy.requested == 78
    assert accuracy.value <= accuracy.scored / 78 < 0.25
    assert report["views in place (COLMAP)"] == 0
    assert report["identity preservation (DreamSim)"] == pytest.approx(0, abs=1e-6)
