"""Fixtures of the tests that need a GPU, marked `gpu`.

`MVCUSTOM_TEST_DEVICE=cpu` runs them on a CPU, where they say nothing of CUDA but show that they would run.
"""

from __future__ import annotations

import os

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.subjects import initial_token_embedding
from diffusers_mvcustom.toy import random_components

PROMPT = "a <cube> toy by a lake"


@pytest.fixture
def full_precision():
    """float32 products without TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)  # no monkeypatch: their attributes cannot be deleted
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before):
        backend.allow_tf32 = allowed


@pytest.fixture
def cuda(full_precision) -> torch.device:
    """The GPU, for what a CPU has no counterpart of."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture
def device(request, full_precision) -> torch.device:
    """The GPU, or what `MVCUSTOM_TEST_DEVICE` names."""
    name = os.environ.get("MVCUSTOM_TEST_DEVICE", "cuda")
    return request.getfixturevalue("cuda") if name == "cuda" else torch.device(name)


@pytest.fixture
def make_pipe():
    """Builds a tiny pipeline on the CPU, with a subject as training leaves it; keyword arguments are settings."""

    def make(subject=True, **settings):
        pipe = MVCustomPipeline(**{**random_components("tiny"), **settings})
        pipe.set_progress_bar_config(disable=True)
        if subject:
            pipe.load_subject(trained_subject(pipe))
        return pipe

    return make


def trained_subject(pipe: MVCustomPipeline) -> SubjectAdapter:
    generator = torch.Generator().manual_seed(0)
    references = ReferenceViews(torch.rand(4, 3, 64, 64, generator=generator), Cameras.orbit(4, height=64, width=64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the layers that stay as they are created
        subject = SubjectAdapter.create(
            pipe.unet,
            references,
            token="<cube>",
            class_noun="toy",
            token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "toy"),
            num_references=3,
        )
    for name, parameter in subject.named_parameters():
        if "projection" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora"
    channels = pipe.unet.config.block_out_channels[0]
    subject.lora_state_dict = {
        f"{layer}.down.weight": torch.randn(2, channels, generator=generator),
        f"{layer}.up.weight": torch.randn(channels, 2, generator=generator),
    }
    return subject


@pytest.fixture
def cameras() -> Cameras:
    return Cameras.orbit(3, azimuth=(-20, 20), elevation=15, height=64, width=64)


@pytest.fixture
def run(cameras):
    """Runs a pipeline with small settings; its latents, on the CPU in float32. The noise is the CPU's on any device."""

    def run(pipe, prompt=PROMPT, **call):
        settings = {
            "cameras": cameras,
            "num_inference_steps": 3,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(0),
            "anchor_depth": torch.linspace(0.8, 1.2, 64).expand(64, 64),  # an estimate turns rounding into triangles
            **call,
        }
        frames = pipe(prompt, **settings).frames
        return torch.as_tensor(frames).float().cpu()

    return run
