"""Counted work of a generation: what the parts are, and that the preview counts as it should."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from generation_flops import phases_of, total
from generation_memory import Generation, Setting


def test_work_of_plain_generations():
    generation = Generation("tiny", "plain", torch.float32, fake=True)
    few, many = (phases_of(generation, Setting("plain", "1", views, 32)) for views in (2, 4))
    # Convolutions and attention within views go with their number; attention along time, with its square, is little.
    assert 2 * few["step"] < many["step"] < 2.1 * few["step"]
    assert many["decoding"] == 2 * few["decoding"]
    setting = Setting("plain", "1", 2, 32)
    assert total(few, setting, 10) - total(few, setting, 4) == pytest.approx(6 * few["step"])
    preview = total(few, Setting("everything", "1", 2, 32), 10) - total(few, setting, 10)
    assert preview == pytest.approx(2 * few["step"] + few["decoding"] / 2 + few["depth"])
