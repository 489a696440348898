"""Known views stay at the noise level of every step, for every scheduler and prediction type."""

from contextlib import ExitStack

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.hooks import DenoisingRun, DenoisingStep, KnownViews, NoiseLevels

SETTINGS = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, LCMScheduler]
STEPS = 6


def make_run(kind=DDIMScheduler, prediction_type="epsilon", batch=2, frames=4):
    extra = {"clip_sample": False} if kind in (DDIMScheduler, LCMScheduler) else {}
    scheduler = kind(**SETTINGS, **extra, prediction_type=prediction_type)
    scheduler.set_timesteps(STEPS)
    noise = torch.randn(batch, 4, frames, 5, 7, generator=torch.Generator().manual_seed(0))
    run = DenoisingRun(
        latents=noise * scheduler.init_noise_sigma,
        cameras=Cameras.orbit(frames, height=40, width=56),
        unet=torch.nn.Identity(),
        scheduler=scheduler,
        timesteps=scheduler.timesteps,
        noise_levels=NoiseLevels.of(scheduler, scheduler.timesteps),
        generator=None,
        randn=torch.randn,
        anchor_geometry=None,
    )
    return run, noise


def known_latents(batch, count):
    return torch.randn(batch, 4, count, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("batch", [1, 2])
def test_known_frames_are_at_the_schedulers_own_noise_level(kind, prediction_type, batch):
    run, noise = make_run(kind, prediction_type)
    known, places = known_latents(batch, 2), [1, 3]
    hook = KnownViews(frames=(1, 3), latents=known)
    hook.prepare(run)
    generator = torch.Generator().manual_seed(2)
    for index, timestep in enumerate(run.timesteps):
        step = DenoisingStep(index, timestep, ExitStack())
        hook.before_step(run, step)
        expected = run.scheduler.add_noise(known.expand(2, -1, -1, -1, -1), noise[:, :, places], timestep[None])
        torch.testing.assert_close(run.latents[:, :, places], expected)
        others = run.latents[:, :, [0, 2]]
        run.scheduler.scale_model_input(run.latents, timestep)
        output = torch.randn(run.latents.shape, generator=generator)
        run.latents = run.scheduler.step(output, timestep, run.latents).prev_sample
        assert not torch.equal(run.latents[:, :, [0, 2]], others)
        others = run.latents[:, :, [0, 2]].clone()
        hook.after_step(run, step)
        assert torch.equal(run.latents[:, :, [0, 2]], others)  # the rest is left alone
    assert torch.equal(run.latents[:, :, places], known.expand(2, -1, -1, -1, -1))


def test_views_are_let_go_after_their_share_of_the_steps():
    run, _ = make_run()
    known = known_latents(1, 1)
    hook = KnownViews(frames=(0,), latents=known, end=0.5)
    hook.prepare(run)
    held = []
    for index, timestep in enumerate(run.timesteps):
        step = DenoisingStep(index, timestep, ExitStack())
        run.latents = torch.full_like(run.latents, 7.0)
        hook.before_step(run, step)
        held.append(not torch.equal(run.latents[:, :, 0], torch.full_like(run.latents[:, :, 0], 7.0)))
        run.latents = torch.full_like(run.latents, 7.0)
        hook.after_step(run, step)
    assert held == [True] * 3 + [False] * 3
    assert (run.latents == 7.0).all()


def test_latents_that_others_hold_are_not_written_to():
    run, _ = make_run()
    before = run.latents
    copy = before.clone()
    KnownViews(frames=(0,), latents=known_latents(1, 1)).prepare(run)
    assert torch.equal(before, copy)


@pytest.mark.parametrize(
    ("frames", "latents", "match"),
    [
        ((), known_latents(1, 0), "one or more"),
        ((1, 1), known_latents(1, 2), "different frames"),
        ((0,), known_latents(1, 2), r"channels, 1, h, w"),
        ((0,), known_latents(1, 1)[0], "expected shape"),
        ((0,), known_latents(1, 1) / 0, "finite"),
    ],
)
def test_what_is_no_known_view_is_refused(frames, latents, match):
    with pytest.raises(MVCustomError, match=match):
        KnownViews(frames=frames, latents=latents)


@pytest.mark.parametrize(
    ("frames", "latents", "match"),
    [
        ((4,), known_latents(1, 1), "from 0 to 3"),
        ((-1,), known_latents(1, 1), "from 0 to 3"),
        ((0,), known_latents(3, 1), r"\(2, 4, 1, 5, 7\)"),
        ((0,), known_latents(1, 1)[..., :6], r"\(2, 4, 1, 5, 7\)"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(frames, latents, match):
    with pytest.raises(MVCustomError, match=match):
        KnownViews(frames=frames, latents=latents).prepare(make_run()[0])


def test_it_has_no_settings_to_be_saved():
    hook = KnownViews(frames=(0,), latents=known_latents(1, 1))
    assert hook.name is None
    with pytest.raises(MVCustomError, match="no settings"):
        hook.to_dict()
