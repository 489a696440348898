"""The `mvcustom` command: one module a subcommand."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..package_versions import package_version
from . import cameras, subject, toy
from .benchmark import benchmark
from .browser_app import app_command
from .demo import demo
from .evaluate import evaluate
from .failures import failure_line
from .generate import generate
from .prepare import prepare
from .random_model import random_model
from .repeated_options import repeated_option
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
app.command("app")(app_command)
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


_ClickError: Any = typer.BadParameter.__mro__[2]
"""Click's base of all errors in arguments. Typer brings Click along, under another name in each release."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diffusers-mvcustom {package_version('diffusers-mvcustom')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Your own object, seen from any camera, in any scene you can describe."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error is one line on standard error, its traceback behind `--debug`.

    Exit codes: 0, 1 after an error, 2 for arguments that will not do, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        if (twice := repeated_option(typer.main.get_command(app), arguments)) is not None:
            raise typer.BadParameter(f"{twice}: given more than once, and it takes one value")
        code = app(
            [argument for argument in arguments if argument != "--debug"], prog_name="mvcustom", standalone_mode=False
        )
    except KeyboardInterrupt:
        code = 130
    except _ClickError as error:
        sys.exit(_refused(error))
    except Exception as error:
        if debug:
            raise
        typer.echo(failure_line("mvcustom", error), err=True)
        sys.exit(1)
    if code == 130:
        typer.echo("mvcustom: interrupted", err=True)
    sys.exit(code or 0)


def _refused(error: Any) -> int:
    """Says what is wrong with the arguments; without any, shows the help. Returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return error.exit_code
    command = getattr(getattr(error, "ctx", None), "command_path", "mvcustom")
    message = error.format_message()
    count = getattr(getattr(error, "param", None), "nargs", 1)
    if count > 1:
        message += f"; {error.param.opts[0]} takes {count} numbers, one after the other"
    line = failure_line(command, ValueError(message))
    typer.echo(f"{line} ({command} --help lists the options)", err=True)
    return error.exit_code
