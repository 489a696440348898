"""What runs on a GPU equals what runs on a CPU: attention, FeatureNeRF, mesh and warp, values and gradients."""

from __future__ import annotations

import os

import pytest
import torch
from reference.attention_masked import masked_attention
from reference.feature_nerf_scenes import perturbed_nerf, random_scene, text_block

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.geometry import FeatureWarp, feature_mesh_from_depth, rasterize
from diffusers_mvcustom.hooks import AnchorGeometry
from diffusers_mvcustom.models import FeatureNeRFConfig, windowed_attention

pytestmark = pytest.mark.gpu

TOLERANCE = {  # relative and absolute, for results of the order of 1
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 5e-3),
    torch.bfloat16: (5e-2, 3e-2),
}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def close(found, expected, dtype=torch.float32):
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(found.detach().float().cpu(), expected.float(), rtol=rtol, atol=atol)


def tokens(height=9, width=7, frames=4, heads=2, dim=40):  # 40: the narrowest heads of Stable Diffusion 1.5
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, height, width, frames, heads, dim, generator=generator) for _ in range(3)]


@DTYPES
@pytest.mark.parametrize("window", [3, 7, None])
def test_attention(device, dtype, window):
    expected = masked_attention(*tokens(), window)
    close(windowed_attention(*(states.to(device, dtype) for states in tokens()), window), expected, dtype)


@DTYPES
@pytest.mark.parametrize("size", [(9, 7), (24, 20)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_flex_attention(cuda, dtype, size):
    expected = masked_attention(*tokens(*size), 5)
    found = windowed_attention(*(states.to(cuda, dtype) for states in tokens(*size)), 5, backend="flex")
    close(found, expected, dtype)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_gradients(cuda):
    weights = torch.randn(tokens()[0].shape, generator=torch.Generator().manual_seed(1))
    states = [one.to(cuda).requires_grad_() for one in tokens()]
    found = torch.autograd.grad((windowed_attention(*states, 3, backend="flex") * weights.to(cuda)).sum(), states)
    states = [one.requires_grad_() for one in tokens()]
    expected = torch.autograd.grad((masked_attention(*states, 3) * weights).sum(), states)
    for one, other in zip(found, expected):
        close(one, other)


@pytest.mark.parametrize("window", [3, None])
def test_attention_gradients(device, window):
    weights = torch.randn(tokens()[0].shape, generator=torch.Generator().manual_seed(1))

    def gradients(attention, where):
        states = [one.to(where).requires_grad_() for one in tokens()]
        return torch.autograd.grad((attention(*states, window) * weights.to(where)).sum(), states)

    for found, expected in zip(gradients(windowed_attention, device), gradients(masked_attention, "cpu")):
        close(found, expected)


def test_attention_at_the_size_of_a_generation(cuda):
    generator = torch.Generator(cuda).manual_seed(0)
    states = [
        torch.randn(1, 64, 64, 16, 8, 40, generator=generator, device=cuda, dtype=torch.bfloat16) for _ in range(3)
    ]
    found = windowed_attention(*states, 7)
    corner = [one[:, :4, :4] for one in states]  # the window of the first position, by hand
    scores = torch.einsum("bfhd,byxghd->bhfyxg", states[0][:, 0, 0].float(), corner[1].float()) / 40**0.5
    weights = scores.flatten(3).softmax(-1).view(scores.shape)
    expected = torch.einsum("bhfyxg,byxghd->bfhd", weights, corner[2].float())
    close(found[:, 0, 0], expected.cpu(), torch.bfloat16)


@pytest.mark.parametrize("backend", ["native", "_native_efficient", "_native_math", "xformers"])
@pytest.mark.parametrize("window", [3, None])
def test_attention_backends(cuda, backend, window):
    if backend == "xformers":
        pytest.importorskip("xformers")
    states = [one.to(cuda, torch.float16) for one in tokens(height=8, width=8)]
    expected = masked_attention(*tokens(height=8, width=8), window)
    close(windowed_attention(*states, window, backend=backend), expected, torch.float16)


def nerf_and_scene():
    torch.manual_seed(0)
    nerf = perturbed_nerf(8, FeatureNeRFConfig(hidden_channels=16, num_samples=8), torch.float32)
    scene = {
        name: value.float() if isinstance(value, torch.Tensor) else value
        for name, value in random_scene(1, 3, 2, 8, (6, 8), (5, 7)).items()
    }
    texts = torch.randn(1, 2, 4, 10)
    return nerf, scene, texts, text_block(8, 10).float()


def moved(scene, device):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in scene.items()}


def test_feature_nerf(device):
    nerf, scene, texts, block = nerf_and_scene()
    expected = nerf(**scene, encoder_hidden_states=texts, attend_text=block.attend_text)
    expected.features.square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in nerf.parameters() if parameter.grad is not None]
    nerf.zero_grad()
    nerf.to(device)
    block.to(device)
    found = nerf(
        **moved(scene, device),
        encoder_hidden_states=texts.to(device),
        attend_text=block.attend_text,
        rays_per_chunk=13,
    )
    for name in ("features", "opacity", "rgb", "depth", "density"):
        close(getattr(found, name), getattr(expected, name))
    found.features.square().mean().backward()
    found_gradients = [parameter.grad for parameter in nerf.parameters() if parameter.grad is not None]
    assert len(found_gradients) == len(gradients) > 5
    for one, other in zip(found_gradients, gradients):
        close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("by", ["weights", "autocast"])
