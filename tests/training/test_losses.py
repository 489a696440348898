"""The losses against plain loops over pixels."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training.losses import (
    background_loss,
    denoising_loss,
    denoising_target,
    min_snr_weights,
    opacity_loss,
    rgb_loss,
)


def test_the_denoising_error_counts_inside_the_mask_only():
    prediction, target = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    mask = torch.rand(3, 1, 5, 6)
    for b in range(3):
        total = weight = 0.0
        for y in range(5):
            for x in range(6):
                error = sum((prediction[b, c, y, x] - target[b, c, y, x]).item() ** 2 for c in range(4)) / 4
                total += mask[b, 0, y, x].item() * error
                weight += mask[b, 0, y, x].item()
        assert denoising_loss(prediction, target, mask)[b].item() == pytest.approx(total / weight, rel=1e-5)
    whole = denoising_loss(prediction, target)
    assert torch.allclose(whole, denoising_loss(prediction, target, torch.ones(3, 1, 5, 6)))
    assert denoising_loss(prediction, target, torch.zeros(3, 1, 5, 6)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_recovers_the_clean_latents(kind):
    scheduler = DDPMScheduler(prediction_type=kind, clip_sample=False)
    latents, noise, timesteps = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([10, 500, 990])
    target = denoising_target(scheduler, latents, noise, timesteps)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    for b, t in enumerate(timesteps):
        clean = scheduler.step(target[b : b + 1], t, noisy[b : b + 1]).pred_original_sample
        assert torch.allclose(clean, latents[b : b + 1], atol=2e-3 / scheduler.alphas_cumprod[t].sqrt().item())


def test_an_unknown_prediction_type_is_refused():
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(MVCustomError, match="got 'flow'"):
        denoising_target(scheduler, *(torch.zeros(1, 4, 2, 2),) * 2, torch.tensor([0]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_bounds_the_error_in_the_clean_latents(kind):
    """In terms of the clean latents every parametrisation's weighted error is min(SNR, γ)."""
    scheduler, gamma = DDPMScheduler(prediction_type=kind), 5.0
    timesteps = torch.tensor([0, 100, 500, 999])
    for t, weight in zip(timesteps.tolist(), min_snr_weights(scheduler, timesteps, gamma).tolist()):
        alpha = scheduler.alphas_cumprod[t].item()
        snr = alpha / (1 - alpha)
        # A unit error in the clean latents is this much squared error in what the U-Net predicts.
        in_prediction = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[kind]
        assert weight * in_prediction == pytest.approx(min(snr, gamma), rel=1e-4)


def test_colours_are_compared_at_the_size_of_the_map():
    rgb, photos, masks = torch.rand(2, 3, 4, 3), torch.rand(2, 3, 6, 8), (torch.rand(2, 1, 6, 8) > 0.5).float()
    for n in range(2):
        total = weight = 0.0
        for y in range(3):
            for x in range(4):
                block = (n, slice(None), slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
                share = masks[block].mean().item()
                before_black = sum(  # a pixel of the subject counts, one beside it is black
                    photos[n, :, 2 * y + i, 2 * x + j] * masks[n, 0, 2 * y + i, 2 * x + j]
                    for i in range(2)
                    for j in range(2)
                )
                error = (rgb[n, y, x] - before_black / 4).square().mean().item()
                total, weight = total + share * error, weight + share
        assert rgb_loss(rgb, photos, masks)[n].item() == pytest.approx(total / weight, rel=1e-5)


def test_a_perfect_rendering_of_the_subject_before_black_has_no_error():
    photos, masks = torch.rand(2, 3, 6, 8), (torch.rand(2, 1, 6, 8) > 0.5).float()
    rendered = torch.nn.functional.avg_pool2d(photos * masks, 2).permute(0, 2, 3, 1)
    assert torch.allclose(rgb_loss(rendered, photos, masks), torch.zeros(2), atol=1e-12)


def test_opacity_and_mask():
    opacity, masks = torch.rand(2, 3, 4), (torch.rand(2, 1, 6, 8) > 0.5).float()
    for n in range(2):
        total = 0.0
        for y in range(3):
            for x in range(4):
                total += (opacity[n, y, x] - masks[n, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()).item() ** 2
        assert opacity_loss(opacity, masks)[n].item() == pytest.approx(total / 12, rel=1e-5)


def test_density_counts_on_rays_outside_the_mask_only_and_every_sample_is_pulled():
    density = torch.rand(1, 12, 5) * 3
    density.requires_grad_()
    masks = torch.zeros(1, 1, 3, 4)
    masks[..., 2:] = 1
    masks[0, 0, 0, 0] = 0.05  # below the threshold: outside
    loss = background_loss(density, (3, 4), masks, 0.1)
    outside = [y * 4 + x for y in range(3) for x in range(2)]
    total = sum(1 - math.exp(-density[0, ray, s].item()) for ray in outside for s in range(5))
    assert loss.item() == pytest.approx(total / (len(outside) * 5), rel=1e-5)
    loss.sum().backward()
    inside = [ray for ray in range(12) if ray not in outside]
    assert (density.grad[0, inside] == 0).all()
    assert (density.grad[0, outside] > 0).all()
