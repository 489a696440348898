import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.hooks import NoiseLevels

SETTINGS = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = [
    DDIMScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
]


def make(kind, **settings):
    extra = {"clip_sample": False} if kind in (DDIMScheduler, LCMScheduler) else {}
    scheduler = kind(**SETTINGS, **extra, **settings)
    scheduler.set_timesteps(10)
    return scheduler


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_noising_is_the_schedulers_own(kind):
    scheduler = make(kind)
    levels = NoiseLevels.of(scheduler, scheduler.timesteps)
    original, noise = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    for index, timestep in enumerate(scheduler.timesteps):
        expected = scheduler.add_noise(original, noise, timestep[None])
        torch.testing.assert_close(levels.add_noise(original, noise, index), expected)


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_original_is_recovered_from_a_perfect_prediction(kind, prediction_type):
    scheduler = make(kind, prediction_type=prediction_type)
    levels = NoiseLevels.of(scheduler, scheduler.timesteps)
    original, noise = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    for index in range(len(scheduler.timesteps)):
        alpha, sigma = levels.alphas[index].double(), levels.sigmas[index].double()
        scale = (alpha**2 + sigma**2).sqrt()
        output = {
            "epsilon": noise,
            "sample": original,
            "v_prediction": alpha / scale * noise - sigma / scale * original,
        }[prediction_type]
        sample = alpha * original + sigma * noise
        predicted = levels.predict_original(output, sample, index)
        torch.testing.assert_close(predicted, original, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_original_is_the_one_that_the_scheduler_reports(kind, prediction_type):
    scheduler = make(kind, prediction_type=prediction_type)
    levels = NoiseLevels.of(scheduler, scheduler.timesteps)
    sample, output = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    index = 4
    scheduler.scale_model_input(sample, scheduler.timesteps[index])
    reported = scheduler.step(output, scheduler.timesteps[index], sample).pred_original_sample
    torch.testing.assert_close(levels.predict_original(output, sample, index), reported, rtol=1e-5, atol=1e-5)


def test_reading_the_levels_leaves_the_scheduler_as_it_was():
    for kind in SCHEDULERS:
        touched, untouched = make(kind), make(kind)
        NoiseLevels.of(touched, touched.timesteps)
        sample, output = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
        results = []
        for scheduler in (touched, untouched):
            torch.manual_seed(0)
            scheduler.scale_model_input(sample, scheduler.timesteps[0])
            results.append(scheduler.step(output, scheduler.timesteps[0], sample).prev_sample)
        assert torch.equal(*results)


def test_dtype_of_the_sample_is_kept():
    scheduler = make(DDIMScheduler)
    levels = NoiseLevels.of(scheduler, scheduler.timesteps)
    sample = torch.randn(1, 4, 3, 5).bfloat16()
    assert levels.predict_original(sample, sample, 0).dtype == torch.bfloat16
    assert levels.add_noise(sample, sample, 0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (HeunDiscreteScheduler(**SETTINGS), "one model call a step"),
        (PNDMScheduler(**SETTINGS), "one model call a step"),
        (FlowMatchEulerDiscreteScheduler(), "prediction_type"),
    ],
)
def test_schedulers_that_do_not_fit_are_refused(scheduler, message):
    scheduler.set_timesteps(10)
    with pytest.raises(MVCustomError, match=message):
        NoiseLevels.of(scheduler, scheduler.timesteps)
