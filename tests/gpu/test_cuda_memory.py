"""Settings that are there to save memory give the same views, and do save memory."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def peak(device):
    """Runs a function; its result and the bytes that it took beyond what was there (0 on a CPU)."""

    def peak(function):
        if device.type != "cuda":
            return function(), 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return function(), torch.cuda.max_memory_allocated() - before

    return peak


def assert_less(device, one, other):
    assert device.type != "cuda" or one < other


def test_split_guidance(make_pipe, run, device, peak, cameras):
    """Without a subject, whose rendering would be the peak; the U-Net's activations halve with its batch."""
    pipe = make_pipe(subject=False, attention_window=3).to(device)
    size = 64 if device.type == "cpu" else 256
    call = {"prompt": "a toy by a lake", "hooks": [], "height": size, "width": size}
    run(pipe, **call)
    together, most = peak(lambda: run(pipe, **call))
    apart, less = peak(lambda: run(pipe, **call, split_guidance=True))
    close(apart, together)
    assert_less(device, less, 0.8 * most)


def test_split_guidance_with_a_subject(make_pipe, run, device):
    pipe = make_pipe(attention_window=3).to(device)
    close(run(pipe, split_guidance=True), run(pipe))


def test_decoding_in_chunks(make_pipe, run, device, peak):
    pipe = make_pipe(subject=False).to(device)
    latents = torch.randn(1, 4, 12, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        pipe.decode_latents(latents, 1)
        together, most = peak(lambda: pipe.decode_latents(latents, 12))
        apart, less = peak(lambda: pipe.decode_latents(latents, 1))
    close(apart.cpu(), together.cpu())
    assert_less(device, less, most)


def test_vae_slicing_and_tiling(make_pipe, run, device):
    pipe = make_pipe().to(device)
    expected = run(pipe, output_type="pt")
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    close(run(pipe, output_type="pt"), expected)


@pytest.mark.parametrize("window", [1, 3, None])
def test_attention_slicing(make_pipe, run, device, window):
    pipe = make_pipe(attention_window=window).to(device)
    expected = run(pipe)
    pipe.enable_attention_slicing()
    close(run(pipe), expected)


def test_forward_chunking(make_pipe, run, device):
    pipe = make_pipe().to(device)
    expected = run(pipe)
    pipe.unet.enable_forward_chunking()
    close(run(pipe), expected)


def test_a_window_takes_less_memory_than_attention_over_the_whole_map_with_a_mask(device, peak):
    """Keys and masks are gathered in parts: no more than twice the input's size beyond the output."""
    from diffusers_mvcustom.models import windowed_attention

    size = 8 if device.type == "cpu" else 64
    states = [torch.randn(1, size, size, 8, 8, 40, device=device) for _ in range(3)]
    windowed_attention(*states, 7)
    _, taken = peak(lambda: windowed_attention(*states, 7))
    assert taken <= 3 * states[0].numel() * 4


def test_feature_nerf_in_chunks(device, peak):
    from diffusers_mvcustom.models import FeatureNeRF

    size = 8 if device.type == "cpu" else 32
    pose = torch.eye(4).view(1, 1, 4, 4).clone()
    pose[..., 2, 3] = -1.0
    intrinsics = torch.tensor([[size, 0.0, size / 2], [0.0, size, size / 2], [0.0, 0.0, 1.0]]).view(1, 1, 3, 3)
    torch.manual_seed(0)
    nerf = FeatureNeRF(64).to(device)
    inputs = (torch.randn(1, 2, 64, size, size).to(device), pose.expand(1, 2, 4, 4), intrinsics.expand(1, 2, 3, 3))
    with torch.no_grad():
        whole, most = peak(lambda: nerf(*inputs, pose, intrinsics, size, size, rays_per_chunk=size * size))
        parts, less = peak(lambda: nerf(*inputs, pose, intrinsics, size, size, rays_per_chunk=size))
    close(parts.features.cpu(), whole.features.cpu())
    assert_less(device, less, 0.5 * most)
