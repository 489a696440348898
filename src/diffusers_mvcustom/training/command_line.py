"""Settings from yaml files and flags: unknown ones are errors, and flags have precedence."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from ..errors import MVCustomError
from ..files.yaml_files import read_yaml

Config = TypeVar("Config")


def presets(prefix: str = "") -> list[str]:
    """Names of the settings that come with the package for one trainer, for `--config NAME`.

    Args:
        prefix (`str`): What that trainer's files begin with; none for the subject trainer, whose names have no `_`.
    """
    folder = importlib.resources.files("diffusers_mvcustom.training").joinpath("presets")
    names = [entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    names = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return sorted(name for name in names if "_" not in name)


def parse_settings(
    config_class: type[Config],
    arguments: Sequence[str],
    *,
    program: str,
    description: str,
    epilog: str,
    preset_prefix: str = "",
) -> Config:
    """Reads the settings of a trainer from the command line.

    Args:
        config_class (`type`): A dataclass whose docstring describes its fields.
        arguments (sequence of `str`): Flags, such as `["--config", "tiny", "--rank", "8"]`.
        program (`str`), description (`str`), epilog (`str`): For `--help`.
        preset_prefix (`str`): Which of the package's own settings are this trainer's; see [`presets`].

    Returns:
        An instance of `config_class`.

    Raises:
        MVCustomError: naming the flag or key and what is wrong with it.
    """
    try:
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise MVCustomError(
            'training needs further packages: pip install "diffusers-mvcustom[train]" (jsonargparse is missing).'
        ) from error
    # A flag that is cut short would be taken for the only one that begins so: a mistyped name is to be an error.
    options = {"exit_on_error": False, "allow_abbrev": False}
    parser = ArgumentParser(prog=program, description=description, epilog=epilog, **options)
    parser.add_argument(
        "--config",
        action="config",
        help=f"yaml file, or one of the package's own: {', '.join(presets(preset_prefix))}",
    )
    parser.add_class_arguments(config_class)
    try:
        settings = parser.parse_args(_with_preset_paths(_in_full(arguments, config_class), preset_prefix))
    except Exception as error:  # jsonargparse has its own error classes for each kind of mistake
        if isinstance(error, (KeyboardInterrupt, MVCustomError)):
            raise
        message = " ".join(str(error).split()) or f"settings: {type(error).__name__}"
        if "required" in message and not any(word.startswith("--config") for word in arguments):
            message += f"; --config {' or '.join(presets(preset_prefix))} brings settings for a model"
        raise MVCustomError(message) from error
    values = {name: value for name, value in settings.as_dict().items() if name != "config"}
    return config_class(**values)


def _in_full(arguments: Sequence[str], config_class: type) -> list[str]:
    """Flags as diffusers' users write them: `--use_ema` for `--use_ema true`, and `--use-ema` for `--use_ema`."""
    switches = {f"--{entry.name}" for entry in fields(config_class) if entry.type in (bool, "bool")}
    full: list[str] = []
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            argument = name.replace("-", "_").replace("__", "--", 1) + equals + value
        full.append(argument)
        is_last = index + 1 == len(arguments) or arguments[index + 1].startswith("--")
        if argument in switches and is_last:
            full.append("true")
    return full


def _with_preset_paths(arguments: Sequence[str], preset_prefix: str) -> list[str]:
    """Replaces `--config NAME` by the path of the package's own file, unless there is a file of that name."""
    replaced = list(arguments)
    for index, argument in enumerate(replaced):
        name = None
        if argument == "--config" and index + 1 < len(replaced):
            name, position, prefix = replaced[index + 1], index + 1, ""
        elif argument.startswith("--config="):
            name, position, prefix = argument.removeprefix("--config="), index, "--config="
        if name is None:
            continue
        known = presets(preset_prefix)
        if name in known and not _is_file(Path(name)):
            folder = importlib.resources.files("diffusers_mvcustom.training").joinpath("presets")
            file = folder.joinpath(f"{preset_prefix}{name}.yaml")
            replaced[position] = f"{prefix}{file}"
        elif not _is_file(Path(name)):
            raise MVCustomError(f"--config: expected a yaml file or one of {', '.join(known)}, got {name!r}.")
        else:
            _check_plain(Path(name))
    return replaced


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for one
        return False


def _check_plain(file: Path) -> None:
    """Refuses YAML that the parser would follow further than any settings go: aliases, objects, deep nesting."""
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise MVCustomError(f"{file}: expected settings by name, got {type(content).__name__}.")
