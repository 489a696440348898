"""The shell commands of `commands.json`: training and whatever else is owed."""

import json
from pathlib import Path

import benchmarks.gpu
from benchmarks.gpu.slice import Slice

KNOWN = {"name", "command", "quick_command", "limit", "expected", "resumable"}


def slices(options):
    file = Path(benchmarks.gpu.__file__).parent / "commands.json"
    found = []
    for entry in json.loads(file.read_text(encoding="utf-8")):
        unknown = sorted(set(entry) - KNOWN)
        if unknown:
            raise ValueError(f"{file.name}: expected keys among {sorted(KNOWN)}, got {unknown}.")
        settings = {key: entry[key] for key in ("limit", "expected", "resumable") if key in entry}
        command = entry["quick_command"] if options.quick else entry["command"]
        command = command.replace("{device}", options.device)
        found.append(Slice(entry["name"], ("bash", "-euo", "pipefail", "-c", command), **settings))
    return found
