"""`torch.compile` of the U-Net with a subject attached and hooks armed: one graph a case, and the same views.

Dynamo takes seconds a graph even for the tiny U-Net, so these are slow tests. With sizes as symbols it takes for ever: in
diffusers' motion modules their quotients grow from module to module. So a graph is made for every size (`dynamic=False`).
"""

from contextlib import nullcontext

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from diffusers_mvcustom import (
    Cameras,
    ConsistentAwareLatentCompletion,
    DepthAwareFeatureRendering,
    ReferenceViews,
    SubjectAdapter,
)
from diffusers_mvcustom.hooks import AnchorGeometry
from diffusers_mvcustom.hooks.feature_map_sizes import motion_module_sizes
from diffusers_mvcustom.models import motion_inputs_replaced
from diffusers_mvcustom.subjects import feature_map_size

pytestmark = pytest.mark.slow

HOOKS = [DepthAwareFeatureRendering(end=0.5), ConsistentAwareLatentCompletion()]
PROMPT = "a <it> mug by a lake"


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def make_pipe_with_subject(make_pipe):
    def make(window):
        pipe = make_pipe(attention_window=window)
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

    return make


@torch.no_grad()
def test_a_subject_and_rendered_features_are_in_one_graph(make_pipe_with_subject):
    pipe = make_pipe_with_subject(None)
    unet, conditioning = pipe.unet, pipe.subject.conditioning
    generator = torch.Generator().manual_seed(0)
    sample, text = (torch.randn(size, generator=generator) for size in ((2, 4, 3, 8, 8), (6, 7, 32)))
    sizes = {name: feature_map_size(unet, name, 8, 8) for name in pipe.subject.block_names}
    features = {
        name: torch.randn(6, height * width, pipe.subject.config.pose_conditioned_blocks[name], generator=generator)
        for name, (height, width) in sizes.items()
    }
    modules = [module for block in unet.up_blocks for module in block.motion_modules]

    def step(geometry=None, features=features):
        rendering = nullcontext() if geometry is None else motion_inputs_replaced(modules, geometry.render)
        with conditioning.rendered(features), rendering:
            return unet(sample, 5, encoder_hidden_states=text).sample

    def geometry(anchor, depth):
        cameras = Cameras.orbit(3, azimuth=(-20, 20), height=32, width=32)
        made = AnchorGeometry(torch.full((1, 1, 8, 8), depth), (anchor,), cameras)
        for size in motion_module_sizes(unet, 8, 8).values():
            made.warps(*size)  # as the hook does before the first step
        return made

    plain, rendered, other = step(), step(geometry(1, 1.0)), step(geometry(0, 0.8))
    for first, second in ((plain, rendered), (rendered, other)):
        assert not torch.allclose(first, second, rtol=1e-2, atol=1e-2)
    unet.compile(backend="eager", fullgraph=True)  # refuses a graph break
    counters.clear()
    torch.testing.assert_close(step(), plain)
    torch.testing.assert_close(step(geometry(1, 1.0)), rendered)  # seen, although compiled without it before
    assert counters["stats"]["unique_graphs"] == 2
    torch.testing.assert_close(step(geometry(0, 0.8)), other)
    torch.testing.assert_close(step(), plain)
    assert counters["stats"]["unique_graphs"] == 2  # other geometry compiles nothing anew


@pytest.mark.parametrize(("window", "backend"), [({"8": None, "16": 3}, "eager"), (None, "aot_eager")])
def test_views_are_those_of_the_plain_unet_without_a_graph_break(make_pipe_with_subject, run, window, backend):
    pipe = make_pipe_with_subject(window)
    # Half of the steps with rendered features, half without; a preview without; references without motion modules.
    call = {"prompt": PROMPT, "hooks": HOOKS, "num_inference_steps": 4}
    expected = run(pipe, **call)
    without_rendering = run(pipe, **{**call, "hooks": HOOKS[1:]})
    pipe.unet.compile(backend=backend, fullgraph=True, dynamic=False)
    counters.clear()
    torch.testing.assert_close(run(pipe, **call), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(expected, without_rendering, rtol=1e-2, atol=1e-2)  # so hooks are seen once compiled
    graphs = counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]
    again = run(pipe, **{**call, "prompt": "a <it> mug on a table"}, seed=1, anchor=0)
    assert again.isfinite().all()
    assert counters["stats"]["unique_graphs"] == graphs  # another call, other geometry: nothing is compiled anew


def test_the_compiled_wrapper_with_subjects_coming_and_going(make_pipe_with_subject, run):
    pipe = make_pipe_with_subject(1)
    expected = run(pipe, PROMPT, hooks=[])
    pipe.unet = torch.compile(pipe.unet, backend="eager", dynamic=False)
    torch.testing.assert_close(run(pipe, PROMPT, hooks=[]), expected, rtol=1e-3, atol=1e-3)
    subject = pipe.subject
    pipe.unload_subject()
    assert not subject.is_attached
    plain = run(pipe, "a mug", hooks=[])
    pipe.load_subject(subject)
    torch.testing.assert_close(run(pipe, PROMPT, hooks=[]), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(plain, expected)
