"""FeatureNeRF against plain loops: values and gradients, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from reference import feature_nerf_loop
from reference.feature_nerf_scenes import look_at, perturbed_nerf, random_scene, text_block

from diffusers_mvcustom.models import FeatureNeRFConfig, RayDistribution

CONFIG = FeatureNeRFConfig(hidden_channels=7, num_samples=5, point_frequencies=3, ray_frequencies=2)


def compare(nerf, scene, **options):
    """Values, and gradients of a random functional with respect to the reference maps and every weight."""
    features = scene["reference_features"].requires_grad_()
    results = []
    for function in (nerf, lambda *args, **kwargs: feature_nerf_loop.render(nerf, *args, **kwargs)):
        extra = dict(options)
        if function is nerf:
            extra.pop("point_score", None)
        rendered = function(*scene.values(), **extra)
        if function is nerf:
            found = rendered
            rendered = (
                rendered.features,
                rendered.opacity.flatten(2),
                rendered.rgb.flatten(2, 3),
                rendered.depth.flatten(2),
                rendered.density,
            )
        generator = torch.Generator().manual_seed(3)
        loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in rendered)
        gradients = torch.autograd.grad(loss, [features, *nerf.parameters()])
        results.append((rendered, gradients))
    (values, gradients), (expected, expected_gradients) = results
    for name, x, y in zip(("features", "opacity", "rgb", "depth", "density"), values, expected):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    names = ["reference_features", *(name for name, _ in nerf.named_parameters())]
    for name, x, y in zip(names, gradients, expected_gradients):
        assert y.abs().max() > 0, name
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    return found


@pytest.mark.parametrize(
    ("batch", "views", "targets"),
    [(1, 1, 1), (2, 3, 1), (1, 2, 3), (3, 1, 1)],
)
def test_equals_the_loop(batch, views, targets):
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(batch, views, targets, 4, (3, 5), (2, 3))
    compare(nerf, scene)


def test_equals_the_loop_with_masks_texts_and_an_earlier_distribution():
    nerf = perturbed_nerf(8, CONFIG)
    scene = random_scene(1, 3, 2, 8, (4, 3), (3, 2))
    generator = torch.Generator().manual_seed(5)
    masks = torch.rand(1, 3, 4, 3, generator=generator, dtype=torch.float64).round(decimals=0)
    assert 0 < masks.mean() < 1
    steps = torch.rand(1, 2, 3, 2, 4, generator=generator, dtype=torch.float64) + 0.1
    edges = torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], dim=-1)
    edges = CONFIG.near + edges / edges[..., -1:] * (CONFIG.far - CONFIG.near)
    weights = torch.rand(1, 2, 3, 2, 4, generator=generator, dtype=torch.float64) / 4
    rendered = compare(
        nerf,
        scene,
        reference_masks=masks,
        encoder_hidden_states=torch.randn(1, 2, 6, 10, generator=generator, dtype=torch.float64),
        attend_text=text_block(8, 10).double().attend_text,
        previous=RayDistribution(edges, weights),
    )
    assert rendered.features.shape == (1, 2, 2, 6, 8)
    assert (rendered.features[:, 0] - rendered.features[:, 1]).abs().max() > 1e-3


def test_a_score_of_the_point_alone_would_cancel():
    """Why the blend's score has no term of the point in the target's frame: it is the same for all views."""
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 3, 1, 4, (3, 4), (2, 2))
    compare(nerf, scene, point_score=torch.tensor([3.0, -2.0, 1.5], dtype=torch.float64))


def test_views_from_all_sides_some_of_which_face_away():
    """One view looks away from everything, one has the target's points only partly before it."""
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 3, 1, 4, (3, 4), (2, 3))
    poses = scene["reference_camera_to_world"]
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    poses[0, 0] = poses[0, 0] @ turn
    poses[0, 1] = look_at((0.1, 0.1, 0.0), (1.0, 0.0, 0.0))
    rendered = compare(nerf, scene)
    assert 0 < (rendered.density == 0).float().mean() < 1  # some points are seen by no view


def test_initial_density_is_that_of_the_initial_opacity():
    config = FeatureNeRFConfig(num_samples=6, initial_opacity=0.3)
    nerf = perturbed_nerf(4, config)
    torch.nn.init.zeros_(nerf.density_and_rgb.weight)
    torch.nn.init.zeros_(nerf.density_and_rgb.bias)
    pose = look_at((0.0, 0.0, -1.0)).view(1, 1, 4, 4)
    # A reference far behind the target sees all of its rays.
    behind = look_at((0.0, 0.0, -5.0)).view(1, 1, 4, 4)
    intrinsics = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]], dtype=torch.float64).view(1, 1, 3, 3)
    rendered = nerf(torch.randn(1, 1, 4, 8, 8).double(), behind, intrinsics, pose, intrinsics, 8, 8)
    torch.testing.assert_close(rendered.opacity, torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64))
    torch.testing.assert_close(rendered.rgb, torch.full((1, 1, 8, 8, 3), 0.3 * 0.5, dtype=torch.float64))
    density = -math.log(1 - 0.3) / (config.far - config.near)
    torch.testing.assert_close(rendered.density, torch.full((1, 1, 64, 6), density, dtype=torch.float64))
