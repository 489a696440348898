"""The commands of the documentation's shell blocks: run in this process, or checked by the commands' own parsers."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer
from docs.page_blocks import ROOT, Block

from diffusers_mvcustom.cli import app, main

TRAINERS = ("train_lora", "train_backbone")


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In this folder, with accelerate's state (one for a whole process) as it is at the start of one."""
    from accelerate.state import AcceleratorState

    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        AcceleratorState._reset_state(True)


def commands_of(block: Block) -> list[list[str]]:
    """The words of every command, lines that end with a backslash joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def check_command(words: Sequence[str]) -> None:
    """Raises unless the program, the command and all its options are there."""
    _, program, arguments = _resolved(words)
    if program == "mvcustom":
        _parse_mvcustom(arguments)
    elif program in TRAINERS:
        _parse_training(program, arguments)
    elif program == "pip":
        _check_installation(arguments)
    elif program == "script":
        _check_script(arguments)
    elif program != "site":
        raise ValueError(f"not a command of this project: {shlex.join(words)}")


def run_command(words: Sequence[str]) -> None:
    """Runs a command of the package, or a trainer, in this process and this folder."""
    variables, program, arguments = _resolved(words)
    if variables or program not in ("mvcustom", *TRAINERS):
        raise ValueError(f"cannot be run here; say above the block that it is only parsed: {shlex.join(words)}")
    call: Callable[[list[str]], None] = main if program == "mvcustom" else _trainer(program)
    try:
        call(list(arguments))
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise AssertionError(f"exit code {stop.code}: {shlex.join(words)}") from stop


def _resolved(words: Sequence[str]) -> tuple[dict[str, str], str, list[str]]:
    """Variables that are set for the command, what is run in the end, and its arguments."""
    words = list(words)
    variables = {}
    while "=" in words[0] and words[0].partition("=")[0].isupper():
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    program, arguments = words[0], words[1:]
    if program == "accelerate":
        program, arguments = _launched(arguments)
    elif program == "python":
        program, arguments = "script", arguments
    elif program in ("mkdocs", "pytest"):
        program = "site"
    if program == "script" and arguments[0] in (f"{trainer}.py" for trainer in TRAINERS):
        program, arguments = arguments[0].removesuffix(".py"), arguments[1:]
    return variables, program, arguments


def _launched(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """What `accelerate launch` starts, by accelerate's own parser."""
    from accelerate.commands.launch import launch_command_parser

    assert arguments[0] == "launch", arguments
    launch = launch_command_parser().parse_args(arguments[1:])
    if launch.config_file is not None:
        assert any((folder / launch.config_file).is_file() for folder in (ROOT, ROOT / "docs" / "accelerate"))
    script, rest = launch.training_script, launch.training_script_args
    if not launch.module:
        return "script", [script, *rest]
    known = {"diffusers_mvcustom.cli": "mvcustom", **{f"diffusers_mvcustom.cli.{name}": name for name in TRAINERS}}
    return known[script], rest


def _parse_mvcustom(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in ("train-lora", "train-backbone"):
        _parse_training(arguments[0].replace("-", "_"), arguments[1:])
        return
    command, name, rest, context = typer.main.get_command(app), "mvcustom", list(arguments), None
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, list(rest), parent=context)
        name, command, rest = command.resolve_command(context, rest)
    command.make_context(name, rest, parent=context)


def _parse_training(program: str, arguments: Sequence[str]) -> None:
    from diffusers_mvcustom.training import BackboneTrainingConfig, SubjectTrainingConfig
    from diffusers_mvcustom.training.command_line import parse_settings

    config, prefix = (SubjectTrainingConfig, "") if program == "train_lora" else (BackboneTrainingConfig, "backbone_")
    words = [word for word in arguments if word != "..."]
    if "..." in arguments:  # what is needed is left to the reader
        needed = {"--model": "m", "--data": "d", "--output_dir": "o", "--token": "<t>"}
        known = {f"--{name}" for name in config.__dataclass_fields__}
        words += [w for name, value in needed.items() if name in known - set(words) for w in (name, value)]
    if "--help" not in words:
        parse_settings(config, words, program=f"{program}.py", description="", epilog="", preset_prefix=prefix)


def _trainer(program: str) -> Callable[[list[str]], None]:
    from diffusers_mvcustom.cli.train_backbone import main as train_backbone
    from diffusers_mvcustom.cli.train_lora import main as train_lora

    return train_lora if program == "train_lora" else train_backbone


def _check_installation(arguments: Sequence[str]) -> None:
    """What is installed is this package, with extras that it has."""
    extras = importlib.metadata.metadata("diffusers-mvcustom").get_all("Provides-Extra")
    assert arguments[0] == "install", arguments
    constraints = [after for word, after in itertools.pairwise(arguments) if word == "-c"]
    assert all((ROOT / file).is_file() for file in constraints), constraints
    wanted = [word for word in arguments[1:] if not word.startswith("-") and word not in constraints]
    for word in wanted:
        name, _, listed = word.removesuffix("]").partition("[")
        assert name in ("diffusers-mvcustom", "."), word
        assert {extra for extra in listed.split(",") if extra} <= set(extras), word


def _check_script(arguments: Sequence[str]) -> None:
    """A script of the repository; options are those that its source adds to its parser."""
    file = ROOT / arguments[0]
    if not file.is_file():
        raise ValueError(f"there is no {arguments[0]}; a script is named from the repository's root")
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    options = {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }
    for word in arguments[1:]:
        if word.startswith("-") and word.partition("=")[0] not in {*options, "--help"}:
            raise ValueError(f"{arguments[0]} has no option {word}; it has {sorted(options)}")
