"""The pose-conditioned block: nothing while it is fresh or idle, exact when it is told something."""

from __future__ import annotations

import gc

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models import (
    FeatureNeRF,
    FeatureNeRFConfig,
    PoseConditionedTransformerBlock,
    PoseConditioner,
    PoseConditioning,
    PoseProjection,
)

CHANNELS, TEXT_CHANNELS, BATCH, PIXELS, WORDS = 8, 12, 3, 6, 5
SMALL = FeatureNeRFConfig(num_samples=4, point_frequencies=2, ray_frequencies=2)


def stock_block(**options) -> BasicTransformerBlock:
    torch.manual_seed(0)
    return BasicTransformerBlock(CHANNELS, 2, 4, **{"cross_attention_dim": TEXT_CHANNELS, **options}).eval()


def conditioner(trained: bool = False) -> PoseConditioner:
    torch.manual_seed(1)
    made = PoseConditioner(FeatureNeRF(CHANNELS, SMALL))
    if trained:
        nn.init.normal_(made.projection.difference.weight, std=0.3)
    return made


def conditioned(block, trained=False, conditioning=None, name="up.0") -> PoseConditionedTransformerBlock:
    conditioning = PoseConditioning() if conditioning is None else conditioning
    return PoseConditionedTransformerBlock.from_block(block, conditioner(trained), conditioning, name)


def inputs(dtype=torch.float32) -> dict:
    generator = torch.Generator().manual_seed(2)
    return {
        "hidden_states": torch.randn(BATCH, PIXELS, CHANNELS, generator=generator).to(dtype),
        "encoder_hidden_states": torch.randn(BATCH, WORDS, TEXT_CHANNELS, generator=generator).to(dtype),
    }


def rendered_features(seed=3, dtype=torch.float32):
    return torch.randn(BATCH, PIXELS, CHANNELS, generator=torch.Generator().manual_seed(seed)).to(dtype)


def before_feed_forward(block, hidden_states, encoder_hidden_states):
    """The states that the feed-forward gets, by the stock submodules."""
    x = hidden_states + block.attn1(block.norm1(hidden_states))
    return x + block.attn2(block.norm2(x), encoder_hidden_states=encoder_hidden_states)


# --- a fresh subject changes nothing ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_idle_or_fresh_it_is_the_stock_block_bit_for_bit(dtype):
    block = stock_block().to(dtype)
    ours = conditioned(block).to(dtype)
    expected = block(**inputs(dtype))
    assert torch.equal(ours(**inputs(dtype)), expected)
    with ours.conditioning.rendered({"up.0": 100 * rendered_features(dtype=dtype)}):
        assert torch.equal(ours(**inputs(dtype)), expected)
    with ours.conditioning.collecting():
        assert torch.equal(ours(**inputs(dtype)), expected)


def test_a_mask_of_the_text_and_attention_options_reach_the_attentions():
    block = stock_block()
    ours = conditioned(block)
    words = torch.zeros(BATCH, 1, WORDS)
    words[:, :, 2:] = -1e4
    options = {"encoder_attention_mask": words, "timestep": torch.tensor(3), "cross_attention_kwargs": None}
    expected = block(**inputs(), **options)
    assert not torch.allclose(expected, block(**inputs()))
    assert torch.equal(ours(**inputs(), **options), expected)
    with ours.conditioning.rendered({"up.0": rendered_features()}):
        assert torch.equal(ours(**inputs(), **options), expected)


# --- x ← P [x ; X_y] ---


def test_projection_is_a_linear_layer_that_starts_as_the_identity():
    projection = PoseProjection(CHANNELS)
    assert [name for name, _ in projection.named_parameters()] == ["difference.weight"]
    x, y = rendered_features(5), rendered_features(6)
    assert torch.equal(projection(x, y), x)
    nn.init.normal_(projection.difference.weight)
    matrix = torch.cat([torch.eye(CHANNELS), torch.zeros(CHANNELS, CHANNELS)], dim=1) + projection.difference.weight
    torch.testing.assert_close(projection(x, y), torch.cat([x, y], dim=-1) @ matrix.T)


