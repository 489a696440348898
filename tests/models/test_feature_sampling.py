"""The parts that a FeatureNeRF samples with: bilinear sampling and positional encoding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffusers_mvcustom.geometry import pixel_centers
from diffusers_mvcustom.models import FeatureNeRFConfig
from diffusers_mvcustom.models.feature_sampling import BilinearSampler
from diffusers_mvcustom.models.positional_encoding import encoding_size, positional_encoding


@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 4), (6, 1)])
def test_sampling_is_that_of_grid_sample_with_half_pixel_centers(height, width):
    """`align_corners=False` with zeros outside is the package's pixel convention: x / width in [0, 1] to [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64).requires_grad_()
    size = torch.tensor([width, height], dtype=torch.float64)
    pixels = torch.rand(2, 200, 2, generator=generator, dtype=torch.float64) * (size + 4) - 2  # also outside
    pixels[0, :4] = torch.tensor([[-1e4, -1e4], [1e30, 0.5], [0.5, -1e30], [0.5, 0.5]], dtype=torch.float64)
    sampler = BilinearSampler.at(pixels, height, width)
    found = torch.stack([sampler.sample(v, maps[v].flatten(1).T) for v in range(2)])
    grid = (2 * pixels / size - 1).clamp(-100, 100)[:, None]
    options = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    expected = F.grid_sample(maps, grid, **options)[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(found, expected)
    ones = F.grid_sample(torch.ones_like(maps[:, :1]), grid, **options)[:, 0, 0]
    torch.testing.assert_close(sampler.coverage, ones)
    towards = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for x, y in zip(*(torch.autograd.grad((f * towards).sum(), maps) for f in (found, expected))):
        torch.testing.assert_close(x, y)


def test_a_pixel_center_is_sampled_as_its_pixel():
    maps = torch.arange(12.0).view(12, 1)
    sampler = BilinearSampler.at(pixel_centers(3, 4).view(1, 12, 2), 3, 4)
    assert torch.equal(sampler.sample(0, maps), maps)


def test_positional_encoding_distinguishes_neighbouring_pixels():
    """A pixel of a 64 × 64 map at distance 1 is a large step in the finest frequency, and float32 resolves it."""
    config = FeatureNeRFConfig()
    points = torch.tensor([[0.7, -0.2, 1.3]]).expand(2, 3).clone()
    points[1, 0] += 1 / 64
    encoded = positional_encoding(points, config.point_frequencies, config.encoding_octaves)
    assert encoded.shape == (2, encoding_size(3, config.point_frequencies))
    assert (encoded[0] - encoded[1]).abs().max() > 0.5
    exact = positional_encoding(points.double(), config.point_frequencies, config.encoding_octaves)
    assert (encoded - exact).abs().max() < 1e-3
