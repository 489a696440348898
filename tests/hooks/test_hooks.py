"""What the hooks do to the U-Net and the latents, on real modules."""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import torch

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.hooks import (
    AnchorGeometry,
    ConsistentAwareLatentCompletion,
    DenoisingHook,
    DenoisingRun,
    DenoisingStep,
    DepthAwareFeatureRendering,
    NoiseLevels,
)
from diffusers_mvcustom.hooks.feature_map_sizes import motion_module_sizes
from diffusers_mvcustom.models import enable_spatio_temporal_attention, motion_inputs_replaced
from diffusers_mvcustom.toy import random_components


@pytest.fixture(scope="module")
def components():
    components = random_components("tiny")
    enable_spatio_temporal_attention(components["unet"], 3)
    return components


def make_run(components, frames=3, size=(12, 16), steps=10):
    height, width = size
    cameras = Cameras.orbit(frames, azimuth=(-20, 20), height=height * 4, width=width * 4)
    scheduler = components["scheduler"]
    scheduler.set_timesteps(steps)
    geometry = AnchorGeometry(torch.full((1, 1, height, width), 1.0), (1,), cameras)
    generator = torch.Generator().manual_seed(0)
    return DenoisingRun(
        latents=torch.randn(1, 4, frames, height, width, generator=generator),
        cameras=cameras,
        unet=components["unet"],
        scheduler=scheduler,
        timesteps=scheduler.timesteps,
        noise_levels=NoiseLevels.of(scheduler, scheduler.timesteps),
        generator=generator,
        randn=lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(7)),
        anchor_geometry=lambda: geometry,
    )


@pytest.mark.parametrize("size", [(16, 16), (9, 13), (7, 4)])
def test_sizes_of_motion_modules_are_those_they_see(components, size):
    unet = components["unet"]
    seen, handles = {}, []
    for name in motion_module_sizes(unet, *size):

        def record(module, args, kwargs, name=name):
            seen[name] = tuple((args[0] if args else kwargs["hidden_states"]).shape[-2:])

        handles.append(unet.get_submodule(name).register_forward_pre_hook(record, with_kwargs=True))
    with torch.no_grad():
        unet(torch.randn(1, 4, 2, *size), 5, torch.randn(2, 7, 32))
    for handle in handles:
        handle.remove()
    assert motion_module_sizes(unet, *size) == seen
    assert list(motion_module_sizes(unet, *size)) == list(seen)  # execution order


@torch.no_grad()
def test_rendered_features_are_what_the_module_sees(components):
    run = make_run(components)
    geometry = run.anchor_geometry()
    module = run.unet.up_blocks[-1].motion_modules[0]
    hidden = torch.randn(2 * 3, module.in_channels, 12, 16, generator=torch.Generator().manual_seed(0))
    plain = module(hidden, num_frames=3)
    expected = module(geometry.render(hidden), num_frames=3)
    assert not torch.allclose(plain, expected)
    with motion_inputs_replaced([module], geometry.render):
        assert torch.equal(module(hidden, num_frames=3), expected)
        assert torch.equal(module(hidden_states=hidden, num_frames=3), expected)
    with pytest.raises(KeyboardInterrupt), motion_inputs_replaced([module], geometry.render):
        raise KeyboardInterrupt
    assert torch.equal(module(hidden, num_frames=3), plain)
    assert module.replace_input is None
    with (
        pytest.raises(MVCustomError, match="Linear"),
        motion_inputs_replaced([torch.nn.Linear(2, 2)], geometry.render),
    ):
        pass


def armed_module(unet, name):
    return unet.get_submodule(name).replace_input is not None


