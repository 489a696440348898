"""Files of many prompts: one a line, or a JSON or YAML list."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import MVCustomError


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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MVCustomError(f"--prompts: {path} cannot be read: {error}") from error
    kind = path.suffix.lower()
    if kind == ".txt":
        entries: Any = [line.strip() for line in text.splitlines() if line.strip()]
    elif kind in (".json", ".yaml", ".yml"):
        entries = _parse(path, text, kind)
    else:
        raise MVCustomError(f"--prompts: expected a .txt, .json, .yaml or .yml file, got {path}.")
    if not isinstance(entries, list) or not entries:
        raise MVCustomError(f"--prompts: expected a list of at least one prompt in {path}.")
    requests = [_request(path, number, entry) for number, entry in enumerate(entries)]
    names = [request.output for request in requests]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MVCustomError(f"--prompts: {path}: expected a different output for every prompt, got {twice} twice.")
    return requests


def _parse(path: Path, text: str, kind: str) -> Any:
    import yaml

    try:
        return json.loads(text) if kind == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise MVCustomError(f"--prompts: {path} is not well formed: {error}") from error


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
    if request.seed is not None and (isinstance(request.seed, bool) or not isinstance(request.seed, int)):
        raise MVCustomError(f"{where}: expected seed to be a whole number, got {request.seed!r}.")
    name = request.output
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise MVCustomError(f"{where}: expected output to be the name of a folder, got {name!r}.")
    return request
