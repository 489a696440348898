"""A tiny random model and a subject of random weights, as folders."""

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.app import Workshop
from diffusers_mvcustom.subjects import initial_token_embedding


@pytest.fixture(scope="session")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="session")
def model_without_depth(tiny_model_without_depth):
    return tiny_model_without_depth


@pytest.fixture(scope="session")
def subject(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    pipe = MVCustomPipeline.from_pretrained(model)
    photos = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cameras = Cameras.orbit(4, azimuth=(-60, 60), elevation=10, radius=0.8, height=64, width=64)
    subject = SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(photos, cameras),
        "<it>",
        "mug",
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug"),
    )
    for name, parameter in subject.named_parameters():
        if "projection" in name:  # so that the photos have a say
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    subject.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def workshop(model, subject):
    workshop = Workshop("cpu")
    workshop.load(str(model), str(subject))
    yield workshop
    workshop.close()
