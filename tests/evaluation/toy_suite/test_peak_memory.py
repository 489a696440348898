"""Cost of a block of work."""

import time

import pytest
import torch

from diffusers_mvcustom.evaluation.toy_suite.peak_memory import _CLEAR, measured


def test_seconds_are_the_blocks():
    with measured("cpu") as cost:
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 5
    assert cost.peak_gib > 0.01


@pytest.mark.skipif(not _CLEAR.exists(), reason="the record of the peak can be set back on Linux only")
def test_the_peak_is_the_blocks_and_not_an_earlier_ones():
    with measured("cpu") as large:
        torch.ones(2**27).sum()  # half a GiB, gone afterwards
    with measured("cpu") as small:
        torch.ones(2**10).sum()
    assert large.peak_gib > small.peak_gib + 0.4


def test_a_failing_block_has_a_cost_too():
    with pytest.raises(ValueError), measured("cpu") as cost:
        raise ValueError
    assert cost.seconds > 0
