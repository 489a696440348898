"""What a generation takes, counted without memory, is what PyTorch's allocator hands out."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from generation_memory import Generation, Setting, check, phases_of, report_text


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_generation_takes_what_was_computed(dtype):
    result = check("tiny", Setting(views=3, size=64, window="3"), dtype)
    assert result["computed"] == pytest.approx(result["counted"], rel=0.001)
    # CUDA's allocator rounds every tensor up to a block, which is counted; a CPU's does not.
    assert 0.9 * result["computed"] < result["allocated"] < 1.01 * result["computed"]
    assert result["allocated"] > 1e6


@pytest.mark.slow
def test_more_views_take_more():
    generation = Generation("tiny", "everything", torch.float32, fake=True)
    few, many = (phases_of(generation, Setting(views=views, size=64, window="3")) for views in (2, 5))
    for phase, size in few["phases"].items():
        assert sum(few["weights"].values()) < size <= many["phases"][phase]
    assert many["phases"]["denoising"] > few["phases"]["denoising"]


def test_phases_without_memory():
    generation = Generation("tiny", "plain", torch.float32, fake=True)
    result = phases_of(generation, Setting("plain", views=5, size=64, window="1"))
    phases, weights = result["phases"], sum(result["weights"].values())
    assert weights == sum(p.nbytes for m in generation.models.values() for p in (*m.parameters(), *m.buffers()))
    assert min(phases.values()) > weights
    assert phases["decoding 16"] > phases["decoding 4"] > phases["decoding 1"]
    stored = {"rows": [result], "measured": False, "dtype": "float32", "environment": {"text": "Device: none."}}
    assert report_text(stored).count("| plain | 1 | 5 | 64² | one batch |") == 1
