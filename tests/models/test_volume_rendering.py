from __future__ import annotations

import math

import pytest
import torch

from diffusers_mvcustom.models.volume_rendering import expected_distance, rendering_weights, truncated_exp

EVEN = torch.linspace(1.0, 3.0, 9, dtype=torch.float64)


def loop_weights(density, edges):
    transmittance, weights = 1.0, []
    for sigma, start, end in zip(density, edges[:-1], edges[1:]):
        alpha = 1 - torch.exp(-sigma * (end - start))
        weights.append(transmittance * alpha)
        transmittance = transmittance * (1 - alpha)
    return torch.stack(weights)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_weights_equal_the_loop_in_values_and_gradients(leading):
    generator = torch.Generator().manual_seed(0)
    density = 3 * torch.rand(*leading, 6, generator=generator, dtype=torch.float64)
    edges = torch.rand(*leading, 7, generator=generator, dtype=torch.float64).cumsum(-1)
    towards = torch.rand(*leading, 6, generator=generator, dtype=torch.float64)
    for tensor in (density, edges):
        tensor.requires_grad_()
    rows = zip(density.reshape(-1, 6), edges.reshape(-1, 7))
    expected = torch.stack([loop_weights(*row) for row in rows]).view(*leading, 6)
    weights = rendering_weights(density, edges)
    torch.testing.assert_close(weights, expected)
    for x, y in zip(*(torch.autograd.grad((w * towards).sum(), [density, edges]) for w in (weights, expected))):
        torch.testing.assert_close(x, y)


def test_opacity_is_that_of_the_whole_optical_depth():
    density = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    opacity = rendering_weights(density, EVEN).sum(-1)
    torch.testing.assert_close(opacity, 1 - torch.exp(-density.sum(-1) * (3.0 - 1.0) / 8))


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 1.0, 20.0, 1e4])
def test_expected_distance_in_an_even_fog(sigma):
    """However the ray is divided: `∫ t σ exp(-σ (t - near)) dt` over the ray, divided by the opacity."""
    near, far = 1.0, 3.0
    length = far - near
    opacity = -math.expm1(-sigma * length)
    mean = near + 1 / sigma - length * math.exp(-sigma * length) / opacity
    expected = (opacity * mean + 1e-6 * far) / (opacity + 1e-6)  # a trace of light from the far end
    for edges in (EVEN, torch.tensor([1.0, 1.1, 1.7, 2.9, 3.0], dtype=torch.float64)):
        density = torch.full((len(edges) - 1,), sigma, dtype=torch.float64)
        distance = expected_distance(density, edges, rendering_weights(density, edges))
        assert distance.item() == pytest.approx(expected, rel=1e-9)


def test_a_solid_is_where_it_begins():
    density = torch.tensor([0.0, 0.0, 0.0, 1e6, 1e6, 0.0, 0.0, 0.0], dtype=torch.float64)
    weights = rendering_weights(density, EVEN)
    assert weights.tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    distance = expected_distance(density, EVEN, weights)
    assert distance.item() == pytest.approx(1.0 + 3 * (3.0 - 1.0) / 8, abs=1e-5)


def test_two_half_transparent_sheets():
    thin = math.log(2.0) / 0.25  # a bin of 0.25 that lets one half through
    density = torch.tensor([0.0, thin, 0.0, 0.0, thin, 0.0, 0.0, 0.0], dtype=torch.float64)
    weights = rendering_weights(density, EVEN)
    torch.testing.assert_close(weights[[1, 4]], torch.tensor([0.5, 0.5 * 0.5], dtype=torch.float64))
    inside = 0.25 * (1 / math.log(2.0) - 1.0)  # mean place of absorption: 1/x - 1/(exp(x) - 1) with exp(x) = 2
    expected = (0.5 * (1.25 + inside) + 0.25 * (2.0 + inside)) / 0.75
    assert expected_distance(density, EVEN, weights).item() == pytest.approx(expected, rel=1e-5)


def test_an_empty_ray_ends_at_its_far_end():
    density = torch.zeros(8)
    weights = rendering_weights(density, EVEN.float())
    assert weights.sum() == 0
    assert expected_distance(density, EVEN.float(), weights) == 3.0


def test_extremes_give_no_nan():
    density = torch.tensor([0.0, torch.inf, 1e38, 1e-38, torch.inf, 1e25, 1e-30, 5.0], requires_grad=True)
    edges = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.5, 2.5, 3.0, 4.0])
    weights = rendering_weights(density, edges)
    distance = expected_distance(density, edges, weights)
    assert weights.isfinite().all()
    assert weights.sum() == 1
    assert distance.item() == pytest.approx(1.0, abs=1e-5)  # the dense bin from 1 to 2
    (weights.sum() + distance).backward()
    assert not density.grad.isnan().any()


@pytest.mark.parametrize("x", [1e-6, 1e-3, 0.0999, 0.1001, 0.7, 12.0, 79.0, 500.0])
def test_float32_keeps_the_place_within_a_bin(x):
    """The series for thin bins and the formula for thick ones meet, and neither loses digits."""
    x64 = torch.tensor([x], dtype=torch.float64)
    # (1 - (1 + x) exp(-x)) / (x (1 - exp(-x))), by quadrature.
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    mass = torch.exp(-x64 * u)
    expected = (u * mass).sum() / mass.sum()
    density, edges = x64.float(), torch.tensor([0.0, 1.0])
    found = expected_distance(density, edges, torch.full((1,), 1e6))
    assert found.item() == pytest.approx(expected.item(), abs=3e-6)


def test_truncated_exp_is_exact_and_its_gradient_bounded():
    exponent = torch.tensor([-3.0, 0.0, 14.0, 20.0], dtype=torch.float64, requires_grad=True)
    density = truncated_exp(exponent)
    assert torch.equal(density, exponent.exp())
    density.sum().backward()
    expected = torch.tensor([-3.0, 0.0, 14.0, 15.0], dtype=torch.float64).exp()
    torch.testing.assert_close(exponent.grad, expected)


def test_truncated_exp_does_not_overflow():
    """An infinite density where no view sees the point (times 0) would be NaN."""
    exponent = torch.tensor([500.0], requires_grad=True)
    density = truncated_exp(exponent)
    assert density == 1e30
    (density * 0.0).backward()
    assert exponent.grad == 0
