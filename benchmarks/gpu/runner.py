"""Runs slices one after the other and keeps what is done in an output folder, so that it can be carried on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import archive as archives
from .slice import ROOT, Slice

WORK = "work"
_LARGEST_LOG = 2**20
_TAIL = 12_000
_ENDED = ("done", "failed", "timed out")
_GRACE = 15.0
"""Seconds in which a slice may end by itself, a checkpoint written, once it was asked to."""
_MOST_CUT_OFF = 3
"""A slice that was started so often and whose end nobody saw (it takes the machine down, say) is given up."""


@dataclass
class State:
    """What is known of a slice; its JSON file is `NAME.state.json`.

    `status` is `"running"`, `"done"`, `"failed"`, `"timed out"` (at its own limit) or `"stopped"` (interrupted, or at the
    limit of the whole run). A slice that is done is never run again, one that failed or timed out only if asked for.
    `cut_off` counts starts in a row of which no end was recorded.
    """

    name: str
    status: str
    cut_off: int = 0
    seconds: float | None = None
    return_code: int | None = None
    error: str | None = None  # the traceback: the end of what the slice printed
    environment: dict[str, Any] | None = None


class Runner:
    """Runs slices and records how they went.

    Args:
        output (`Path`): Folder for states (`NAME.state.json`), logs (`NAME.log`) and results (`NAME.*`). In its `work/`
            lies what slices need while they run; that is not archived.
        environment (`dict`): Device, versions and commit, recorded with each slice.
        archive (`Path`, *optional*): A `.tar.gz` of the folder, written anew after every slice, in parts if it is large;
            if the folder is empty and the archive exists, the run starts from it.
        deadline (`float`, *optional*): `time.monotonic()` at which the run ends.
        retry (`bool`): Whether slices that failed or timed out are run again.
    """

    def __init__(
        self,
        output: Path,
        environment: dict[str, Any],
        archive: Path | None = None,
        deadline: float | None = None,
        retry: bool = False,
    ) -> None:
        self.output = output
        self.environment = environment
        self.archive = archive
        self.deadline = deadline
        self.retry = retry
        output.mkdir(parents=True, exist_ok=True)
        if archive is not None and not any(output.iterdir()):
            archives.unpack(archive, output)

    def run(self, slices: Sequence[Slice]) -> list[State]:
        """Runs what is not done yet; the states of all slices in their order."""
        for one in slices:
            state = self.state(one)
            needed = max(one.expected, (state.seconds or 0) if state.status == "stopped" else 0)
            if state.status in _ENDED and not (self.retry and state.status != "done"):
                print(f"{one.name}: {state.status} before", flush=True)
            elif state.cut_off >= _MOST_CUT_OFF and not self.retry:
                state.status, state.error = "failed", f"started {state.cut_off} times without an end"
                self._write(state)
            elif self._left() < needed:
                print(
                    f"{one.name}: not started, it takes {needed:.0f} s and {self._left():.0f} s are left", flush=True
                )
            else:
                try:
                    self._run(one, state)
                finally:
                    self._pack(slices)
        self._pack(slices)
        return [self.state(one) for one in slices]

    def state(self, one: Slice) -> State:
        """The recorded state of a slice."""
        try:
            return State(**json.loads(self._state_file(one.name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return State(one.name, "waiting")
        except (ValueError, TypeError) as error:  # cut off while it was written by another version of this file
            return State(one.name, "waiting", error=f"unreadable state: {error}")

    # --- one slice ---

    def _run(self, one: Slice, state: State) -> None:
        state.status, state.cut_off, state.error = "running", state.cut_off + 1, None
        state.environment = self.environment
        self._write(state)
        print(f"{one.name}: at most {one.limit:g} s", flush=True)
        started = time.monotonic()
        log = self.output / f"{one.name}.log"
        try:
            state.return_code, at_limit = self._finish(one, log)
        except KeyboardInterrupt:
            state.status, state.error = "stopped", "interrupted"
            raise
        except Exception:
            state.status, state.error = "failed", traceback.format_exc()
        else:
            if state.return_code == 0:
                state.status = "done"
            elif at_limit:
                ran_out = time.monotonic() - started >= one.limit and not one.resumable
                state.status = "timed out" if ran_out else "stopped"
            else:
                state.status = "failed"
            if state.status != "done":
                state.error = _tail(log)
        finally:
            state.seconds, state.cut_off = round(time.monotonic() - started, 3), 0
            _shorten(log)
            self._write(state)
        print(f"{one.name}: {state.status} after {state.seconds:.1f} s", flush=True)

    def _finish(self, one: Slice, log: Path) -> tuple[int, bool]:
        """Return code, and whether the slice was stopped at a limit."""
        work = (self.output / WORK).resolve()
        work.mkdir(exist_ok=True)
        command = one.arguments(self.output.resolve(), work)
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "MVCUSTOM_COMMIT": str(self.environment.get("commit", "unknown")),
            **one.environment,
        }
        with open(log, "wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                return process.wait(timeout=min(one.limit, max(self._left(), 0.1))), False
            except subprocess.TimeoutExpired:
                return _stop(process), True
            except BaseException:
                _stop(process)
                raise

    def _left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    # --- files ---

    def _state_file(self, name: str) -> Path:
        return self.output / f"{name}.state.json"

    def _write(self, state: State) -> None:
        _write_whole(self._state_file(state.name), json.dumps(asdict(state), indent=1) + "\n")

    def _pack(self, slices: Sequence[Slice]) -> None:
        _write_whole(self.output / "summary.md", self._summary(slices))
        if self.archive is not None:
            for name in archives.pack(self.output, self.archive, leave_out=(WORK,)):
                print(f"{name}: left out of the archive, which would be too large to be carried", flush=True)

    def _summary(self, slices: Sequence[Slice]) -> str:
        lines = ["# GPU runs", "", "| slice | status | seconds | device | commit |", "|---|---|---|---|---|"]
        for one in slices:
            state = self.state(one)
            ran_on = state.environment or {}
            seconds = "" if state.seconds is None else f"{state.seconds:.1f}"
            lines.append(
                f"| {one.name} | {state.status} | {seconds} | {ran_on.get('device', '')} | {ran_on.get('commit', '')} |"
            )
        for one in slices:
            result = self.output / f"{one.name}.md"
            if self.state(one).status == "done" and result.is_file():
                lines += ["", result.read_text(encoding="utf-8").replace("\n# ", "\n## ").replace("# ", "## ", 1)]
        return "\n".join(lines) + "\n"


def _stop(process: subprocess.Popen) -> int:
    """Ends a process and all that it started: politely first, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _tail(file: Path) -> str:
    try:
        return file.read_bytes()[-_TAIL:].decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _shorten(file: Path) -> None:
    """Keeps the end of a log that has grown too long to be carried home."""
    if file.is_file() and file.stat().st_size > _LARGEST_LOG:
        kept = file.with_name(file.name + ".part")
        with open(file, "rb") as source, open(kept, "wb") as target:
            source.seek(-_LARGEST_LOG, os.SEEK_END)
            shutil.copyfileobj(source, target)
        os.replace(kept, file)


def _write_whole(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)
