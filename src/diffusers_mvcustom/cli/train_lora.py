"""`train_lora.py` and `mvcustom train-lora`: the subject trainer on the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from .failures import failure_line
from .training_models import load_training_model

_DESCRIPTION = """Learns a subject from posed photos: LoRA, a new word, and FeatureNeRF pose conditioning.

The result, OUTPUT_DIR/subject, is what `pipe.load_subject` and `mvcustom generate --subject` take; its LoRA and its word
also load in plain diffusers pipelines."""

_EXAMPLES = """examples:
  accelerate launch train_lora.py --config sd15 --data my-mug/ --output_dir out/my-mug
  accelerate launch train_lora.py --config tiny --data posed/ --output_dir out/try --token "<my-mug>" --class_noun mug
  accelerate launch train_lora.py --config settings.yaml --output_dir out/my-mug --resume_from_checkpoint latest"""


SCRIPT = ("accelerate", "launch", "train_lora.py")


def train_lora(arguments: Sequence[str], called: Sequence[str] = SCRIPT) -> None:
    """Parses the settings, loads the model, trains. Errors of the user's are raised as [`MVCustomError`].

    `called` is what stood before the arguments, for the result's card.
    """
    from ..training import SubjectTrainingConfig
    from ..training.command_line import parse_settings
    from ..training.environment_checks import check_environment

    config = parse_settings(
        SubjectTrainingConfig, arguments, program="train_lora.py", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    check_environment(config)
    from ..training import SubjectTrainer  # takes seconds: a mistake in the settings is told before

    pipe = load_training_model(config)
    command = shlex.join([*called, *arguments])
    SubjectTrainer(config, pipe, command=command).train()


def train_lora_command(context: typer.Context) -> None:
    """Learn a subject from posed photos; the same as `train_lora.py`.

    Example: `mvcustom train-lora --config sd15 --data my-mug/ --output_dir out/my-mug`

    Photos that `mvcustom prepare` did not give a token and a noun need `--token "<my-mug>" --class_noun mug`.
    """
    train_lora(context.args, called=("mvcustom", "train-lora"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the trainer; an error of the user's is one line on standard error, its traceback behind `--debug`."""
    run_trainer("train_lora.py", train_lora, sys.argv[1:] if arguments is None else arguments)


def run_trainer(program: str, train: Callable[[list[str]], Any], arguments: Sequence[str]) -> None:
    """Runs a trainer's command; exit code 1 after an error, 130 after Ctrl-C."""
    arguments = list(arguments)
    try:
        train([argument for argument in arguments if argument != "--debug"])
    except Exception as error:
        if "--debug" in arguments:
            raise
        print(failure_line(program, error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
