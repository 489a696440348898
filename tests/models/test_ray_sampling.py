from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models import RayDistribution
from diffusers_mvcustom.models.ray_sampling import even_distribution, sample_rays, spread_weights

EDGES = torch.tensor([0.5, 1.0, 1.25, 2.5])
WEIGHTS = torch.tensor([0.1, 0.6, 0.2])


def test_without_knowledge_bins_are_even():
    edges, weights = even_distribution(0.5, 2.5, torch.zeros(()))
    samples = sample_rays(edges, weights, 4)
    torch.testing.assert_close(samples.edges.flatten(), torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5]))
    torch.testing.assert_close(samples.positions.flatten(), torch.tensor([0.75, 1.25, 1.75, 2.25]))


def test_each_bin_has_the_same_probability():
    share = 0.8
    samples = sample_rays(EDGES, WEIGHTS, 10, importance_share=share)
    density = (share * WEIGHTS / EDGES.diff() + (1 - share * WEIGHTS.sum()) / (2.5 - 0.5)).tolist()

    def mass(start: float, end: float) -> float:
        pieces = zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), density)
        return sum(max(0.0, min(end, high) - max(start, low)) * p for low, high, p in pieces)

    bins = samples.edges.tolist()
    for start, end, position in zip(bins[:-1], bins[1:], samples.positions.tolist()):
        assert mass(start, end) == pytest.approx(1 / 10, abs=1e-6)
        assert mass(start, position) == pytest.approx(0.5 / 10, abs=1e-6)


def test_samples_follow_the_mixture_over_many_draws():
    """Shares of samples in the old bins against their probabilities, within four standard errors."""
    share, draws, count = 0.75, 20_000, 6
    jitter = torch.rand(draws, count, generator=torch.Generator().manual_seed(0))
    positions = sample_rays(EDGES, WEIGHTS, count, importance_share=share, jitter=jitter).positions
    probability = share * WEIGHTS + (1 - share * WEIGHTS.sum()) * EDGES.diff() / (2.5 - 0.5)
    for low, high, p in zip(EDGES[:-1], EDGES[1:], probability):
        found = ((positions >= low) & (positions < high)).float().mean()
        assert abs(found - p) < 4 * (p * (1 - p) / (draws * count)) ** 0.5
    # Within a bin the samples are uniform.
    inside = positions[(positions >= 1.25) & (positions < 2.5)]
    assert inside.mean().item() == pytest.approx((1.25 + 2.5) / 2, abs=4 * 1.25 / 12**0.5 / len(inside) ** 0.5)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 0.3, 1.0]), min_size=1, max_size=7),
    st.integers(1, 33),
    st.sampled_from([0.0, 0.5, 0.99]),
    st.sampled_from([0.0, 0.5, 0.9999999]),
)
def test_bins_ascend_cover_the_ray_and_hold_their_samples(raw, count, share, jitter):
    weights = torch.tensor(raw)
    weights = weights / max(1.0, weights.sum().item())
    edges = torch.linspace(0.1, 2.0, len(raw) + 1)
    samples = sample_rays(edges, weights, count, importance_share=share, jitter=torch.full((count,), jitter))
    assert samples.edges[0] == edges[0]
    assert samples.edges[-1] == edges[-1]
    assert (samples.edges.diff() >= 0).all()
    assert (samples.positions >= samples.edges[:-1]).all()
    assert (samples.positions <= samples.edges[1:]).all()


def test_weights_get_no_gradient():
    samples = sample_rays(EDGES, WEIGHTS.clone().requires_grad_(), 5)
    assert not samples.positions.requires_grad


def test_an_opaque_ray_puts_the_share_at_its_surface():
    edges, weights = torch.linspace(0.0, 1.0, 11), torch.zeros(10)
    weights[4] = 1.0
    positions = sample_rays(edges, weights, 40, importance_share=0.75).positions
    near_surface = ((positions > 0.4) & (positions < 0.5)).float().mean()
    assert near_surface.item() == pytest.approx(0.75 + 0.25 * 0.1, abs=1 / 40)


def test_weights_are_spread_to_the_halves_of_the_neighbours():
    edges, weights = spread_weights(EDGES, WEIGHTS)
    assert edges.tolist() == [0.5, 0.75, 1.0, 1.125, 1.25, 1.875, 2.5]
    a, b, c = WEIGHTS.tolist()
    expected = torch.tensor([2 * a, a + b, a + b, b + c, b + c, 2 * c]) / 4
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 3)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_spreading_keeps_the_sum(leading, count):
    weights = torch.rand(*leading, count, generator=torch.Generator().manual_seed(0))
    edges, spread = spread_weights(torch.linspace(0.1, 2.0, count + 1).expand(*leading, -1), weights)
    assert edges.shape == (*leading, 2 * count + 1)
    torch.testing.assert_close(spread.sum(-1), weights.sum(-1))


def test_a_distribution_is_resized_to_that_of_the_nearest_ray():
    weights = torch.arange(6.0).view(1, 1, 2, 3, 1) / 10
    edges = torch.stack([weights, weights + 1], dim=-1).flatten(-2)
    small = RayDistribution(edges, weights)
    assert small.resize(2, 3) is small
    large = small.resize(4, 9)
    expected = weights[0, 0, ..., 0].repeat_interleave(2, 0).repeat_interleave(3, 1)
    assert torch.equal(large.weights[0, 0, ..., 0], expected)
    assert torch.equal(large.edges[0, 0, ..., 1], expected + 1)
    back = large.resize(2, 3)
    assert torch.equal(back.weights, small.weights)
    assert torch.equal(back.edges, small.edges)
    assert small.resize(1, 1).weights.item() == pytest.approx(0.4)  # of 2 × 3 rays, the one at row 1, column 1


def test_a_malformed_distribution_is_refused():
    with pytest.raises(MVCustomError, match=r"edges, weights: .*S \+ 1"):
        RayDistribution(torch.zeros(1, 1, 2, 2, 4), torch.zeros(1, 1, 2, 2, 4))
