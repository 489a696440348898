from collections import Counter

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from reference.attention_masked import masked_attention
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models import AttentionWindows, windowed_attention
from diffusers_mvcustom.models.row_windows import _windows, row_windowed_attention


def random_tokens(batch, height, width, frames, heads=2, dim=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, height, width, frames, heads, dim, generator=generator, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("window", [1, 3, 5, 7, None])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (3, 9), (1, 4), (2, 2)])
@pytest.mark.parametrize("tile", [2, 3, 8])
def test_equals_a_masked_full_attention(window, size, tile):
    tokens = random_tokens(2, *size, frames=3)
    got = windowed_attention(*tokens, window, tile=tile)
    torch.testing.assert_close(got, masked_attention(*tokens, window))


@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (3, 9), (9, 3), (1, 4), (4, 1), (2, 2), (8, 7), (2, 13)])
def test_row_by_row_equals_a_masked_full_attention(window, size):
    tokens = random_tokens(2, *size, frames=3)
    got = row_windowed_attention(*tokens, window // 2, dispatch_attention_fn)
    torch.testing.assert_close(got, masked_attention(*tokens, window))


def test_row_by_row_of_some_heads_alone():
    """Heads along time alone leave the windows a slice of the tokens, which does not lie in memory in one piece."""
    tokens = [states[..., 1:, :] for states in random_tokens(2, 5, 6, frames=2, heads=3)]
    got = row_windowed_attention(*tokens, 1, dispatch_attention_fn)
    torch.testing.assert_close(got, masked_attention(*tokens, 3))


def test_windows_of_a_row_are_views():
    states = torch.randn(9, 6, 2, 4)
    windows = _windows(states, 3)
    assert windows.untyped_storage().data_ptr() == states.untyped_storage().data_ptr()
    for i, window in enumerate(windows):
        assert torch.equal(window, states[i : i + 3].flatten(0, 1))


@pytest.mark.parametrize(
    ("frames", "dtype", "gradients", "rows"),
    [
        (8, torch.float32, False, True),
        (7, torch.float32, False, False),
        (16, torch.bfloat16, False, True),
        (15, torch.bfloat16, False, False),
        (16, torch.float32, True, False),
    ],
)
def test_rows_or_tiles(frames, dtype, gradients, rows):
    """By tiles each is written by its positions, row by row as one slice."""
    tokens = [
        states.requires_grad_(gradients) for states in random_tokens(1, 6, 6, frames, dtype=dtype, heads=1, dim=2)
    ]
    with Calls() as calls:
        got = windowed_attention(*tokens, 3)
    assert (calls.counts["aten.index_put_.default"] == 0) == rows
    torch.testing.assert_close(got, windowed_attention(*tokens, 3, tile=2), atol=1e-2, rtol=1e-2)


def test_row_by_row_is_one_graph():
    tokens = random_tokens(2, 5, 6, frames=2, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(row_windowed_attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tokens, 1, dispatch_attention_fn), masked_attention(*tokens, 3))


@pytest.mark.parametrize("window", [3, None])
def test_gradients_equal_those_of_the_masked_attention(window):
    tokens = [states.requires_grad_() for states in random_tokens(2, 7, 5, frames=2)]
    weights = torch.randn(tokens[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = torch.autograd.grad((windowed_attention(*tokens, window, tile=3) * weights).sum(), tokens)
    expected = torch.autograd.grad((masked_attention(*tokens, window) * weights).sum(), tokens)
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other)


def test_tiles_are_gathered_in_bounded_parts(monkeypatch):
    from diffusers_mvcustom.models import spatio_temporal_attention

    gathered = []
    gather = spatio_temporal_attention._gather
    monkeypatch.setattr(
        spatio_temporal_attention,
        "_gather",
        lambda *args: gathered.append(gather(*args)) or gathered[-1],
    )
    tokens = random_tokens(2, 9, 9, frames=2)
    whole = windowed_attention(*tokens, 3, tile=2)
    together = max(states.numel() for states in gathered)
    gathered.clear()
    monkeypatch.setattr(spatio_temporal_attention, "_GATHERED_ON_CPU", 1)  # one tile at a time
    torch.testing.assert_close(windowed_attention(*tokens, 3, tile=2), whole)
    assert (
        max(states.numel() for states in gathered) == 2 * (2 + 2) ** 2 * 2 * tokens[0][0, 0, 0, 0].numel() < together
    )


class Calls(TorchDispatchMode):
    """Counts what is called, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_off_the_cpu_calls_are_few():
    """Nine places of a tile in its region; the interior's tiles may be cut in two for the memory they take."""
    tokens = [torch.empty(1, 64, 64, 8, 8, 40, device="meta") for _ in range(3)]
    with Calls() as calls:
        windowed_attention(*tokens, 7)
    assert calls.counts["aten.index_put_.default"] <= 11


def test_attention_along_time_alone_is_one_call_over_all_positions():
    tokens = [torch.empty(1, 64, 64, 8, 8, 40, device="meta") for _ in range(3)]
    with Calls() as calls:
        attended = windowed_attention(*tokens, 1)
    assert attended.shape == tokens[0].shape
    assert calls.counts["aten.index.Tensor"] == calls.counts["aten.index_put_.default"] == 0


def test_a_window_as_large_as_the_map_is_the_whole_map():
    tokens = random_tokens(1, 4, 5, frames=2)
    whole = windowed_attention(*tokens, None)
    assert torch.equal(windowed_attention(*tokens, 2 * 5 - 1), whole)
    assert not torch.allclose(windowed_attention(*tokens, 2 * 5 - 3), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    tokens = random_tokens(1, 6, 6, frames=2, dtype=torch.float32)
    expected = windowed_attention(*tokens, 3)
    got = windowed_attention(*(states.to(dtype) for states in tokens), 3)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        (2, "odd"),
        (-1, "odd"),
        (0, "odd"),
        (True, "odd"),
        ("7", "odd"),
        (1.0, "odd"),
        ({}, "empty"),
        ({"large": 7}, "sizes"),
        ({"64": 4}, "odd"),
        ({"-64": 3}, "sizes"),
        ({6.5: 3}, "sizes"),
    ],
)
def test_settings_that_cannot_be(setting, match):
    with pytest.raises(MVCustomError, match=match):
        AttentionWindows(setting)


def test_settings_by_size():
    windows = AttentionWindows({64: 7, "16": None})
    assert windows.setting == {"16": None, "64": 7}
    assert AttentionWindows(windows) == windows
    assert windows.at(16, 9) is None
    assert windows.at(9, 17) == 7
    assert windows.at(128, 1) == 7
    assert not windows.temporal_only
    assert AttentionWindows(1).temporal_only
    assert AttentionWindows({"8": 1, "16": 1}).temporal_only
