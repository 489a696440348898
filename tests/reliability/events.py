"""Things that happen at a given moment of a call, by the interpreter's audit events."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Moment:
    """A moment: the `count`-th event of a name whose first argument ends with some text."""

    event: str
    ending: str
    count: int = 1
    come: bool = False

    def hear(self, event: str, arguments: tuple) -> None:
        if self.come or event != self.event or not str(arguments[0]).endswith(self.ending):
            return
        self.count -= 1
        if self.count == 0:
            self.come = True
            os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def ctrl_c_when(event: str, ending: str = "", count: int = 1) -> Iterator[Moment]:
    """Ctrl-C at a moment, such as when a file of a name is opened. Asserts that the moment came."""
    moment = Moment(event, ending, count)
    sys.addaudithook(moment.hear)  # it stays, but hears nothing after its moment
    try:
        yield moment
    finally:
        came, moment.come = moment.come, True
    assert came, f"{event} of {ending} did not happen"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def digest(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
