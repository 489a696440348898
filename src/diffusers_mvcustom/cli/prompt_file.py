"""Files of many prompts: one a line, or a JSON or YAML list."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import MVCustomError
from ..files.text_files import read_json, read_text
from .options import LEAST_SEED, MOST_SEED

_LONGEST_NAME = 160
"""Bytes; file systems take 255, and what is written beside it meanwhile has a longer name."""


@dataclass(frozen=True)
class PromptRequest:
    """One set of views to be generated.

    Args:
        prompt (`str`): What to generate.
        output (`str`): Name of its folder; by default the prompt's number in the file, from `0000`.
        subject (`str`, *optional*): Subject folder or Hub id, if it is another one than the command's.
        seed (`int`, *optional*): Seed of the noise, if it is another one than the command's.
    """

    prompt: str
    output: str
    subject: str | None = None
    seed: int | None = None


def read_prompts(path: Path) -> list[PromptRequest]:
    """The prompts of a `.txt` (one a line, empty lines are passed over), `.json`, `.yaml` or `.yml` file.

    JSON and YAML hold a list of texts, or of objects with `prompt` and, each optional, `subject`, `seed` and `output`.

    Raises:
        MVCustomError: naming the file and the entry, for anything else.
    """
    kind = path.suffix.lower()
    if kind not in (".txt", ".json", ".yaml", ".yml"):
        raise MVCustomError(f"--prompts: expected a .txt, .json, .yaml or .yml file, got {path}.")
    try:
        entries = _entries(path, kind)
    except MVCustomError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise MVCustomError(f"--prompts: {path} cannot be read: {reason}") from error
    if not isinstance(entries, list) or not entries:
        raise MVCustomError(f"--prompts: expected a list of at least one prompt in {path}.")
    requests = [_request(path, number, entry) for number, entry in enumerate(entries)]
    names = [request.output for request in requests]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MVCustomError(f"--prompts: {path}: expected a different output for every prompt, got {twice} twice.")
    return requests


def _entries(path: Path, kind: str) -> Any:
    if kind == ".txt":
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if kind == ".json":
        return read_json(path)
    from ..files.yaml_files import read_yaml

    return read_yaml(path)


def _request(path: Path, number: int, entry: Any) -> PromptRequest:
    where = f"--prompts: {path}, entry {number}"
    given = {"prompt": entry} if isinstance(entry, str) else entry
    known = [field.name for field in fields(PromptRequest)]
    if not isinstance(given, dict) or (unknown := sorted(set(map(str, given)) - set(known))):
        got = f"unknown {unknown}" if isinstance(given, dict) else repr(entry)
        raise MVCustomError(f"{where}: expected a text, or an object of {', '.join(known)}, got {got}.")
    request = PromptRequest(**{"prompt": None, "output": f"{number:04d}", **given})
    if not isinstance(request.prompt, str) or not request.prompt.strip():
        raise MVCustomError(f"{where}: expected a prompt, got {request.prompt!r}.")
    if request.subject is not None and not isinstance(request.subject, str):
        raise MVCustomError(f"{where}: expected subject to be a folder or Hub id, got {request.subject!r}.")
    seed = request.seed
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, int) or not LEAST_SEED <= seed <= MOST_SEED
    ):
        raise MVCustomError(
            f"{where}: expected seed to be a whole number from {LEAST_SEED} to {MOST_SEED}, got {seed!r}."
        )
    name = request.output
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise MVCustomError(f"{where}: expected output to be the name of a folder, got {name!r}.")
    if not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise MVCustomError(
            f"{where}: expected output to be a name of at most {_LONGEST_NAME} bytes that can be printed, got {name!r}."
        )
    return request
