"""The `mvcustom` command in this process: a new one would spend most of its seconds on importing torch and diffusers."""

from __future__ import annotations

import contextlib
import io
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

from diffusers_mvcustom.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def run_mvcustom(folder: Path, *arguments: object) -> Ended:
    """Runs `mvcustom` in a folder as the shell would: its output caught, an exception printed and exit code 1."""
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            os.chdir(folder)
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            os.chdir(before)
    return Ended(code, out.getvalue(), err.getvalue())
