"""Fixtures of the pipeline's tests."""

import os
import re
from pathlib import Path

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.cameras import load_capture
from diffusers_mvcustom.subjects import initial_token_embedding
from diffusers_mvcustom.toy import random_components


def pytest_configure(config):
    """Makes the markers of diffusers' own tests known, where `test_diffusers_mixins.py` is to run them."""
    source = os.environ.get("MVCUSTOM_DIFFUSERS_SOURCE")
    if source:
        text = (Path(source) / "tests" / "testing_utils.py").read_text(encoding="utf-8")
        for name in sorted(set(re.findall(r"pytest\.mark\.(\w+)", text))):
            config.addinivalue_line("markers", f"{name}: of diffusers' tests")


@pytest.fixture
def make_pipe():
    """Builds a pipeline of fresh tiny components; keyword arguments replace components and settings."""

    def make(**settings):
        with_images = settings.pop("image_encoder_for_ip_adapter", False)
        components = random_components("tiny", image_encoder=with_images)
        pipe = MVCustomPipeline(**{**components, **settings})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def pipe(make_pipe):
    return make_pipe()


@pytest.fixture
def cameras():
    return Cameras.orbit(3, azimuth=(-20, 20), elevation=15, height=64, width=64)


@pytest.fixture
def run(cameras):
    """Runs a pipeline with small settings and returns its frames as a tensor."""

    def run(pipe, prompt="a mug by a lake", seed=0, **call):
        settings = {
            "cameras": cameras,
            "num_inference_steps": 3,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(seed),
            **call,
        }
        return pipe(prompt, **settings).frames

    return run


@pytest.fixture
def references(cube_capture):
    return ReferenceViews.from_capture(load_capture(cube_capture))


@pytest.fixture
def make_subject(references):
    """Builds a subject for a pipeline; `trained` gives its parts random weights, as training would."""

    def make(pipe, token="<cube>", trained=True, seed=0):
        embedding = initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "toy")
        subject = SubjectAdapter.create(
            pipe.unet, references, token=token, class_noun="toy", token_embedding=embedding, num_references=3
        )
        if trained:
            generator = torch.Generator().manual_seed(seed)
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

    return make
