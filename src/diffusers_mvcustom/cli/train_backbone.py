"""`train_backbone.py`: the backbone trainer on the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from .named_models import is_own_name, named
from .train_lora import run_trainer
from .training_models import load_training_model

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline
    from ..training import BackboneTrainingConfig

_DESCRIPTION = """Trains motion modules on videos while their attention widens from one position to the whole map.

The result, OUTPUT_DIR/motion_adapter, is a stock motion adapter whose attention window the pipeline finds by itself."""

_EXAMPLES = """examples:
  accelerate launch train_backbone.py --config sd15 --data "shards/clips-{0000..0041}.tar" --output_dir out/backbone
  accelerate launch train_backbone.py --config tiny --data videos/ --output_dir out/try
  accelerate launch train_backbone.py --config settings.yaml --output_dir out/backbone --resume_from_checkpoint latest"""


def train_backbone(arguments: Sequence[str]) -> None:
    """Parses the settings, loads the model, trains. Errors of the user's are raised as [`MVCustomError`]."""
    from ..training import BackboneTrainingConfig
    from ..training.command_line import parse_settings
    from ..training.environment_checks import check_environment

    config = parse_settings(
        BackboneTrainingConfig,
        arguments,
        program="train_backbone.py",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        preset_prefix="backbone_",
    )
    check_environment(config)
    from ..training import BackboneTrainer  # takes seconds: a mistake in the settings is told before

    config, pipe = load_backbone(config)
    command = shlex.join(["accelerate", "launch", "train_backbone.py", *arguments])
    BackboneTrainer(config, pipe, command=command).train()


def train_backbone_command(context: typer.Context) -> None:
    """Train motion modules on videos; the same as `train_backbone.py`.

    Example: `mvcustom train-backbone --config sd15 --data videos/ --output_dir out/backbone`
    """
    train_backbone(context.args)


def load_backbone(config: BackboneTrainingConfig) -> tuple[BackboneTrainingConfig, MVCustomPipeline]:
    """The settings' model; an image model without a motion adapter is given new motion modules (`fresh_motion`).

    Raises:
        MVCustomError: naming the model, if it cannot be loaded.
    """
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    from ..errors import MVCustomError
    from ..pipelines import MVCustomPipeline
    from ..training import fresh_motion_adapter

    if is_own_name(config.model) or config.motion_adapter is not None:
        return config, load_training_model(config)
    options = {"revision": config.revision, "variant": config.variant, "local_files_only": config.offline}
    options = {name: value for name, value in options.items() if value}
    hub = {name: value for name, value in options.items() if name != "variant"}
    with named("model", config.model):
        components = DiffusionPipeline.load_config(config.model, **hub)
        if "unet" not in components:
            raise MVCustomError(
                f"model: {config.model} has no U-Net; expected a model of the kind of Stable Diffusion 1.5."
            )
        has_adapter = (components.get("motion_adapter") or [None, None])[1] is not None
        if has_adapter or components["unet"][1] != "UNet2DConditionModel":
            return config, load_training_model(config)
        unet_config = UNet2DConditionModel.load_config(config.model, subfolder="unet", **hub)
        pipe = MVCustomPipeline.from_pretrained(
            config.model, motion_adapter=fresh_motion_adapter(unet_config), **options
        )
    return replace(config, fresh_motion=True), pipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the trainer; an error of the user's is one line on standard error, its traceback behind `--debug`."""
    run_trainer("train_backbone.py", train_backbone, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
