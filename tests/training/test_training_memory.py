"""What a training step takes, counted without memory, is what PyTorch's allocator hands out."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from live_memory import ChecksPass, LiveBytes
from torch._subclasses.fake_tensor import FakeTensorMode
from training_memory import check


def test_bytes_are_counted_while_tensors_live():
    kept = torch.zeros(1000)
    with LiveBytes() as live:
        live.add([kept, kept[10:]])
        assert live.now == 4096  # 4000 bytes in blocks of 512
        doubled = kept * 2
        view = doubled.view(10, 100)[3:]
        assert live.now == 2 * 4096
        del doubled
        assert live.now == 2 * 4096  # the view holds it
        del view
        assert (live.now, live.peak) == (4096, 2 * 4096)
        live.reset_peak()
        weight = torch.ones(1000, requires_grad=True)
        (weight * kept).sin().sum().backward()
        # At most: both factors, their product, its cosine, its gradient; the sum and its gradient.
        assert live.peak == 5 * 4096 + 2 * 512
        assert live.now == 3 * 4096  # with the gradient


def test_checks_pass_where_there_are_no_values():
    with FakeTensorMode(), ChecksPass():
        values = torch.empty(3, 4)
        assert values.isfinite().all()
        assert not (values < 0).any()
        assert torch.zeros(()).item() == 1
        assert values.untyped_storage().nbytes() == 48
    with ChecksPass():  # these have values
        assert torch.tensor([False, True]).any()
        assert not torch.tensor([False, True]).all()
        assert torch.tensor(3).item() == 3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_step_takes_what_was_computed(cube_capture, precision):
    settings = {
        "mixed_precision": precision,
        "rank": 2,
        "num_references": 3,
        "feature_nerf": {"num_samples": 6},
    }
    result = check("tiny", cube_capture, settings)
    assert result["computed"] == pytest.approx(result["counted"], rel=0.001)
    assert result["computed"] == pytest.approx(result["allocated"], rel=0.03)
    assert result["allocated"] > 1e6
