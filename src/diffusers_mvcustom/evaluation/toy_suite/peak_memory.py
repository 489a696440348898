"""The most memory that a piece of work holds at a time, and how long it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What a block of work took; filled in when it ends.

    Args:
        seconds (`float`): Wall-clock time.
        peak_gib (`float`): Peak memory in GiB: of the GPU's allocations, or of the process on a CPU.
    """

    seconds: float = 0.0
    peak_gib: float = 0.0


@contextmanager
def measured(device: torch.device | str) -> Iterator[Cost]:
    """Measures the block of a `with` statement.

    On a CPU the peak is the process's resident memory, models included. Linux can set its record back, so that it is
    the block's own; elsewhere it is the largest since the process began.

    Args:
        device (`torch.device` or `str`): Where the work is done.
    """
    cost, on_gpu = Cost(), torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")
    started = time.perf_counter()
    try:
        yield cost
    finally:
        if on_gpu:
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - started
        cost.peak_gib = torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else _process_peak() / 2**30


def _process_peak() -> float:
    """Bytes."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