def test_feature_nerf_in_half_precision(device, dtype, by):
    nerf, scene, _, _ = nerf_and_scene()
    with torch.no_grad():
        expected = nerf(**scene)
        scene = moved(scene, device)
        nerf.to(device)
        if by == "weights":
            nerf.to(dtype)
            scene["reference_features"] = scene["reference_features"].to(dtype)
        with torch.autocast(device.type, dtype, enabled=by == "autocast"):
            found = nerf(**scene)
    # Geometry stays in float32, so half precision costs digits of the features and of the density only.
    assert (found.features.float().cpu() - expected.features).abs().mean() < 0.03 * expected.features.abs().mean()
    assert (found.opacity.cpu() - expected.opacity).abs().max() < 0.05
    assert found.depth.dtype == torch.float32


def steps(height=24, width=20):
    """Depth with a step in the middle, so that the mesh is cut."""
    depth = torch.full((height, width), 1.0)
    depth[:, width // 2 :] = 1.6
    return depth


def test_rasterizer_and_warp(device):
    cameras = Cameras.orbit(3, azimuth=(-25, 25), elevation=10, height=24, width=20)
    features = torch.randn(4, 24, 20, generator=torch.Generator().manual_seed(0))
    expected = FeatureWarp.from_depth(steps(), cameras[1], cameras)
    found = FeatureWarp.from_depth(steps().to(device), cameras[1].to(device), cameras.to(device))
    same = found.visibility.cpu() == expected.visibility
    assert same.float().mean() > 0.999
    both = found.visibility.cpu() & expected.visibility
    assert 0.3 < both.float().mean() < 1
    warped = found.warp(features.to(device)).cpu()
    difference = (warped - expected.warp(features)).abs().amax(dim=1)[both]
    assert difference.median() < 1e-4
    assert (difference < 1e-3).float().mean() > 0.999
    mesh = feature_mesh_from_depth(steps().to(device), cameras[1].to(device))
    assert rasterize(mesh, cameras.to(device)).visibility.device.type == device.type


@DTYPES
def test_depth_aware_rendering(device, dtype):
    cameras = Cameras.orbit(4, azimuth=(-25, 25), elevation=10, height=24, width=20)
    depth = steps()[None, None].expand(1, 2, -1, -1)
    features = torch.randn(2 * 4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    expected = AnchorGeometry(depth, (0, 3), cameras).render(features)
    found = AnchorGeometry(depth.to(device), (0, 3), cameras.to(device)).render(features.to(device, dtype))
    assert found.dtype == dtype
    difference = (found.float().cpu() - expected).abs()
    assert (difference > 5 * TOLERANCE[dtype][1]).float().mean() < 0.005  # a pixel on an edge may fall either way
    assert not torch.allclose(expected, features)


def test_the_device_is_the_one_asked_for(device):
    assert device.type == os.environ.get("MVCUSTOM_TEST_DEVICE", "cuda")
