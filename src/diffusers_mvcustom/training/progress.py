"""The line that a training shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import torch
from tqdm.auto import tqdm


class TrainingBar:
    """A progress bar over steps: losses, throughput, memory; tqdm adds the time that is left.

    Args:
        total (`int`): Steps in all.
        step (`int`): Steps already made, by the run that is resumed.
        samples_per_step (`int`): Over all processes.
        unit (`str`): What the samples are, for the throughput.
        device (`torch.device`): Whose memory is shown.
        show (`bool`): Whether this process shows it.
    """

    def __init__(
        self, total: int, step: int, *, samples_per_step: int, unit: str, device: torch.device, show: bool
    ) -> None:
        self.samples_per_step = samples_per_step
        self.unit = unit
        self.device = device
        self._bar = tqdm(total=total, initial=step, desc="training", unit="step", disable=not show)
        self._last = time.perf_counter()
        self._seconds: float | None = None  # of a step, a running mean

    def update(self, losses: Mapping[str, float]) -> dict[str, float]:
        """One step is done. Returns what was measured, for the record."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._seconds = seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds
        rate, memory = self.samples_per_step / self._seconds, peak_memory(self.device)
        shown = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self._bar.set_postfix_str(f"{shown} · {rate:.2f} {self.unit}/s · {memory / 2**30:.2f} GiB", refresh=False)
        self._bar.update()
        return {f"{self.unit}_per_second": rate, "peak_memory_bytes": memory}

    def pause(self) -> None:
        """What was done since the last step (a validation, a checkpoint) does not count as part of one."""
        self._last = time.perf_counter()

    def write(self, text: str) -> None:
        """Prints a line above the bar, if this process shows it."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by tensors on a CUDA device, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
