"""A tiny random model and an untrained subject, as folders."""

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.subjects import initial_token_embedding
from diffusers_mvcustom.toy import random_components


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    MVCustomPipeline(**random_components("tiny")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_without_depth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model-without-depth")
    MVCustomPipeline(**random_components("tiny", depth_estimator=False)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def subject(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    pipe = MVCustomPipeline.from_pretrained(model)
    photos = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cameras = Cameras.orbit(4, azimuth=(-60, 60), elevation=10, radius=0.8, height=64, width=64)
    SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(photos, cameras),
        "<it>",
        "mug",
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug"),
    ).save_pretrained(folder)
    return folder
