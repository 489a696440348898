import copy

import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from peft import LoraConfig
from reference.attention_masked import masked_attention

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models import (
    SpatioTemporalTransformer3D,
    disable_spatio_temporal_attention,
    enable_spatio_temporal_attention,
    motion_bypassed,
)
from diffusers_mvcustom.toy import random_components


@pytest.fixture(scope="module")
def stock():
    return random_components("tiny", depth_estimator=False)["unet"]


@pytest.fixture
def unet(stock):
    return copy.deepcopy(stock)


def inputs(frames=3, height=8, width=12, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch, 4, frames, height, width, generator=generator).to(dtype)
    text = torch.randn(batch * frames, 7, 32, generator=generator).to(dtype)
    return sample, torch.tensor(500), text


@torch.no_grad()
def run(unet, **size):
    return unet(*inputs(**size)).sample


def test_window_1_is_the_stock_unet_bit_for_bit(stock, unet):
    enable_spatio_temporal_attention(unet, 1)
    assert torch.equal(run(unet), run(stock))
    enable_spatio_temporal_attention(unet, {"4": 1, "64": 1})
    assert torch.equal(run(unet), run(stock))


def test_window_1_at_some_sizes_only(stock, unet):
    enable_spatio_temporal_attention(unet, {"4": 3, "64": 1})  # the processors are ours, the coarse maps differ
    assert not torch.allclose(run(unet), run(stock))


@pytest.mark.parametrize("window", [3, 5, None])
def test_a_motion_module_attends_as_the_reference_does(unet, window):
    """One attention layer, from its weights: projections, masked attention, output projection."""
    enable_spatio_temporal_attention(unet, window)
    attn = unet.down_blocks[0].motion_modules[0].transformer_blocks[0].attn1.double()
    height, width, frames = 5, 4, 3
    hidden = torch.randn(
        2 * height * width, frames, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    got = attn(hidden, spatial_size=(height, width), spatial_window=window)
    tokens = [
        (hidden @ layer.weight.T).reshape(2, height, width, frames, attn.heads, -1)
        for layer in (attn.to_q, attn.to_k, attn.to_v)
    ]
    expected = masked_attention(*tokens, window).reshape(hidden.shape) @ attn.to_out[0].weight.T + attn.to_out[0].bias
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("window", [3, None])
def test_temporal_heads_attend_along_time_alone(unet, window):
    """Values and gradients of a layer, from its weights: the first head by itself, the other ones in the window."""
    enable_spatio_temporal_attention(unet, window, temporal_heads=1)
    attn = unet.down_blocks[0].motion_modules[0].transformer_blocks[0].attn1.double()
    height, width, frames = 5, 4, 3
    hidden = torch.randn(
        2 * height * width, frames, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert attn.heads == 2
    got = attn(hidden, spatial_size=(height, width), spatial_window=window, temporal_heads=1)
    tokens = [
        (hidden @ layer.weight.T).reshape(2, height, width, frames, attn.heads, -1)
        for layer in (attn.to_q, attn.to_k, attn.to_v)
    ]
    heads = [
        masked_attention(*(states[..., head : head + 1, :] for states in tokens), reach)
        for head, reach in ((0, 1), (1, window))
    ]
    expected = torch.cat(heads, dim=-2).reshape(hidden.shape) @ attn.to_out[0].weight.T + attn.to_out[0].bias
    torch.testing.assert_close(got, expected)
    weights = torch.randn(got.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs_and_weights = [hidden, attn.to_q.weight, attn.to_k.weight, attn.to_v.weight]
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), inputs_and_weights),
        torch.autograd.grad((expected * weights).sum(), inputs_and_weights),
    ):
        torch.testing.assert_close(one, other)


def test_temporal_heads_reach_the_motion_modules(stock, unet):
    enable_spatio_temporal_attention(unet, None)
    dense = run(unet)
    enable_spatio_temporal_attention(unet, None, temporal_heads=1)
    some = run(unet)
    assert not torch.allclose(some, dense)
    assert not torch.allclose(some, run(stock))
    enable_spatio_temporal_attention(unet, 1, temporal_heads=1)  # AnimateDiff's attention is the same in all heads
    assert torch.equal(run(unet), run(stock))


@pytest.mark.parametrize("heads", [-1, 2, 0.5, True, "half"])
def test_numbers_of_temporal_heads_that_cannot_be(stock, unet, heads):
    with pytest.raises(MVCustomError, match=r"temporal_heads: expected a number of heads from 0 to 1.*window to 1"):
        enable_spatio_temporal_attention(unet, 3, temporal_heads=heads)
    assert torch.equal(run(unet), run(stock))  # nothing has changed


def test_wider_windows_reach_farther(unet):
    """A change at one pixel of one frame changes the other frames as far away as the window lets it."""
    module = unet.down_blocks[0].motion_modules[0]
    frames, height, width = 2, 9, 11
    hidden = torch.randn(frames, 16, height, width, generator=torch.Generator().manual_seed(0))
    changed = hidden.clone()
    # A change without a mean over channels' groups would still move GroupNorm; swap two channels of one group instead.
    changed[0, [0, 1], 4, 5] = changed[0, [1, 0], 4, 5]
    for window, reach in ((1, 0), (3, 2 * 1), (5, 2 * 2)):  # two attention layers in a module
        enable_spatio_temporal_attention(unet, window)
        with torch.no_grad():
            difference = (module(changed, num_frames=frames) - module(hidden, num_frames=frames))[1].abs().sum(0)
        rows, columns = (difference > 1e-6).nonzero().unbind(1)
        assert (rows - 4).abs().max() == reach
        assert (columns - 5).abs().max() == reach


