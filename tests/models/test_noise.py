"""Noise that one seed gives in every dtype."""

import pytest
import torch

from diffusers_mvcustom.models.noise import draw_noise

SHAPE = (2, 4, 3, 5, 7)


def drawn(dtype, generator=0, device=None):
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    return draw_noise(SHAPE, generator=generator, device=device, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_float32_rounded(dtype):
    assert drawn(dtype).dtype == dtype
    assert torch.equal(drawn(dtype), drawn(torch.float32).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_float32_and_wider_are_as_pytorch_draws_them(dtype):
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=dtype)
    assert torch.equal(drawn(dtype, 3), expected)


def test_one_generator_a_row():
    rows = drawn(torch.bfloat16, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    for row, seed in zip(rows, (1, 2)):
        expected = torch.randn((1, *SHAPE[1:]), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(row[None], expected.to(torch.bfloat16))


def test_without_a_generator_it_is_the_global_ones():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        found = draw_noise(SHAPE)
        torch.manual_seed(5)
        assert torch.equal(found, torch.randn(SHAPE))
