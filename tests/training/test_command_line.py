"""Settings from yaml files and flags."""

import re
from dataclasses import fields

import pytest

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training import BackboneTrainingConfig, SubjectTrainingConfig
from diffusers_mvcustom.training.command_line import parse_settings, presets

NEEDED = ["--model", "tiny", "--data", "d", "--output_dir", "o", "--token", "<t>"]


def parse(*arguments):
    return parse_settings(SubjectTrainingConfig, arguments, program="train_lora.py", description="d", epilog="e")


def test_defaults_are_the_papers():
    config = parse(*NEEDED)
    assert config == SubjectTrainingConfig("tiny", "d", "o", "<t>")
    assert (config.max_train_steps, config.train_batch_size, config.learning_rate) == (1600, 4, 1e-4)
    assert (config.num_references, config.num_generation_references, config.text_dropout) == (5, 8, 0.1)
    assert (config.rgb_loss_weight, config.opacity_loss_weight, config.background_loss_weight) == (5, 10, 10)
    assert (config.prior_probability, config.importance_sampling_share) == (0.25, 0.9)


def test_flags_have_precedence_over_the_file_and_switches_need_no_value(tmp_path):
    (tmp_path / "s.yaml").write_text("rank: 4\nlearning_rate: 0.01\nuse_ema: true\nprompts: ['a {token}']\n")
    config = parse(*NEEDED, "--config", str(tmp_path / "s.yaml"), "--rank", "8", "--gradient-checkpointing")
    assert (config.rank, config.learning_rate, config.use_ema, config.gradient_checkpointing) == (8, 0.01, True, True)
    assert config.prompts == ["a {token}"]
    assert parse(*NEEDED, "--train_lora", "false").train_lora is False
    assert parse(*NEEDED, "--holdout", "3").holdout == 3
    assert parse(*NEEDED, "--holdout", "[a.jpg, b.jpg]").holdout == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("name", [name for name in presets() if not name.startswith("backbone")])
def test_every_preset_is_valid(name):
    config = parse("--config", name, "--data", "d", "--output_dir", "o", "--token", "<t>")
    assert config.model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "3"], "ranks"),
        (["--rank", "three"], "rank"),
        (["--learning_rat", "3"], "learning_rat"),
        (["--learning-rat=3"], "learning_rat"),
        (["--rank", "0"], "rank: expected at least 1, got 0"),
        (["--optimizer", "sgd"], "optimizer"),
        (["--config", "nowhere.yaml"], "--config: expected a yaml file or one of .*, got 'nowhere.yaml'"),
        (["--token", "my mug"], "token: expected one word"),
        (["--prompts", "[a mug]"], "prompts: expected texts with {token}"),
        (["--class_prompt", "a {thing}"], "class_prompt: expected no other placeholders"),
        (["--text_dropout", "1.5"], r"text_dropout: expected a share in \[0, 1\]"),
        (["--learning_rate", "-1"], "learning_rate: expected a number above 0"),
        (["--optimizer", "prodigy", "--lora_learning_rate", "0.5"], "lora_learning_rate: prodigy finds one step size"),
        (
            ["--train_lora", "false", "--train_token", "false", "--train_feature_nerf", "false"],
            "expected at least one of them",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_names_it(arguments, message):
    with pytest.raises(MVCustomError, match=message):
        parse(*NEEDED, *arguments)


def test_without_a_model_the_settings_that_have_one_are_named():
    with pytest.raises(MVCustomError, match=r"required.*; --config sd15 or .*toy brings settings"):
        parse(*NEEDED[2:])


def test_an_unknown_key_in_a_file_is_an_error(tmp_path):
    (tmp_path / "s.yaml").write_text("ranks: 4\n")
    with pytest.raises(MVCustomError, match="ranks"):
        parse(*NEEDED, "--config", str(tmp_path / "s.yaml"))


@pytest.mark.parametrize("config_class", [SubjectTrainingConfig, BackboneTrainingConfig])
def test_help_explains_every_option(config_class, capsys):
    with pytest.raises(SystemExit):
        parse_settings(config_class, ["--help"], program="train.py", description="d", epilog="e")
    shown = " ".join(capsys.readouterr().out.split())
    described = {}
    for base in reversed(config_class.__mro__[:-1]):
        entries = re.findall(r"^        (\w+): (.*(?:\n            .*)*)", base.__doc__, re.MULTILINE)
        described |= {name: " ".join(text.split()) for name, text in entries}
    assert described.keys() == {entry.name for entry in fields(config_class)}
    for name, text in described.items():
        assert f"--{name} " in shown
        assert text in shown, name
