"""`train_backbone.py` on the command line, and the result on the Hub."""

import json
import re
import runpy
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import MotionAdapter
from training.backbone_small import SMALL, reset_accelerate, write_moving_squares

from diffusers_mvcustom.cli.train_backbone import load_backbone, main
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training import BackboneTrainingConfig
from diffusers_mvcustom.training.command_line import parse_settings

SETTINGS = {**SMALL, "max_train_steps": 2, "window_schedule": [[0, 1], [1, None]]}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value).replace("None", "null"))]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_moving_squares(tmp_path_factory.mktemp("videos"), count=3)


def test_from_videos_to_a_motion_adapter(videos, tmp_path):
    reset_accelerate()
    main(["--config", "tiny", "--data", str(videos), "--output_dir", str(tmp_path / "out"), *FLAGS])
    adapter = MotionAdapter.from_pretrained(tmp_path / "out" / "motion_adapter")
    assert adapter.config["attention_window"] is None
    card = (tmp_path / "out" / "motion_adapter" / "README.md").read_text()
    assert f"accelerate launch train_backbone.py --config tiny --data {videos}" in card
    assert "| attention window | the whole map |" in card


def test_mistakes_are_one_line_and_exit_code_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--config", "tiny", "--data", str(tmp_path / "nothing"), "--output_dir", str(tmp_path / "out")])
    assert stopped.value.code == 1
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown == f"train_backbone.py: data: there is no {tmp_path / 'nothing'}."
    with pytest.raises(SystemExit) as stopped:
        main(["--config", "tiny", "--data", "d", "--output_dir", "o", "--model", str(tmp_path)])
    assert stopped.value.code == 1
    assert f"model: {tmp_path} cannot be loaded" in capsys.readouterr().err


def test_the_script_shows_its_help(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "train_backbone.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--window_schedule" in shown
    assert "When which attention window begins" in shown


def test_training_goes_on_from_the_motion_adapter_that_is_named(tmp_path):
    """Also where the model has motion modules of its own, which diffusers would keep."""
    from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter, save_random_model

    _, adapter = random_unet2d_and_motion_adapter("tiny", seed=5)
    adapter.save_pretrained(tmp_path / "adapter")
    save_random_model(tmp_path / "video")
    for model in (str(tmp_path / "video"), "tiny"):
        config = BackboneTrainingConfig(model, "d", "o", motion_adapter=str(tmp_path / "adapter"))
        _, pipe = load_backbone(config)
        loaded = {name: weight for name, weight in pipe.unet.state_dict().items() if "motion_modules." in name}
        assert loaded.keys() == adapter.state_dict().keys()
        assert all(torch.equal(weight, adapter.state_dict()[name]) for name, weight in loaded.items())


def test_an_image_model_is_given_new_motion_modules(make_components, tmp_path):
    from diffusers import StableDiffusionPipeline

    from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter, save_random_model

    unet2d, adapter = random_unet2d_and_motion_adapter("tiny")
    parts = make_components("tiny", depth_estimator=False)
    parts = {**parts, "unet": unet2d, "safety_checker": None}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "image")
    config = BackboneTrainingConfig(str(tmp_path / "image"), "d", "o")
    changed, pipe = load_backbone(config)
    assert changed.fresh_motion
    modules = pipe.unet.down_blocks[0].motion_modules[0]
    assert modules.proj_out.weight.abs().max() == 0
    adapter.save_pretrained(tmp_path / "adapter")
    kept = BackboneTrainingConfig(str(tmp_path / "image"), "d", "o", motion_adapter=str(tmp_path / "adapter"))
    changed, pipe = load_backbone(kept)
    assert changed is kept
    assert (
        pipe.unet.down_blocks[0].motion_modules[0].proj_out.weight
        == adapter.down_blocks[0].motion_modules[0].proj_out.weight
    ).all()
    save_random_model(tmp_path / "video")
    config = BackboneTrainingConfig(str(tmp_path / "video"), "d", "o")
    changed, pipe = load_backbone(config)
    assert changed is config
    assert pipe.unet.down_blocks[0].motion_modules[0].proj_out.weight.abs().max() > 0


def test_the_result_goes_to_the_hub(videos, tmp_path):
    from hub_stand_in import HubStandIn

    from diffusers_mvcustom.training.backbone_files import upload_motion_adapter

    reset_accelerate()
    main(["--data", str(videos), "--output_dir", str(tmp_path / "out"), *FLAGS])
    with HubStandIn() as hub:
        upload_motion_adapter(
            tmp_path / "out" / "motion_adapter",
            "me/motion",
            private=True,
            endpoint=hub.endpoint,
            token=hub.valid_token,
        )
        repository = hub.repositories["me/motion"]
        files = repository.at("main")[1]
    assert repository.private
    assert {"config.json", "diffusion_pytorch_model.safetensors", "README.md", "training.json"} <= files.keys()
    assert json.loads(files["config.json"])["attention_window"] is None


def test_the_commands_in_the_documentation_are_valid():
    text = (Path(__file__).parents[2] / "docs" / "training_backbone.md").read_text(encoding="utf-8")
    commands = re.findall(r"^accelerate launch train_backbone\.py ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        config = parse_settings(
            BackboneTrainingConfig,
            shlex.split(command.replace("\\\n", " ")),
            program="train_backbone.py",
            description="",
            epilog="",
            preset_prefix="backbone_",
        )
        assert config.places
    schedule = re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1)
    settings = yaml.safe_load(schedule)
    stages = BackboneTrainingConfig("m", "d", "o", **settings, max_train_steps=100).windows().to_list()
    assert stages == [[0, 1], [20, 3], [40, 5], [60, {"32": None, "64": 5}]]
    flags = set(re.findall(r"`--(\w+)", text)) - {"config", "help"}
    assert flags
    assert flags <= {field.name for field in fields(BackboneTrainingConfig)}


@pytest.mark.parametrize("model", ["tiny", "folder"])
def test_a_motion_adapter_that_is_not_there_is_said_so(model, tiny_model, tmp_path):
    name = str(tiny_model) if model == "folder" else model
    settings = {"motion_adapter": str(tmp_path / "none"), "offline": True}
    with pytest.raises(MVCustomError, match=r"motion_adapter: .*none: there is no such folder"):
        load_backbone(BackboneTrainingConfig(name, "videos", str(tmp_path / "out"), **settings))
