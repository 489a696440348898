"""Motion modules of another training, for the length of a generation."""

import pytest
import torch
from diffusers import MotionAdapter

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.evaluation.toy_suite.motion_weights import motion_weights
from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter


@pytest.fixture
def pipe(components):
    pipe = MVCustomPipeline(**components, attention_window=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def adapter():
    """One of other weights, that change something."""
    return random_unet2d_and_motion_adapter("tiny", seed=5)[1]


def test_they_are_there_while_it_lasts_even_if_it_fails(pipe, adapter):
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}

    def look_and_fail():
        with motion_weights(pipe.unet, adapter):
            now = dict(pipe.unet.named_parameters())
            assert all(torch.equal(now[name], weight) for name, weight in adapter.named_parameters())
            assert all(torch.equal(now[name], before[name]) for name in now if "motion_modules" not in name)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        look_and_fail()
    after = pipe.unet.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_an_adapter_of_another_shape_is_refused(pipe):
    other = MotionAdapter(
        block_out_channels=(32, 64), motion_num_attention_heads=2, motion_norm_num_groups=8, motion_max_seq_length=8
    )
    with pytest.raises(MVCustomError, match="does not fit"), motion_weights(pipe.unet, other):
        pass
