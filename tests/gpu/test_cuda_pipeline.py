"""The pipeline on a GPU: the CPU's views in float32, near them in half precision, wherever its parts lie."""

from __future__ import annotations

import pytest
import torch

from diffusers_mvcustom import ConsistentAwareLatentCompletion, DepthAwareFeatureRendering, MVCustomPipeline
from diffusers_mvcustom.toy import random_components

pytestmark = pytest.mark.gpu

HOOKS = {
    "none": [],
    "DFR": [DepthAwareFeatureRendering()],
    "CLC": [ConsistentAwareLatentCompletion(end=0.7)],
    "both": [DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion(end=0.7)],
}


def assert_near(found, expected, share=1e-3):
    """The mean difference is a small share of the views' spread: few pixels may fall on another side of an edge."""
    assert found.isfinite().all()
    assert (found - expected).abs().mean() < share * expected.std()


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize(("window", "temporal_heads"), [(1, 0), (3, 0), (None, 0), (None, 1)])
def test_equals_the_cpu(make_pipe, run, device, hooks, window, temporal_heads):
    reach = {"attention_window": window, "temporal_heads": temporal_heads}
    expected = run(make_pipe(**reach), hooks=HOOKS[hooks])
    assert_near(run(make_pipe(**reach).to(device), hooks=HOOKS[hooks]), expected)


def test_random_models_are_built_on_the_device(device):
    before = torch.get_rng_state(), torch.cuda.get_rng_state() if device.type == "cuda" else None
    first, again = (random_components("tiny", device=device) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert device.type != "cuda" or torch.equal(torch.cuda.get_rng_state(), before[1])
    for name in ("unet", "vae", "text_encoder", "depth_estimator"):
        for one, other in zip(first[name].parameters(), again[name].parameters(), strict=True):
            assert one.device.type == device.type
            assert torch.equal(one, other)


def test_estimated_depth(make_pipe, run, device):
    """The whole of it: preview, depth model, alignment to the subject, hooks, decoding."""
    pipe = make_pipe().to(device)
    views = run(pipe, anchor_depth=None, output_type="pt")
    assert views.shape == (1, 3, 3, 64, 64)
    assert views.isfinite().all()
    assert torch.equal(run(pipe, anchor_depth=None, output_type="pt"), views)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(make_pipe, run, device, dtype, tmp_path):
    expected = run(make_pipe())
    pipe = make_pipe().to(device, dtype)
    assert_near(run(pipe), expected, share=0.15)
    pipe.save_pretrained(tmp_path)
    loaded = MVCustomPipeline.from_pretrained(tmp_path, dtype=dtype).to(device)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(run(loaded), run(pipe))


def test_subject_on_and_off(make_pipe, run, device):
    pipe = make_pipe(subject=False).to(device)
    plain = run(pipe, "a toy by a lake")
    loaded = make_pipe()
    loaded.to(device)
    with_subject = run(loaded)
    loaded.unload_subject()
    assert torch.equal(run(loaded, "a toy by a lake"), plain)
    assert not torch.allclose(with_subject, plain)


@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload(make_pipe, run, cuda, offload):
    expected = run(make_pipe().to(cuda))
    pipe = make_pipe()
    getattr(pipe, offload)()
    assert_near(run(pipe), expected)
    assert_near(run(pipe), expected)  # the first call left nothing on the wrong device
    assert run(pipe, anchor_depth=None).isfinite().all()  # estimated
    pipe.unload_subject()
    assert run(pipe, "a toy by a lake").isfinite().all()


@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_a_subject_loaded_under_offloading(make_pipe, run, cuda, offload):
    whole = make_pipe().to(cuda)
    expected, subject = run(whole), whole.subject
    whole.unload_subject()
    pipe = make_pipe(subject=False)
    getattr(pipe, offload)()
    pipe.load_subject(subject)
    assert_near(run(pipe), expected)


def test_balanced_device_map(make_pipe, run, cuda, tmp_path):
    expected = run(make_pipe().to(cuda))
    make_pipe().save_pretrained(tmp_path)
    pipe = MVCustomPipeline.from_pretrained(tmp_path, device_map="balanced")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.hf_device_map
    assert_near(run(pipe), expected)


def test_device_map_of_one_device(make_pipe, run, device, tmp_path):
    expected = run(make_pipe().to(device))
    make_pipe().save_pretrained(tmp_path)
    pipe = MVCustomPipeline.from_pretrained(tmp_path, device_map=str(device))
    pipe.set_progress_bar_config(disable=True)
    assert_near(run(pipe), expected)


@pytest.mark.parametrize("window", [1, 3, None])
def test_xformers(make_pipe, run, cuda, window):
    pytest.importorskip("xformers")
    pipe = make_pipe(attention_window=window).to(cuda, torch.float16)
    expected = run(pipe)
    pipe.unet.set_attention_backend("xformers")
    try:
        assert_near(run(pipe), expected, share=0.05)
    finally:
        pipe.unet.set_attention_backend("native")


@pytest.mark.parametrize("generator", ["cpu", "cuda"])
def test_generators(make_pipe, run, cuda, generator):
    pipe = make_pipe().to(cuda)
    first, second = (run(pipe, generator=torch.Generator(generator).manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"])
def test_schedulers(make_pipe, run, device, scheduler):
    import diffusers

    def views(where):
        pipe = make_pipe().to(where)
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
        return run(pipe)

    assert_near(views(device), views("cpu"))
