"""What a training tells while it runs: losses in a file that survives resuming, and a plot of them."""

from __future__ import annotations

import json
from pathlib import Path

METRICS_NAME = "metrics.jsonl"


class Records:
    """Numbers of each step, one JSON object a line, in `metrics.jsonl`.

    Args:
        folder (`Path`): Where to write.
        step (`int`): The step that is resumed from: later lines, of a run that was interrupted, are dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / METRICS_NAME
        kept = [row for row in read_records(folder) if row["step"] <= step]
        temporary = self.file.with_name(f".{METRICS_NAME}")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(self.file)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Adds one step's values."""
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_records(folder: Path) -> list[dict]:
    """The rows of `metrics.jsonl`, in order; a last line that was cut off is left out."""
    file = folder / METRICS_NAME
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def plot_losses(folder: Path, output: Path) -> None:
    """Plots every loss over the steps, with a running mean, to an image file."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    class PlainNumbers(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""  # 0.3 for 3e−01

    rows = read_records(folder)
    names = [
        name for name in ("loss", "denoising", "rgb", "opacity", "background") if any(name in row for row in rows)
    ]
    width, height = 3.2 * max(1, len(names)), 2.8  # inches
    figure = Figure(figsize=(width, height))
    # Margins in inches, and ticks without mathematics: matplotlib's layout engine and its TeX parser take a second.
    figure.subplots_adjust(0.6 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.35 / height, wspace=0.3)
    for name, axis in zip(names, figure.subplots(1, max(1, len(names)), squeeze=False)[0]):
        steps = np.array([row["step"] for row in rows if name in row])
        values = np.array([row[name] for row in rows if name in row])
        window = max(1, len(values) // 20)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axis.plot(steps, values, alpha=0.25, linewidth=0.7)
        axis.plot(steps[window - 1 :], smooth, linewidth=1.5)
        axis.set(title=name, xlabel="step")
        if (values > 0).all():
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(PlainNumbers())
            axis.yaxis.set_minor_formatter(PlainNumbers(minor_thresholds=(1, 0.4)))
    figure.savefig(output, dpi=110)