def test_rendered_features_are_mixed_in_before_the_feed_forward():
    block = stock_block()
    ours = conditioned(block, trained=True)
    features = rendered_features()
    with ours.conditioning.rendered({"up.0": features, "another": torch.zeros(1)}):
        output = ours(**inputs())
    x = before_feed_forward(block, **inputs())
    mixed = x + torch.cat([x, features], dim=-1) @ ours.pose_conditioner.projection.difference.weight.T
    torch.testing.assert_close(output, mixed + block.ff(block.norm3(mixed)))
    assert not torch.allclose(output, block(**inputs()), atol=1e-2)
    assert torch.equal(ours(**inputs()), block(**inputs()))  # the context is over


def test_features_take_the_dtype_of_the_states():
    ours = conditioned(stock_block().bfloat16(), trained=True).bfloat16()
    with ours.conditioning.rendered({"up.0": rendered_features()}):
        assert ours(**inputs(torch.bfloat16)).dtype == torch.bfloat16


def test_each_row_of_the_batch_is_on_its_own():
    ours = conditioned(stock_block(), trained=True)
    features = rendered_features()
    with ours.conditioning.rendered({"up.0": features}):
        together = ours(**inputs())
    for i in range(BATCH):
        one = {name: value[i : i + 1] for name, value in inputs().items()}
        with ours.conditioning.rendered({"up.0": features[i : i + 1]}):
            torch.testing.assert_close(ours(**one), together[i : i + 1])


def test_gradients_reach_the_features_and_the_projection_of_a_fresh_block():
    ours = conditioned(stock_block())
    features = rendered_features().requires_grad_()
    with ours.conditioning.rendered({"up.0": features}):
        ours(**inputs()).square().sum().backward()
    gradient = ours.pose_conditioner.projection.difference.weight.grad
    assert gradient[:, CHANNELS:].abs().max() > 0  # it can begin to listen
    assert features.grad.abs().max() == 0  # but does not yet
    nn.init.normal_(ours.pose_conditioner.projection.difference.weight)
    with ours.conditioning.rendered({"up.0": features}):
        ours(**inputs()).square().sum().backward()
    assert features.grad.abs().max() > 0


# --- the context ---


def test_collecting_records_what_the_feed_forward_would_get():
    conditioning = PoseConditioning()
    blocks = {name: conditioned(stock_block(), True, conditioning, name) for name in ("up.0", "up.1")}
    with conditioning.collecting() as collected:
        for block in blocks.values():
            block(**inputs())
    assert list(collected) == ["up.0", "up.1"]
    torch.testing.assert_close(collected["up.1"], before_feed_forward(blocks["up.1"], **inputs()))
    assert not conditioning.active


@pytest.mark.parametrize("outer", ["rendered", "collecting"])
@pytest.mark.parametrize("inner", ["rendered", "collecting"])
def test_one_call_at_a_time(outer, inner):
    conditioning = PoseConditioning()
    arguments = {"rendered": ({"up.0": rendered_features()},), "collecting": ()}
    with getattr(conditioning, outer)(*arguments[outer]):
        with (
            pytest.raises(RuntimeError, match="one U-Net call at a time"),
            getattr(conditioning, inner)(*arguments[inner]),
        ):
            pass
        assert conditioning.active  # the outer call goes on
    assert not conditioning.active


@pytest.mark.parametrize("context", ["rendered", "collecting"])
def test_an_exception_leaves_nothing_behind(context):
    ours = conditioned(stock_block(), trained=True)
    features = rendered_features()
    arguments = ({"up.0": features},) if context == "rendered" else ()

    def fail_after_the_block():
        ours(**inputs())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), getattr(ours.conditioning, context)(*arguments):
        fail_after_the_block()
    assert not ours.conditioning.active
    assert torch.equal(ours(**inputs()), stock_block()(**inputs()))
    gc.collect()
    assert not any(value is features for value in vars(ours.conditioning).values())
    assert not [value for value in vars(ours).values() if isinstance(value, torch.Tensor)]


def test_other_features_for_the_rest_of_a_context():
    ours = conditioned(stock_block(), trained=True)
    first, second = rendered_features(3), rendered_features(4)
    expected = []
    for features in (first, second):
        with ours.conditioning.rendered({"up.0": features}):
            expected.append(ours(**inputs()))
    assert not torch.allclose(*expected)
    with ours.conditioning.rendered({"up.0": first}):
        assert torch.equal(ours(**inputs()), expected[0])
        ours.conditioning.replace_rendered({"up.0": second})
        assert torch.equal(ours(**inputs()), expected[1])
    assert not ours.conditioning.active
    with ours.conditioning.rendered({"up.0": first}):  # nothing of the replacement is left
        assert torch.equal(ours(**inputs()), expected[0])


