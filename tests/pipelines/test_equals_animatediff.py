"""With window 1, no subject and no hooks the pipeline is `AnimateDiffPipeline`, to the last bit."""

import diffusers
import pytest
import torch
from diffusers import AnimateDiffPipeline, UNetMotionModel

from diffusers_mvcustom import Cameras, MVCustomPipeline
from diffusers_mvcustom.toy import random_components, random_unet2d_and_motion_adapter

SIZE = {"height": 48, "width": 64}


def both_pipelines(**factories):
    """The stock pipeline and ours on equal components; keyword arguments are factories of other components."""
    pipes = []
    for kind in (AnimateDiffPipeline, MVCustomPipeline):
        parts = {**random_components("tiny", depth_estimator=False), "motion_adapter": None}
        pipes.append(kind(**parts | {name: factory() for name, factory in factories.items()}))
        pipes[-1].set_progress_bar_config(disable=True)
    return pipes


def outputs(stock, ours, frames=4, output_type="latent", **call):
    call = {"prompt": "a mug by a lake", "num_inference_steps": 3, "guidance_scale": 5.0, **call}
    common = {**call, "output_type": output_type, **SIZE}
    expected = stock(num_frames=frames, generator=torch.Generator().manual_seed(1), **common).frames
    cameras = Cameras.orbit(frames, **SIZE)
    got = ours(cameras=cameras, hooks=[], generator=torch.Generator().manual_seed(1), **common).frames
    return expected, got


@pytest.mark.parametrize("output_type", ["latent", "pt"])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_latents_and_images_are_equal(output_type, guidance_scale):
    expected, got = outputs(*both_pipelines(), output_type=output_type, guidance_scale=guidance_scale)
    assert expected.std() > 0.01
    assert torch.equal(expected, got)


@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"],
)
def test_equal_with_every_scheduler(scheduler):
    stock, ours = both_pipelines()
    for pipe in (stock, ours):
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    expected, got = outputs(stock, ours)
    assert torch.equal(expected, got)


def test_equal_for_a_batch_with_negative_prompts():
    expected, got = outputs(
        *both_pipelines(), prompt=["a mug by a lake", "a car"], negative_prompt=["blurry", "dark"], eta=0.5
    )
    assert len(got) == 2
    assert torch.equal(expected, got)


def test_equal_from_a_2d_unet_and_a_motion_adapter():
    unet, adapter = random_unet2d_and_motion_adapter("tiny")
    expected, got = outputs(*both_pipelines(unet=lambda: unet, motion_adapter=lambda: adapter))
    assert torch.equal(expected, got)


def test_equal_with_free_init():
    stock, ours = both_pipelines()
    for pipe in (stock, ours):
        pipe.enable_free_init(num_iters=2)
    expected, got = outputs(stock, ours)
    assert torch.equal(expected, got)


def test_the_window_makes_a_difference():
    stock, ours = both_pipelines()
    ours.set_attention_window(None)
    expected, got = outputs(stock, ours)
    assert (expected - got).abs().max() > 1e-3
    assert isinstance(ours.unet, UNetMotionModel)
