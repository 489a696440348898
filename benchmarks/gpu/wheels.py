"""Wheels for a GPU machine that has no network: gathered here, installed there.

    python -m benchmarks.gpu.wheels                            # where there is a network
    python -m benchmarks.gpu --wheels benchmarks/gpu/wheels    # on the GPU machine

The GPU machine brings torch, transformers and accelerate of its own; only what it lacks is gathered, without
dependencies. The versions are those of `constraints.txt` where they stand there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from .slice import ROOT

FOLDER = Path(__file__).parent / "wheels"
PACKAGES = (
    *("diffusers", "importlib_metadata", "lazy-importer"),  # the latter for the former
    *("jsonargparse", "docstring-parser", "typeshed-client"),  # of the trainers' command lines
    *("peft", "xformers"),
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def gather(folder: Path, packages: tuple[str, ...], python_version: str) -> list[Path]:
    """Downloads one wheel of each package; the wheels that are in the folder then."""
    folder.mkdir(parents=True, exist_ok=True)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for package in packages:
        pinned = re.search(rf"^{re.escape(package)}==\S+", constraints, re.MULTILINE | re.IGNORECASE)
        for old in folder.glob(f"{package.replace('-', '_')}-*.whl"):  # two versions would stop the installation
            old.unlink()
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", python_version, "-d", str(folder)]
        for platform in PLATFORMS:
            command += ["--platform", platform]
        subprocess.run([*command, pinned[0] if pinned else package], check=True)
    return sorted(folder.glob("*.whl"))


def install(folder: Path, site: Path) -> None:
    """Installs the folder's wheels into `site`, without a network and without dependencies."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"--wheels: expected wheels in {folder}, found none; gather them: python -m {__spec__.name}")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    subprocess.run([*command, "--target", str(site), *map(str, wheels)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", default=PACKAGES, help=f"by default {', '.join(PACKAGES)}")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    parser.add_argument("--python-version", default="3.12", help="of the GPU machine")
    options = parser.parse_args()
    for wheel in gather(options.output, tuple(options.packages), options.python_version):
        print(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
