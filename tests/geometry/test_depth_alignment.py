import math

import numpy as np
import pytest
import torch
from reference import depth_fit
from reference.raster_scenes import smooth_depth

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import align_depth, align_median_depth

SCALE, SHIFT = 0.4, 0.35


def estimate_map(height=24, width=32, seed=0):
    return smooth_depth(height, width, seed, base=3.0, amount=0.8)


def contaminated(reference, share, seed=0, low=0.05, high=8.0):
    """The reference with a share of pixels replaced by anything."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(reference.shape, generator=generator) < share
    anything = low + (high - low) * torch.rand(reference.shape, generator=generator, dtype=torch.float64)
    return torch.where(wrong, anything, reference), wrong


@pytest.mark.parametrize("robust", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_data_are_recovered(robust, dtype):
    estimate = estimate_map().to(dtype)
    alignment = align_depth(estimate, SCALE * estimate + SHIFT, robust=robust)
    assert (alignment.scale, alignment.shift) == pytest.approx((SCALE, SHIFT), rel=1e-5)
    assert alignment.residual < 1e-6
    assert alignment.inlier_share == 1.0
    torch.testing.assert_close(alignment.apply(estimate), (SCALE * estimate + SHIFT).float())


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_gross_outliers_are_survived(inverse, share, seed):
    estimate = estimate_map(seed=seed)
    value = SCALE * estimate + SHIFT
    clean = 1 / value if inverse else value
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    reference, wrong = contaminated(clean * (1 + 0.01 * noise), share, seed)
    alignment = align_depth(estimate, reference, inverse=inverse)
    assert (alignment.scale, alignment.shift) == pytest.approx((SCALE, SHIFT), abs=0.03)
    error = (alignment.apply(estimate) - clean).abs() / clean
    assert error.max() < 0.02
    assert alignment.inlier_share == pytest.approx(1 - wrong.double().mean().item(), abs=0.12)


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_least_squares_on_the_right_pixels_alone(seed):
    estimate = estimate_map(seed=seed)
    noise = torch.randn(estimate.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    reference, wrong = contaminated(SCALE * estimate + SHIFT + 0.03 * noise, 0.3, seed)
    alignment = align_depth(estimate, reference)
    scale, shift = np.polyfit(estimate[~wrong].numpy(), reference[~wrong].numpy(), 1)
    grid = np.linspace(estimate.min().item(), estimate.max().item(), 5)
    np.testing.assert_allclose(alignment.scale * grid + alignment.shift, scale * grid + shift, rtol=0.002)


def test_one_sided_outliers_of_a_third_of_the_image():
    # What lies behind the subject, taken for the subject: a wall far away.
    estimate = estimate_map()
    reference = SCALE * estimate + SHIFT
    reference[:, : estimate.shape[1] // 3] = 6.0
    robust = align_depth(estimate, reference)
    assert (robust.scale, robust.shift) == pytest.approx((SCALE, SHIFT), rel=1e-3)
    plain = align_depth(estimate, reference, robust=False).apply(estimate)
    assert (plain / (SCALE * estimate + SHIFT) - 1).abs().median() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_exhaustive_and_scipy_fits(seed):
    estimate = estimate_map(8, 12, seed)
    generator = torch.Generator().manual_seed(seed)
    noise = 0.005 * torch.randn(estimate.shape, generator=generator, dtype=torch.float64)
    reference, _ = contaminated(SCALE * estimate + SHIFT + noise, 0.25, seed)
    alignment = align_depth(estimate, reference)
    x, y = estimate.flatten().numpy(), reference.flatten().numpy()
    absolute = depth_fit.least_absolute_deviations(x, y)
    cauchy = depth_fit.cauchy(x, y, absolute, 0.005)
    grid = np.linspace(x.min(), x.max(), 5)
    for scale, shift in (absolute, cauchy):
        np.testing.assert_allclose(alignment.scale * grid + alignment.shift, scale * grid + shift, rtol=0.01)


def test_plain_least_squares_is_numpys():
    estimate = estimate_map()
    weights = torch.rand(estimate.shape, dtype=torch.float64) + 0.1
    reference = SCALE * estimate + SHIFT + 0.05 * torch.rand(estimate.shape, dtype=torch.float64)
    alignment = align_depth(estimate, reference, weights=weights, robust=False)
    expected = np.polyfit(estimate.flatten(), reference.flatten(), 1, w=weights.flatten().sqrt())
    assert (alignment.scale, alignment.shift) == pytest.approx(tuple(expected), rel=1e-9)


def test_mask_and_weights_choose_the_pixels():
    estimate = estimate_map()
    reference = SCALE * estimate + SHIFT
    right = torch.zeros(estimate.shape, dtype=torch.bool)
    right[:, :10] = True
    reference = torch.where(right, reference, 2 * estimate + 1)  # most pixels follow another line
    for options in ({"mask": right}, {"weights": right.double()}, {"weights": 0.01 + right.double()}):
        alignment = align_depth(estimate, reference, **options)
        assert (alignment.scale, alignment.shift) == pytest.approx((SCALE, SHIFT), rel=1e-3), options
    reference[~right] = torch.nan
    assert align_depth(estimate, reference).scale == pytest.approx(SCALE, rel=1e-3)


def test_the_same_every_time():
    estimate = estimate_map()
    reference, _ = contaminated(SCALE * estimate + SHIFT, 0.3)
    state = torch.get_rng_state()
    first = align_depth(estimate, reference)
    assert align_depth(estimate, reference) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_constant_estimate_gets_a_scale_only():
    reference = smooth_depth(8, 8, 0)
    alignment = align_depth(torch.full((8, 8), 2.0), reference)
    assert alignment.shift == 0.0
    ratios = (reference / 2.0).flatten().sort().values
    assert ratios[31] <= alignment.scale <= ratios[32]


def test_noise_gets_a_scale_only():
    estimate = 2.0 + 0.1 * torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    reference = 1.0 + 0.05 * torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    alignment = align_depth(estimate, reference)
    assert alignment.shift == 0.0
    assert alignment.scale == pytest.approx(1.025 / 2.05, rel=0.01)


def test_a_shift_that_puts_pixels_behind_the_camera_is_not_taken():
    estimate = torch.linspace(1.0, 5.0, 400).reshape(20, 20)
    mask = estimate > 3.0
    alignment = align_depth(estimate, 1.0 * estimate - 2.0, mask=mask)
    assert alignment.shift == 0.0
    assert (alignment.apply(estimate) > 0).all()


def test_disparity_at_or_beyond_infinity_stands_at_the_backdrop():
    disparity = torch.linspace(-0.5, 4.0, 400).reshape(20, 20)
    depth = 1 / (0.5 * disparity + 0.2)
    mask = disparity > 1.0
    alignment = align_depth(disparity, depth, mask=mask, inverse=True)
    assert (alignment.scale, alignment.shift) == pytest.approx((0.5, 0.2), rel=1e-4)
    aligned = alignment.apply(disparity)
    assert alignment.farthest == pytest.approx(20 * depth[mask].median().item(), rel=0.01)
    near = depth[mask]
    torch.testing.assert_close(aligned[mask], near, rtol=1e-4, atol=0)
    assert (aligned > 0).all()
    assert aligned.max().item() == pytest.approx(alignment.farthest)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_reversed_estimate_is_refused(inverse):
    estimate = estimate_map()
    reference = estimate if inverse else 1 / estimate
    with pytest.raises(MVCustomError, match=f"inverse={not inverse}"):
        align_depth(estimate, reference, inverse=inverse)


@pytest.mark.parametrize("distance", [0.5, torch.tensor(2.0)])
def test_median_depth(distance):
    estimate = estimate_map().float()
    aligned = align_median_depth(estimate, distance).apply(estimate)
    assert aligned.median().item() == pytest.approx(float(distance))
    torch.testing.assert_close(aligned / aligned[0, 0], estimate / estimate[0, 0])


def test_median_disparity():
    disparity = torch.tensor([[-1.0, 0.0, 2.0, 4.0, 8.0]])
    alignment = align_median_depth(disparity, 3.0, inverse=True)
    backdrop = 20 * 3.0
    assert alignment.apply(disparity)[0].tolist() == pytest.approx([backdrop, backdrop, 3.0, 3.0 / 2, 3.0 / 4])


def bad(message, call):
    return pytest.param(call, message, id=message)


MAP = torch.linspace(1, 2, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        bad("reference: expected the estimate's shape", lambda: align_depth(MAP, MAP[:4])),
        bad("mask: expected bool", lambda: align_depth(MAP, MAP, mask=MAP)),
        bad("weights: expected finite", lambda: align_depth(MAP, MAP, weights=-MAP)),
        bad("at least 16 pixels", lambda: align_depth(MAP, MAP, mask=MAP < 1.1)),
        bad("at least 16 pixels .*got 0", lambda: align_depth(MAP, MAP * torch.nan)),
        bad("some positive values", lambda: align_depth(-torch.ones(8, 8), MAP, inverse=True)),
        bad("finite z-depth above 0", lambda: align_median_depth(MAP, 1.0).apply(MAP - 1.5)),
        bad("estimate: .*nan", lambda: align_median_depth(MAP, 1.0).apply(MAP * torch.nan)),
        bad("distance: ", lambda: align_median_depth(MAP, 0.0)),
        bad("distance: .*inf", lambda: align_median_depth(MAP, math.inf)),
        bad("median depth above 0", lambda: align_median_depth(-MAP, 1.0)),
        bad("median disparity above 0", lambda: align_median_depth(-MAP, 1.0, inverse=True)),
    ],
)
def test_errors(call, message):
    with pytest.raises(MVCustomError, match=message):
        call()
