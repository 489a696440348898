"""Ctrl-C and termination while training: the step is finished and a checkpoint written first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Interrupt:
    """Whether the user asked to stop."""

    requested: bool = False


@contextmanager
def finishing_on_interrupt() -> Iterator[Interrupt]:
    """Within it, the first SIGINT or SIGTERM only sets `requested`; a second one stops at once.

    Signal handlers are as before afterwards. Outside the main thread, where Python allows none, it does nothing.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: object) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
