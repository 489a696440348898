"""`train_lora.py` on the command line, what it shows, and the result on the Hub."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from hub_stand_in import HubStandIn

from diffusers_mvcustom.cli.train_lora import main
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training import SubjectTrainingConfig
from diffusers_mvcustom.training.command_line import parse_settings
from diffusers_mvcustom.training.environment_checks import check_environment

ROOT = Path(__file__).parents[2]


def flags_of(settings):
    return [
        word for name, value in settings.items() for word in (f"--{name}", yaml.safe_dump(value).split("\n...")[0])
    ]


def test_a_training_shows_how_far_it_is_and_goes_to_the_hub(small_settings, tmp_path, capsys, monkeypatch):
    settings = {**small_settings, "max_train_steps": 3, "holdout": 2, "validation_steps": 2}
    flags = [*flags_of(settings), "--push_to_hub", "--hub_private_repo", "--hub_model_id", "me/my-cube"]
    with HubStandIn() as hub:
        command = [sys.executable, ROOT / "train_lora.py", "--output_dir", "out", *flags]
        options = {
            "cwd": tmp_path,
            "env": {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.valid_token, "HF_HUB_OFFLINE": "0"},
            "capture_output": True,
            "text": True,
        }
        run = subprocess.run(command, **options)
        assert run.returncode == 0, run.stderr[-3000:]
        repository = hub.repositories["me/my-cube"]
        files = repository.at("main")[1]
    assert repository.private
    assert {"subject_config.json", "feature_nerf.safetensors", "pytorch_lora_weights.safetensors"} <= files.keys()
    card = files["README.md"].decode()
    assert "accelerate launch train_lora.py --output_dir out --model tiny" in card
    assert "samples/feature-nerf.png" in files
    # steps, the time that is left, losses, throughput, memory
    bar = re.findall(r"training: .*?3/3 \[\d+:\d+<\d+:\d+, .*\]", run.stderr)[-1]
    assert re.search(r"loss [\d.]+ denoising [\d.]+ · [\d.]+ images/s · [\d.]+ GiB", bar)
    assert re.search(r"step 2: held-out cameras: PSNR [\d.]+ dB, opacity off by [\d.]+", run.stderr)
    assert f"uploaded → {hub.endpoint}/me/my-cube" in run.stderr
    assert re.search(r"10 photos × 2 crops of 32 × 32, 2 held out, .* trained weights: LoRA [\d,]+", run.stdout)
    # The Hub is down now.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", hub.valid_token)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", "out", *flags, "--resume_from_checkpoint", "latest"])
    assert stopped.value.code == 1
    assert re.search(r"train_lora.py: push_to_hub: .* The result is whole in out/subject", capsys.readouterr().err)
    assert (tmp_path / "out" / "subject" / "README.md").is_file()


def test_mistakes_are_one_line_and_exit_code_1(small_settings, tmp_path, capsys, monkeypatch):
    def shown(*arguments, **settings):
        with pytest.raises(SystemExit) as stopped:
            main([*flags_of({**small_settings, **settings}), "--output_dir", str(tmp_path / "out"), *arguments])
        assert stopped.value.code == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert shown(data=str(tmp_path / "nothing")).startswith("train_lora.py: ")
    assert f"model: {tmp_path} cannot be loaded" in shown(model=str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "the configuration says FSDP" in shown(model="nowhere/at-all")  # before the model is looked for


def test_no_upload_without_an_access_token(small_settings, tmp_path, capsys, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path / "out"), *flags_of(small_settings), "--push_to_hub"])
    assert stopped.value.code == 1
    assert "push_to_hub: there is no access token" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variable", "engine"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
    ],
)
def test_engines_that_shard_are_refused(variable, engine):
    config = SubjectTrainingConfig("tiny", "d", "o", "<t>")
    check_environment(config, {variable: "false", "ACCELERATE_MIXED_PRECISION": "bf16"})
    with pytest.raises(MVCustomError, match=rf"data parallelism, the configuration says {engine}.*several_gpus.yaml"):
        check_environment(config, {variable: "True"})


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "accelerate").iterdir()), ids=lambda file: file.stem)
def test_the_accelerate_configurations_in_the_documentation_are_valid(file):
    config = load_config_from_file(str(file))  # raises for unknown keys
    assert config.distributed_type in (DistributedType.NO, DistributedType.MULTI_GPU)
    assert (config.num_processes > 1) == (config.distributed_type == DistributedType.MULTI_GPU)
    assert config.num_processes % config.num_machines == 0
    assert config.mixed_precision == "no"


def test_the_commands_and_options_in_the_documentation_are_valid():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    whole_lines = re.sub(r"\s*\\\n\s*", " ", text)
    program = r"(?:accelerate launch (?:--\S+ \S+ )*train_lora\.py|mvcustom train-lora)"
    commands = re.findall(rf"^{program} (.*)$", whole_lines, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        words = [word for word in shlex.split(command) if word != "..."]
        needed = {"--data": "d", "--output_dir": "o", "--token": "<t>"}
        words += [word for name, value in needed.items() if name not in words for word in (name, value)]
        parse_settings(SubjectTrainingConfig, words, program="train_lora.py", description="", epilog="")
    options = set(re.findall(r"`--(\w+)", text)) - {"config", "help"}
    assert len(options) >= 5
    assert options <= {field.name for field in fields(SubjectTrainingConfig)}