def test_state_dicts_are_the_stock_ones(stock, unet, tmp_path):
    enable_spatio_temporal_attention(unet, 3)
    assert list(unet.state_dict()) == list(stock.state_dict())
    unet.save_pretrained(tmp_path)
    assert torch.equal(run(UNetMotionModel.from_pretrained(tmp_path)), run(stock))
    fresh = copy.deepcopy(stock)
    enable_spatio_temporal_attention(fresh, 3)
    fresh.load_state_dict(stock.state_dict())
    assert torch.equal(run(fresh), run(unet))
    unet.save_motion_modules(tmp_path / "adapter")
    assert isinstance(MotionAdapter.from_pretrained(tmp_path / "adapter"), MotionAdapter)


def test_disable_restores_the_stock_unet(stock, unet):
    enable_spatio_temporal_attention(unet, None)
    disable_spatio_temporal_attention(unet)
    assert torch.equal(run(unet), run(stock))
    for name, module in unet.named_modules():
        assert type(module) is type(stock.get_submodule(name))
        assert vars(module).keys() == vars(stock.get_submodule(name)).keys()
    assert {name: type(p) for name, p in unet.attn_processors.items()} == {
        name: type(p) for name, p in stock.attn_processors.items()
    }


def test_gradient_checkpointing_gives_the_same_gradients(unet):
    enable_spatio_temporal_attention(unet, 3)
    gradients = []
    for checkpointing in (False, True):
        (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
        unet.train()
        unet.zero_grad()
        unet(*inputs()).sample.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_under_lora(unet):
    enable_spatio_temporal_attention(unet, 3)
    plain = run(unet)
    unet.add_adapter(LoraConfig(r=2, init_lora_weights="gaussian", target_modules=r".*motion_modules.*\.to_[qkv]"))
    torch.testing.assert_close(run(unet), plain)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(run(unet), plain)


def test_bfloat16(unet):
    enable_spatio_temporal_attention(unet, 3)
    exact = run(unet)
    got = run(unet.bfloat16(), dtype=torch.bfloat16)
    assert got.dtype == torch.bfloat16
    assert (got.float() - exact).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize(("window", "temporal_heads"), [(1, 0), (3, 0), (None, 0), (3, 1), (None, 1)])
def test_compiles_without_graph_breaks(unet, window, temporal_heads):
    enable_spatio_temporal_attention(unet, window, temporal_heads)
    module = unet.down_blocks[0].motion_modules[0]
    hidden = torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(hidden, num_frames=2), module(hidden, num_frames=2))


@pytest.mark.parametrize("temporal_heads", [0, 1])
@pytest.mark.parametrize("backend", ["native", "_native_math", "flex"])
@pytest.mark.usefixtures("uncompiled_flex_attention")
def test_attention_backends_of_diffusers(unet, backend, temporal_heads):
    enable_spatio_temporal_attention(unet, 3, temporal_heads)
    expected = run(unet)
    before = type(unet.down_blocks[0].motion_modules[0].transformer_blocks[0].attn1.processor)._attention_backend
    unet.set_attention_backend(backend)
    try:
        torch.testing.assert_close(run(unet), expected, rtol=1e-4, atol=1e-4)
    finally:
        unet.set_attention_backend("native")
        unet.reset_attention_backend()
    assert before is None


@pytest.mark.parametrize("window", [1, 3])
def test_more_frames_than_positions(unet, window):
    enable_spatio_temporal_attention(unet, window)
    with pytest.raises(MVCustomError, match=r"at most 32 frames.*got 33.*fewer cameras"):
        run(unet, frames=33, height=4, width=4, batch=1)


@pytest.mark.parametrize("replace", ["fuse_qkv_projections", "set_attn_processor"])
def test_replaced_processors_are_refused_loudly(unet, replace):
    enable_spatio_temporal_attention(unet, 3)
    expected = run(unet)
    if replace == "fuse_qkv_projections":
        unet.fuse_qkv_projections()
    else:
        unet.set_attn_processor(AttnProcessor2_0())
    with pytest.raises(MVCustomError, match="SpatioTemporalAttnProcessor"):
        run(unet)
    enable_spatio_temporal_attention(unet, 3)
    torch.testing.assert_close(run(unet), expected, rtol=1e-4, atol=1e-5)


def test_bypassed_motion_is_the_image_model(unet):
    enable_spatio_temporal_attention(unet, None)
    with motion_bypassed(unet):
        alone = torch.cat([run_frames(unet, [f]) for f in range(3)], dim=2)
        torch.testing.assert_close(run_frames(unet, [0, 1, 2]), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run_frames(unet, [0, 1, 2]), alone)
    with pytest.raises(RuntimeError, match="interrupted"), motion_bypassed(unet):
        raise RuntimeError("interrupted")
    assert not any(module.bypassed for module in unet.modules() if isinstance(module, SpatioTemporalTransformer3D))


@torch.no_grad()
def run_frames(unet, frames):
    sample, timestep, text = inputs(batch=1)
    return unet(sample[:, :, frames], timestep, text[frames]).sample


def test_bypass_needs_our_motion_modules(stock):
    with pytest.raises(MVCustomError, match="enable_spatio_temporal_attention"), motion_bypassed(stock):
        pass


def test_needs_motion_modules():
    with pytest.raises(MVCustomError, match="motion modules"):
        enable_spatio_temporal_attention(torch.nn.Linear(2, 2), 3)


def test_module_identity_is_kept(unet):
    before = [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]
    enable_spatio_temporal_attention(unet, 3)
    after = [module for module in unet.modules() if isinstance(module, SpatioTemporalTransformer3D)]
    assert len(before) > 0
    assert all(one is other for one, other in zip(before, after, strict=True))