def test_features_are_replaced_only_where_some_are_rendered():
    conditioning = PoseConditioning()
    with pytest.raises(RuntimeError, match=r"open rendered\(\) context"):
        conditioning.replace_rendered({"up.0": rendered_features()})
    assert not conditioning.active
    with conditioning.collecting(), pytest.raises(RuntimeError, match=r"open rendered\(\) context"):
        conditioning.replace_rendered({"up.0": rendered_features()})
    with conditioning.rendered({}):
        pass
    with pytest.raises(RuntimeError, match=r"open rendered\(\) context"):  # a context that is over
        conditioning.replace_rendered({"up.0": rendered_features()})


def test_a_missing_block_is_named():
    ours = conditioned(stock_block())
    with (
        pytest.raises(MVCustomError, match=r"'up\.0', got \['up\.1'\]"),
        ours.conditioning.rendered({"up.1": rendered_features()}),
    ):
        ours(**inputs())
    assert not ours.conditioning.active


@pytest.mark.parametrize(
    "shape", [(1, PIXELS, CHANNELS), (BATCH, 1, CHANNELS), (BATCH, PIXELS, 1), (BATCH, PIXELS), (PIXELS, CHANNELS)]
)
def test_features_of_another_shape_are_refused_even_if_they_would_broadcast(shape):
    ours = conditioned(stock_block())
    with (
        pytest.raises(MVCustomError, match=r"features\['up\.0'\]: expected shape \(3, 6, 8\)"),
        ours.conditioning.rendered({"up.0": torch.zeros(shape)}),
    ):
        ours(**inputs())


# --- around a stock block ---


def test_submodules_are_shared_under_their_names_and_the_stock_block_is_unchanged():
    block = stock_block()
    before = {name: id(module) for name, module in block.named_modules()}
    ours = conditioned(block)
    assert {name: id(module) for name, module in block.named_modules()} == before
    mine = {name: id(module) for name, module in ours.named_modules() if name and "pose_conditioner" not in name}
    assert mine == {name: identity for name, identity in before.items() if name}
    names = set(ours.state_dict()) - set(block.state_dict())
    assert names
    assert all(name.startswith("pose_conditioner.") for name in names)


def test_modes_of_training_are_left_as_they_are():
    block = stock_block()
    block.attn2.train()  # as trainers do, whose LoRA layers have dropout
    before = {name: module.training for name, module in block.named_modules()}
    ours = conditioned(block)
    assert {name: module.training for name, module in block.named_modules()} == before
    assert ours.training == block.training == ours.pose_conditioner.projection.training


@pytest.mark.parametrize("context", ["rendered", "collecting"])
@pytest.mark.parametrize(("chunk_size", "dim", "shapes"), [(2, 1, 3 * [(BATCH, 2)]), (1, 0, BATCH * [(1, PIXELS)])])
def test_the_feed_forward_goes_in_chunks_and_gives_the_same(context, chunk_size, dim, shapes):
    """The chunks are those of the normed, mixed states, each once and in their order."""
    ours = conditioned(stock_block(), trained=True)
    arguments = ({"up.0": rendered_features()},) if context == "rendered" else ()
    seen = []
    with getattr(ours.conditioning, context)(*arguments):
        with torch.no_grad():
            expected = ours(**inputs())
        ours.ff.register_forward_hook(lambda _, states, __: seen.append(states[0]))
        with torch.no_grad():
            whole = ours(**inputs())
            (normed,) = seen
            seen.clear()
            ours.set_chunk_feed_forward(chunk_size, dim=dim)
            found = ours(**inputs())
    assert torch.equal(whole, expected)
    assert [tuple(states.shape[:2]) for states in seen] == shapes
    assert torch.equal(torch.cat(seen, dim=dim), normed)
    torch.testing.assert_close(found, expected)