def test_rendering_acts_in_its_share_of_the_steps_and_layers(components):
    run = make_run(components)
    hook = DepthAwareFeatureRendering(start=0.2, end=0.5, layers=r"up_blocks\.1\.motion_modules\.\d+")
    hook.prepare(run)
    armed = []
    for index, timestep in enumerate(run.timesteps):
        with ExitStack() as during:
            hook.before_step(run, DenoisingStep(index, timestep, during))
            armed.append([name for name in motion_module_sizes(run.unet, 12, 16) if armed_module(run.unet, name)])
    layers = [name for name in motion_module_sizes(run.unet, 12, 16) if name.startswith("up_blocks.1.")]
    assert armed == [layers if 2 <= index < 5 else [] for index in range(10)]


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({}, {0, 1, 2}),
        ({"carry_noise": False}, {0, 1}),
        ({"carry_noise": False, "layers": r"up_blocks\.\d+\.motion_modules\.\d+"}, {0, 1, 2}),
    ],
)
def test_the_last_up_block_is_replaced_where_the_noise_is(components, settings, blocks):
    """It predicts the noise: by default its inputs are left alone without the anchor's noise."""
    run = make_run(components)
    hook = DepthAwareFeatureRendering(**settings)
    hook.prepare(run)
    with ExitStack() as during:
        hook.before_step(run, DenoisingStep(0, run.timesteps[0], during))
        armed = [name for name in motion_module_sizes(run.unet, 12, 16) if armed_module(run.unet, name)]
    assert {int(name.split(".")[1]) for name in armed} == blocks


def test_views_start_from_the_anchors_noise_where_it_saw_them(components):
    run = make_run(components)
    before = run.latents.clone()
    DepthAwareFeatureRendering(carry_noise=False).prepare(run)
    assert torch.equal(run.latents, before)
    DepthAwareFeatureRendering().prepare(run)
    visible = run.anchor_geometry().visibility(12, 16)[:, None].expand_as(before)
    assert torch.equal(run.latents[~visible], before[~visible])
    assert torch.equal(run.latents[:, :, 1], before[:, :, 1])  # the anchor
    warp = run.anchor_geometry().warps(12, 16)[0]
    source = before[0, :, 1].flatten(1)  # [C, pixels]
    for frame in (0, 2):
        seen = warp.visibility[frame].flatten().nonzero().squeeze(1).tolist()
        assert len(seen) > 50
        for pixel in seen:
            weights = warp.weights[frame, pixel]
            expected = (source[:, warp.indices[frame, pixel]] * weights).sum(-1) / weights.norm()
            torch.testing.assert_close(run.latents[0, :, frame].flatten(1)[:, pixel], expected)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_carrying_noise_is_a_yes_or_no(value):
    with pytest.raises(MVCustomError, match="carry_noise: expected true or false"):
        DepthAwareFeatureRendering(carry_noise=value)


def test_completion_is_its_formula(components):
    run = make_run(components)
    hook = ConsistentAwareLatentCompletion(end=0.3)
    hook.prepare(run)
    visible = run.anchor_geometry().visibility(12, 16)[:, None].expand_as(run.latents)
    assert 0 < visible.float().mean() < 1
    original = torch.randn(run.latents.shape, generator=torch.Generator().manual_seed(3))
    noise = run.randn(tuple(run.latents.shape))
    for index in (0, 2):
        before = run.latents.clone()
        hook.after_step(run, DenoisingStep(index, run.timesteps[index], ExitStack(), original))
        expected = run.scheduler.add_noise(original, noise, run.timesteps[index + 1][None])
        torch.testing.assert_close(run.latents[~visible], expected[~visible])
        assert torch.equal(run.latents[visible], before[visible])
        run.latents = before
    before = run.latents.clone()
    hook.after_step(run, DenoisingStep(3, run.timesteps[3], ExitStack(), original))
    assert torch.equal(run.latents, before)
    last = ConsistentAwareLatentCompletion(end=1.0)
    last.prepare(run)
    last.after_step(run, DenoisingStep(9, run.timesteps[9], ExitStack(), original))
    assert torch.equal(run.latents, before)  # no noise is left in the views


def test_hooks_of_ones_own():
    @dataclass
    class Dim(DenoisingHook):
        factor: float = 0.5

        def after_step(self, run, step):
            run.latents = run.latents * self.factor

    assert Dim.from_dict({"factor": 0.1}).to_dict() == {"start": 0.0, "end": 1.0, "factor": 0.1}
    assert DepthAwareFeatureRendering.from_dict(DepthAwareFeatureRendering(end=0.3).to_dict()).end == 0.3
