"""What must hold whatever a user hands over, watched while an entry point is called."""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers_mvcustom.errors import MVCustomError

SECONDS = 10.0
"""CPU seconds that a call may take at most. Most take milliseconds; the bound is for what grows without one."""
MEMORY = 1 << 30
"""Bytes of address space that a call may add at most."""
CANARY = "canary.png"
_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")


@dataclass
class Watch:
    """What happened during a call, as the interpreter's audit events tell it."""

    folder: Path | None = None
    events: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in _FORBIDDEN:
            self.events.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.fsdecode(arguments[0])
            writing = (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            ours = os.path.abspath(path).startswith((str(self.folder), "/dev/null"))
            if os.path.basename(path) == CANARY or (writing and not ours and "__pycache__" not in path):
                self.events.append(f"open {path}")


@functools.cache
def the_watch() -> Watch:
    """The process's only watch: an audit hook cannot be taken out again."""
    watch = Watch()
    sys.addaudithook(watch.hear)
    return watch


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Asserts that nothing in it unpickles, starts a program, connects, or reaches beyond `folder`."""
    watch = the_watch()
    watch.folder, watch.events = folder, []
    try:
        yield
    finally:
        watch.folder = None
    assert not watch.events, watch.events


@contextmanager
def bounded(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Asserts that it ends in so many CPU seconds; what needs more memory fails as it does on a full machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    started = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    took = time.process_time() - started
    assert took < seconds, f"took {took:.1f} CPU seconds"


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder: bytes of files, `None` for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def attempt(folder: Path, call: Callable[[], Any]) -> tuple[str, Any]:
    """Calls an entry point on what lies in `folder`, and asserts all that must hold.

    Beside the folder lies a canary that nothing may touch, and in it nothing may change.

    Returns:
        `("accepted", result)` or `("refused", error)`. Any other exception is the fuzzing's find and passes through.
    """
    canary = folder.parent / CANARY
    canary.write_bytes(b"tweet")
    before = snapshot(folder)
    try:
        with watched(folder), bounded():
            outcome = ("accepted", call())
    except MVCustomError as error:
        outcome = ("refused", error)
    assert outcome[0] == "accepted" or str(outcome[1]).strip(), "an error without a word"
    assert snapshot(folder) == before, "files of the user's changed"
    assert canary.read_bytes() == b"tweet"
    assert not Path("unpickled").exists()
    return outcome