def test_a_chunk_that_does_not_divide_the_states_is_refused():
    ours = conditioned(stock_block(), trained=True)
    ours.set_chunk_feed_forward(4, dim=1)
    with (
        pytest.raises(ValueError, match="divisible by chunk size: 4"),
        ours.conditioning.rendered({"up.0": rendered_features()}),
    ):
        ours(**inputs())
    assert not ours.conditioning.active


@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_added_before_or_after_is_seen_by_both_blocks(when):
    def add_lora(module):
        torch.manual_seed(4)
        config = LoraConfig(r=2, target_modules=["attn2.to_k", "attn2.to_q", "ff.net.2"], init_lora_weights=False)
        inject_adapter_in_model(config, module)

    block = stock_block()
    plain = block(**inputs())
    if when == "before":
        add_lora(block)
    ours = conditioned(block, trained=True)
    if when == "after":
        add_lora(ours)
    for module in ours.modules():  # LoRA layers come in training mode, but have no dropout here
        module.eval()
    with_lora = block(**inputs())
    assert not torch.allclose(with_lora, plain, atol=1e-3)
    assert torch.equal(ours(**inputs()), with_lora)
    nn.init.zeros_(ours.pose_conditioner.projection.difference.weight)
    with ours.conditioning.rendered({"up.0": rendered_features()}):
        assert torch.equal(ours(**inputs()), with_lora)
    points, text = rendered_features(7), inputs()["encoder_hidden_states"]
    assert not torch.allclose(ours.attend_text(points, text), conditioned(stock_block()).attend_text(points, text))


@pytest.mark.parametrize(
    "options",
    [
        {"cross_attention_dim": None},  # no text attention
        {"cross_attention_dim": None, "double_self_attention": True},  # as in motion modules
        {"positional_embeddings": "sinusoidal", "num_positional_embeddings": 8},
        {"norm_type": "layer_norm_i2vgen"},
        {"attention_type": "gated"},  # GLIGEN
    ],
)
def test_blocks_of_other_kinds_are_refused(options):
    with pytest.raises(MVCustomError, match=r"block 'up\.0': expected a text-conditioned BasicTransformerBlock"):
        conditioned(stock_block(**options))


def test_other_modules_and_blocks_already_taken_are_refused():
    with pytest.raises(MVCustomError, match=r"block 'up\.0': expected .* got Linear"):
        conditioned(nn.Linear(2, 2))
    with pytest.raises(MVCustomError, match=r"block 'up\.0' already belongs to an attached subject"):
        conditioned(conditioned(stock_block()))
    with pytest.raises(TypeError, match="from_block"):
        PoseConditionedTransformerBlock(CHANNELS, 2, 4)


def test_channels_have_to_be_those_of_the_block():
    other = PoseConditioner(FeatureNeRF(2 * CHANNELS, SMALL))
    with pytest.raises(MVCustomError, match=r"block 'up\.0': expected .*8 channels.* got 16"):
        PoseConditionedTransformerBlock.from_block(stock_block(), other, PoseConditioning(), "up.0")


# --- the text attention of the points ---


def test_points_attend_to_the_text_as_the_blocks_states_do():
    block = stock_block()
    points, text = rendered_features(7), inputs()["encoder_hidden_states"]
    expected = points + block.attn2(block.norm2(points), encoder_hidden_states=text)
    torch.testing.assert_close(conditioned(block).attend_text(points, text), expected)


def test_points_attend_to_the_text_without_the_images_of_an_ip_adapter():
    block = stock_block()
    ours = conditioned(block)
    points, text = rendered_features(7), inputs()["encoder_hidden_states"]
    expected = ours.attend_text(points, text)
    processor = IPAdapterAttnProcessor2_0(CHANNELS, TEXT_CHANNELS, num_tokens=(4,), scale=[1.0])
    block.attn2.set_processor(processor)
    assert torch.equal(ours.attend_text(points, text), expected)
    assert block.attn2.processor is processor
    # The main branch does get the images.
    images = torch.randn(BATCH, 1, 4, TEXT_CHANNELS, generator=torch.Generator().manual_seed(8))
    given = {**inputs(), "encoder_hidden_states": (text, [images])}
    with ours.conditioning.rendered({"up.0": rendered_features()}):
        output = ours(**given)
    assert torch.equal(output, block(**given))
    assert not torch.allclose(output, conditioned(stock_block())(**inputs()))
