"""All GPU work that is owed, in one command that can be stopped and started again.

python -m benchmarks.gpu -o gpu-results
python -m benchmarks.gpu -o gpu-results --time-limit 540 --archive gpu-results.tar.gz
python -m benchmarks.gpu -o gpu-results --wheels benchmarks/gpu/wheels     # where there is no network
python -m benchmarks.gpu -o out/try --device cpu --quick
python -m benchmarks.gpu --list
"""

from __future__ import annotations

import argparse
import atexit
import fnmatch
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import wheels
from .runner import Runner
from .slice import ROOT, Options, find_slices

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "safetensors", "xformers", "triton")


def describe(device: str) -> dict[str, Any]:
    """Device, versions and commit. Asked in a process of its own: the runner itself holds no GPU memory."""
    if device == "cuda":
        asked = (
            "import torch; p = torch.cuda.get_device_properties(0);"
            "print(f'{p.name}, {p.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}')"
        )
        process = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"--device cuda: {process.stderr.strip().splitlines()[-1]}")
        name = process.stdout.strip()
    else:
        name = f"{os.cpu_count()}-core {platform.machine()} CPU"
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"device": name, "python": platform.python_version(), "versions": found, "commit": find_commit()}


def find_commit() -> str:
    """`MVCUSTOM_COMMIT`, a file `benchmarks/gpu/COMMIT` (where there is no git), or what git says, `+` if changed."""
    if os.environ.get("MVCUSTOM_COMMIT"):
        return os.environ["MVCUSTOM_COMMIT"]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        return commit + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        file = Path(__file__).parent / "COMMIT"
        return file.read_text().strip() if file.is_file() else "unknown"


def use_wheels(folder: Path) -> None:
    """Installs wheels into a temporary folder that this process and the slices import from."""
    site = tempfile.mkdtemp(prefix="mvcustom-wheels-")
    atexit.register(shutil.rmtree, site, ignore_errors=True)
    wheels.install(folder, Path(site))
    sys.path.insert(0, site)
    os.environ["PYTHONPATH"] = os.pathsep.join([site, *filter(None, [os.environ.get("PYTHONPATH")])])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out/gpu"), help="states, logs and results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that everything runs")
    parser.add_argument("--time-limit", type=float, metavar="S", help="stop after so many seconds; start again later")
    parser.add_argument("--archive", type=Path, help="a .tar.gz of the output, to carry home and to start again from")
    parser.add_argument("--wheels", type=Path, help="install these wheels first, for the slices only; see wheels.py")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="slices by name or pattern, such as 'pipeline-*'")
    parser.add_argument("--retry", action="store_true", help="run again what failed or timed out")
    parser.add_argument("--list", action="store_true", help="only list the slices")
    parser.add_argument("--slices", type=Path, default=Path(__file__).parent / "slices", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    slices = find_slices(options.slices, Options(options.device, options.quick))
    if options.only:
        known = [one.name for one in slices]
        slices = [one for one in slices if any(fnmatch.fnmatch(one.name, pattern) for pattern in options.only)]
        if not slices:
            parser.error(f"--only: expected some of {known}, got {options.only}")
    if options.list:
        print("\n".join(f"{one.name:32} at most {one.limit:3.0f} s" for one in slices))
        return 0
    if options.time_limit is not None and not options.time_limit > 0:
        parser.error(f"--time-limit: expected seconds above 0, got {options.time_limit}")
    deadline = None if options.time_limit is None else started + options.time_limit

    def terminate(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    if options.wheels is not None:
        use_wheels(options.wheels)
    runner = Runner(options.output, describe(options.device), options.archive, deadline, options.retry)
    try:
        states = runner.run(slices)
    except KeyboardInterrupt:
        print("stopped; the same command carries on", file=sys.stderr)
        return 130
    for state in states:
        print(f"{state.name:32} {state.status}")
    return 0 if all(state.status == "done" for state in states) else 1


if __name__ == "__main__":
    sys.exit(main())
