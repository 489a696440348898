"""Windows in one kernel: values, and what is computed at all."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from reference.attention_masked import masked_attention

from diffusers_mvcustom.models import enable_spatio_temporal_attention, flex_windows, windowed_attention
from diffusers_mvcustom.models.flex_windows import BLOCK, _block_mask, _tiled_order


def random_tokens(batch, height, width, frames, heads=2, dim=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, height, width, frames, heads, dim, generator=generator) for _ in range(3)]


@pytest.mark.usefixtures("uncompiled_flex_attention")
@pytest.mark.parametrize("window", [3, 5, None])
@pytest.mark.parametrize("size", [(6, 6), (7, 21), (19, 10), (1, 4)])
def test_equals_a_masked_full_attention(window, size):
    tokens = random_tokens(2, *size, frames=3)
    with torch.no_grad():
        found = windowed_attention(*tokens, window, backend="flex")
    torch.testing.assert_close(found, masked_attention(*tokens, window), rtol=1e-5, atol=1e-5)


def test_part_of_a_compiled_model(make_components):
    unet = make_components("tiny")["unet"].eval()
    enable_spatio_temporal_attention(unet, 3)
    module = unet.down_blocks[0].motion_modules[0]
    hidden = torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(hidden, num_frames=2)
        for attention in (block for block in module.modules() if isinstance(block, Attention)):
            attention.processor._attention_backend = "flex"
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(hidden, num_frames=2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_compiled_it_is_the_same():
    tokens = random_tokens(2, 12, 10, frames=4, dim=40)
    with torch.no_grad():
        found = windowed_attention(*tokens, 5, backend="flex")
    torch.testing.assert_close(found, masked_attention(*tokens, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("uncompiled_flex_attention")
def test_what_no_step_changes_is_computed_once():
    """And so that a training can use what a generation in inference mode computed."""
    flex_windows._kept_plan.cache_clear()
    tokens = random_tokens(1, 11, 9, frames=2)
    with torch.inference_mode():
        first = windowed_attention(*tokens, 3, backend="flex")
        again = windowed_attention(*tokens, 3, backend="flex")
    assert torch.equal(first, again)
    kept = flex_windows._kept_plan.cache_info()
    assert (kept.misses, kept.hits) == (1, 1)
    order, mask = flex_windows._kept_plan(11, 9, 2, 1, torch.device("cpu"))
    assert not order.is_inference()
    assert not mask.kv_indices.is_inference()


@pytest.mark.parametrize(
    ("size", "frames", "share"), [((64, 64), 8, 0.055), ((64, 48), 16, 0.05), ((32, 32), 8, 0.19)]
)
def test_blocks_without_a_common_window_are_left_out(size, frames, share):
    """Of 64 × 64 positions each sees 49: 1.2 %."""
    order = _tiled_order(*size, torch.device("cpu"))
    mask = _block_mask(order // size[1], order % size[1], frames, radius=3)
    blocks = mask.kv_num_blocks + mask.full_kv_num_blocks
    length = size[0] * size[1] * frames
    assert blocks.sum().item() * BLOCK**2 <= share * length**2


def test_blocks_are_wholly_in_the_window_only_if_all_their_pairs_are():
    size, frames, radius = (20, 12), 4, 6
    order = _tiled_order(*size, torch.device("cpu"))
    rows, columns = order // size[1], order % size[1]
    mask = _block_mask(rows, columns, frames, radius)
    near = [(axis[:, None] - axis).abs() <= radius for axis in (rows, columns)]
    pairs = (near[0] & near[1]).repeat_interleave(frames, 0).repeat_interleave(frames, 1)
    count = -(-pairs.shape[0] // BLOCK)
    states = [["some"] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            block = pairs[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
            states[i][j] = "all" if block.all() else "some" if block.any() else "none"
    listed = [["none"] * count for _ in range(count)]
    for name, numbers, indices in (
        ("some", mask.kv_num_blocks, mask.kv_indices),
        ("all", mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for i in range(count):
            for j in indices[0, 0, i, : numbers[0, 0, i]].tolist():
                listed[i][j] = name
    assert {"all", "some", "none"} == {state for row in states for state in row}
    for ours, true in zip(listed, states):
        for one, other in zip(ours, true):
            # A block's extent may be larger than its positions: computed in vain, but masked.
            assert one == other or (one, other) == ("some", "none")
