"""What a benchmark says about where it ran."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import diffusers
import torch


def describe_environment(device: str) -> dict[str, str]:
    """Device, versions and commit, singly and as one sentence."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{len(os.sched_getaffinity(0))}-core {platform.machine()} CPU"
    found = {
        "device": name,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "commit": os.environ.get("MVCUSTOM_COMMIT") or _commit(),
    }
    found["text"] = (
        f"Device: {name}; torch {found['torch']}, diffusers {found['diffusers']}, commit {found['commit']}."
    )
    return found


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _commit() -> str:
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:  # no git here
        return "unknown"
    return asked.stdout.strip() or "unknown"


def markdown_table(rows: list[dict[str, object]]) -> str:
    """Rows of equal keys as a markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows])
