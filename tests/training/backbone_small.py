"""A backbone trainer at its smallest: squares that move over a plain ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from training.video_files import write_video

SMALL = {
    "model": "tiny",
    "resolution": 32,
    "num_frames": 4,
    "frame_stride": 1,
    "max_train_steps": 4,
    "train_batch_size": 2,
    "learning_rate": 1e-3,
    "window_schedule": [(0, 1), (2, 3)],
    "checkpointing_steps": 2,
    "num_workers": 0,
    "report_to": "none",
}


def write_moving_squares(folder: Path, count: int = 6, length: int = 8) -> Path:
    """Videos of 32 × 32 pixels, each of a square that moves; half of them with captions."""
    random = np.random.default_rng(0)
    for n in range(count):
        frames = np.full((length, 32, 32, 3), 40, np.uint8)
        colour, (dx, dy) = random.integers(100, 256, 3), random.integers(-2, 3, 2)
        for f in range(length):
            x, y = np.clip([12 + dx * (f - 3), 12 + dy * (f - 3)], 0, 24)
            frames[f, y : y + 8, x : x + 8] = colour
        write_video(folder / f"{n}.mkv", frames)
        if n % 2:
            (folder / f"{n}.txt").write_text("a small red cube")
    return folder


def reset_accelerate() -> None:
    """accelerate keeps one state for a whole process, with the precision that came first."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
