"""A few-step scheduler: a subject and both hooks in eight steps."""

import pytest
import torch
from diffusers import LCMScheduler

from diffusers_mvcustom import (
    Cameras,
    ConsistentAwareLatentCompletion,
    DepthAwareFeatureRendering,
    ReferenceViews,
    SubjectAdapter,
)

HOOKS = [DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion(end=0.5)]
PROMPT = "a <it> mug by a lake"


@pytest.fixture
def with_subject(pipe):
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(3, 3, 64, 64, generator=generator)
    subject = SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(photos, Cameras.orbit(3, height=64, width=64)),
        "<it>",
        "mug",
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
    )
    for name, parameter in subject.named_parameters():
        if "projection" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    pipe.load_subject(subject)
    return pipe


def test_eight_steps_with_a_subject_and_hooks(with_subject, run):
    pipe = with_subject
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    calls = []
    handle = pipe.unet.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[2]))
    call = {"num_inference_steps": 8, "guidance_scale": 1.5}
    views = run(pipe, PROMPT, hooks=HOOKS, **call)
    handle.remove()
    assert calls == [1] + [3] * (pipe.anchor.preview_steps(8) + 8)  # the references, preview and steps
    assert views.isfinite().all()
    plain, with_rendering = (run(pipe, PROMPT, hooks=hooks, **call) for hooks in ([], HOOKS[:1]))
    without_subject = run(pipe, PROMPT, hooks=HOOKS, pose_guidance_start=1.0, **call)
    for other in (plain, with_rendering, without_subject):
        assert not torch.allclose(views, other)
    assert 0.5 * plain.std() < views.std() < 2 * plain.std()  # no noise is left, nothing has blown up
