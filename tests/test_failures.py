"""Errors on the command line name options, not arguments in Python."""

import pytest
import torch

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.cameras import check_cameras_face_subject, load_cameras, save_cameras
from diffusers_mvcustom.cli.failures import failure_line
from diffusers_mvcustom.pipelines.anchor_images import _other_view_size
from diffusers_mvcustom.pipelines.inputs import check_num_frames, check_prompts, check_view_size
from diffusers_mvcustom.subjects.target_cameras import check_target_cameras


def flipped():
    poses = Cameras.orbit(4).camera_to_world.clone()
    poses[:, :3, 1:3] *= -1
    return Cameras(poses, torch.tensor([[9.0, 0, 3], [0, 9, 2], [0, 0, 1]]), 4, 6)


def other_size():
    raise _other_view_size(64, 48, "12 × 12")


@pytest.mark.parametrize(
    ("fail", "said", "python"),
    [
        (lambda _: check_num_frames(40, 32), "Give --views-at-a-time 16", "views_at_a_time="),
        (lambda _: check_prompts("a mug", None, "<it>"), "or leave --subject out", "unload_subject"),
        (lambda _: check_view_size(63, 80, 8), "Give --height 64 --width 80", "height="),
        (lambda _: other_size(), "or give --height and --width", "Cameras.cover"),
        (lambda folder: load_cameras(folder / "clip.txt"), "--height, --width: a RealEstate10K", " height, width"),
        (lambda _: check_target_cameras(flipped(), far=2.0), "mvcustom cameras convert FILE NEW.json", "load_cameras"),
        (
            lambda _: check_cameras_face_subject(flipped()),
            "mvcustom cameras convert --convention opencv",
            "Name their",
        ),
    ],
)
def test_messages_name_options(fail, said, python, tmp_path):
    save_cameras(tmp_path / "clip.txt", Cameras.orbit(2))
    with pytest.raises(ValueError) as caught:
        fail(tmp_path)
    assert python in " " + str(caught.value)
    line = failure_line("mvcustom", caught.value)
    assert said in line
    assert python not in line.replace(str(tmp_path), "")


def test_other_messages_stay_as_they_are():
    assert (
        failure_line("mvcustom", ValueError("steps: expected 3, got x=4.")) == "mvcustom: steps: expected 3, got x=4."
    )


def test_an_unexpected_error_tells_what_it_came_from():
    def failing():
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as first:
            try:
                raise ModuleNotFoundError("Could not import module 'BloomPreTrainedModel'") from first
            except ModuleNotFoundError as second:
                raise RuntimeError("Failed to import diffusers.models") from second

    with pytest.raises(RuntimeError) as caught:
        failing()
    line = failure_line("mvcustom", caught.value)
    assert line.startswith(
        "mvcustom: RuntimeError: Failed to import diffusers.models (because of RuntimeError: operator"
    )
    assert "torchvision belongs to another torch" in line
    alone = failure_line("mvcustom", RuntimeError("no memory"))
    assert alone == "mvcustom: RuntimeError: no memory (--debug shows where)"
