"""What a report says about where it was made."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from ...package_versions import package_version

_PACKAGES = ("torch", "diffusers", "transformers", "peft", "diffusers-mvcustom")


def environment(device: torch.device | str) -> dict[str, str]:
    """Device, versions of packages, and the commit of the source tree that the package lies in.

    Args:
        device (`torch.device` or `str`): What the models ran on.
    """
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        name = f"{cores}-core {platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {"device": name, **{package: package_version(package) for package in _PACKAGES}, "commit": _commit()}


def _commit() -> str:
    if os.environ.get("MVCUSTOM_COMMIT"):
        return os.environ["MVCUSTOM_COMMIT"]
    here = Path(__file__).resolve().parent
    try:
        known = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], capture_output=True, text=True, cwd=here
        )
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    except OSError:  # no git here
        return "unknown"
    # An installed package may lie in somebody else's repository.
    return asked.stdout.strip() if known.returncode == 0 and asked.stdout.strip() else "unknown"
