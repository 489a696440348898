"""What the suite asks for: held out, new surroundings, the same in every run."""

from dataclasses import replace

import pytest
import torch

from diffusers_mvcustom import MVCustomError
from diffusers_mvcustom.evaluation.toy_suite import SuiteSettings, cases_of, subjects_of
from diffusers_mvcustom.evaluation.toy_suite.cases import TOKEN, TRAINING_GROUND
from diffusers_mvcustom.toy import HELD_OUT_PAIRS, read_caption, render

SETTINGS = SuiteSettings(subjects=3, prompts=2, seeds=2)


def test_every_subject_meets_every_prompt_path_and_seed():
    cases = [case for subject in subjects_of(SETTINGS) for case in cases_of(SETTINGS, subject)]
    assert len(cases) == len(set(cases)) == 3 * 2 * 2 * 2
    assert len({case.name for case in cases}) == len(cases)


def test_seeds_share_prompt_and_cameras():
    subject = subjects_of(SETTINGS)[0]
    cases = [case for case in cases_of(SETTINGS, subject) if case.prompt_index == 0 and case.path == "rotation"]
    assert cases[0].prompt == cases[1].prompt
    assert cases[0].cameras().allclose(cases[1].cameras())


def test_subjects_are_of_their_split_only():
    seeds = {split: {s.seed for s in subjects_of(replace(SETTINGS, split=split))} for split in ("train", "validation")}
    held_out = {subject.seed for subject in subjects_of(SETTINGS)}
    assert not held_out & seeds["train"]
    assert not held_out & seeds["validation"]
    for subject in subjects_of(SETTINGS):
        assert (subject.attributes.category, subject.attributes.color) not in HELD_OUT_PAIRS


def test_a_prompt_names_surroundings_that_the_subject_was_not_learnt_in():
    for subject in subjects_of(SETTINGS):
        prompts = {case.prompt for case in cases_of(SETTINGS, subject)}
        assert len(prompts) == SETTINGS.prompts
        for prompt in prompts:
            named = read_caption(prompt)
            assert TOKEN in prompt
            assert named["category"] == subject.attributes.category
            assert named["ground"] != TRAINING_GROUND
            assert "color" not in named


def test_all_scenes_of_a_case_show_the_same_subject(rotation):
    scenes = [rotation.true_scene(), rotation.true_scene(3), rotation.known_scene(), rotation.subject.training_scene()]
    assert all(scene.subject == scenes[0].subject for scene in scenes)
    assert scenes[0].light != scenes[1].light
    assert len(scenes[0].objects) == rotation.attributes.object_count > 0
    assert not scenes[2].objects
    cameras = rotation.cameras()
    masks = [render(scene, cameras, supersampling=1, shadows=False).masks for scene in scenes[2:]]
    assert torch.equal(*masks)


def test_training_cameras_define_the_subject_frame(rotation):
    distances = rotation.subject.training_cameras(30, 64).centers.norm(dim=-1)
    assert distances.max().item() == pytest.approx(1.0, abs=1e-6)
    assert distances.min() > 0.8


def test_target_cameras_turn_and_move_as_their_path_says(rotation, translation):
    axes = rotation.cameras().optical_axes[:, [0, 2]]
    first, last = torch.atan2(axes[0, 0], axes[0, 1]), torch.atan2(axes[-1, 0], axes[-1, 1])
    assert torch.rad2deg(last - first).remainder(360).item() == pytest.approx(90.0, abs=1e-3)
    cameras = translation.cameras()
    assert torch.equal(cameras.camera_to_world[0, :3, :3], cameras.camera_to_world[-1, :3, :3])
    assert (cameras.centers[-1] - cameras.centers[0]).norm().item() == pytest.approx(0.4, abs=1e-5)


@pytest.mark.parametrize(
    "bad", [{"split": "test"}, {"subjects": 0}, {"views": 2}, {"paths": ("spiral",)}, {"paths": ()}, {"seeds": 1.5}]
)
def test_settings_that_will_not_do_are_refused_by_name(bad):
    with pytest.raises(MVCustomError, match=next(iter(bad))):
        SuiteSettings(**bad)
