"""The `mvcustom` command: one module a subcommand."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import cameras, subject, toy
from .benchmark import benchmark
from .demo import demo
from .evaluate import evaluate
from .generate import generate
from .prepare import prepare
from .random_model import random_model
from .train_backbone import train_backbone_command
from .train_lora import train_lora_command

app = typer.Typer(
    help="Your own object, seen from any camera, in any scene you can describe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(cameras.app, name="cameras")
app.add_typer(subject.app, name="subject")
app.add_typer(toy.app, name="toy")
app.command()(benchmark)
app.command()(demo)
app.command()(evaluate)
app.command()(generate)
app.command()(prepare)
app.command("random-model")(random_model)
for _name, _command in (("train-lora", train_lora_command), ("train-backbone", train_backbone_command)):
    # Arguments, --help among them, are the trainer's own.
    _options_of_its_own = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(_name, context_settings=_options_of_its_own, add_help_option=False)(_command)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Your own object, seen from any camera, in any scene you can describe."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error of the user's is one line on standard error, its traceback behind `--debug`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="mvcustom")
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if debug:
            raise
        typer.echo(f"mvcustom: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
