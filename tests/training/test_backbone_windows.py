"""The schedule of attention windows and the settings around it."""

import pytest

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training import BackboneTrainingConfig
from diffusers_mvcustom.training.backbone_windows import WindowSchedule
from diffusers_mvcustom.training.command_line import parse_settings, presets


def parse(*arguments):
    return parse_settings(
        BackboneTrainingConfig,
        arguments,
        program="train_backbone.py",
        description="d",
        epilog="e",
        preset_prefix="backbone_",
    )


NEEDED = ["--model", "tiny", "--data", "d", "--output_dir", "o"]


def test_shares_and_steps_say_the_same():
    by_share = WindowSchedule([(0.0, 1), (0.2, 3), (0.5, {"16": 5, "8": None}), (0.9, None)], 50)
    by_step = WindowSchedule([(0, 1), (10, 3), (25, {"16": 5, "8": None}), (45, None)], 50)
    assert by_share.to_list() == by_step.to_list() == [[0, 1], [10, 3], [25, {"8": None, "16": 5}], [45, None]]
    settings = [by_step.at(step).setting for step in (0, 9, 10, 24, 25, 44, 45, 49)]
    assert settings == [1, 1, 3, 3, {"8": None, "16": 5}, {"8": None, "16": 5}, None, None]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "at least one entry"),
        ([(5, 1)], "the first entry at 0"),
        ([(0, 1), (0.0, 3)], r"later than the one before; with 100 steps they begin at \[0, 0\]"),
        ([(0, 1), (50, 3), (0.4, 5)], r"begin at \[0, 50, 40\]"),
        ([(0, 1), (100, 3)], "step 100 would never be reached; there are 100 steps"),
        ([(0, 1), (1.5, 3)], "a share below 1 or a whole number of steps, got 1.5"),
        ([(0, 1), (-1, 3)], "a step or a share of all steps, got -1"),
        ([(0, 4)], r"\(0, 4\): attention_window: expected an odd number"),
        ([(0, 3), (10, 1)], "windows that widen, got 1 after 3"),
        ([(0, None), (10, 3)], "windows that widen, got 3 after None"),
        ([(0, 1, 3)], r"pairs of step or share and window, got \(0, 1, 3\)"),
    ],
)
def test_a_schedule_that_will_not_do_is_refused(entries, message):
    with pytest.raises(MVCustomError, match=f"window_schedule: .*{message}"):
        BackboneTrainingConfig("tiny", "d", "o", window_schedule=entries, max_train_steps=100)


def test_settings_on_the_command_line(tmp_path):
    assert parse(*NEEDED) == BackboneTrainingConfig("tiny", "d", "o")
    (tmp_path / "s.yaml").write_text(
        "data: [a, b]\nresolution: [256, 384]\nwindow_schedule: [[0, 1], [0.5, {'64': 3, '32': null}], [0.75, null]]\n"
    )
    config = parse("--model", "tiny", "--output_dir", "o", "--config", str(tmp_path / "s.yaml"), "--use-ema")
    assert config.data == config.places == ["a", "b"]
    assert tuple(config.resolution) == (256, 384)
    assert config.use_ema is True
    expected = [[0, 1], [25000, {"32": None, "64": 3}], [37500, None]]
    assert config.windows().to_list() == expected
    flag = parse(*NEEDED, "--window_schedule", "[[0, 1], [0.5, {'64': 3, '32': null}], [0.75, null]]")
    assert flag.windows().to_list() == expected
    assert parse(*NEEDED, "--resolution", "128").resolution == 128


def test_presets_are_this_trainers_own():
    assert {"sd15", "tiny"} <= set(presets("backbone_"))
    assert not [name for name in presets() if "backbone" in name]
    assert parse("--config", "tiny", *NEEDED).num_frames == 8
    assert parse("--config", "tiny", *NEEDED, "--num_frames", "5").num_frames == 5


@pytest.mark.parametrize("name", presets("backbone_"))
def test_every_preset_is_valid(name):
    assert parse("--config", name, *NEEDED).windows().at(0).setting == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", "3"], "windows"),
        (["--num_frames", "1"], "num_frames: expected at least 2, got 1"),
        (["--image_share", "2"], r"image_share: expected a share in \[0, 1\]"),
        (["--min_crop", "0"], r"min_crop: expected a share in \(0, 1\]"),
        (["--min_crop", "0.5", "--random_crop", "false"], "min_crop: crops in the middle"),
        (["--noise_offset", "-1"], "noise_offset: expected 0 or more"),
        (["--learning_rate", "0"], "learning_rate: expected a number above 0"),
        (["--fresh_motion", "--motion_adapter", "m"], "fresh_motion: motion_adapter names"),
        (["--data", "[]"], "data: expected a folder"),
        (["--unreadable", "ignore"], "unreadable"),
        (["--config", "nowhere"], "--config: expected a yaml file or one of .*tiny.*, got 'nowhere'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(MVCustomError, match=message):
        parse(*NEEDED, *arguments)
