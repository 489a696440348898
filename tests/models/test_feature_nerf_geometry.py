"""FeatureNeRF in scenes whose geometry is known: planes, empty space, colours."""

from __future__ import annotations

import math

import pytest
import torch
from reference.feature_nerf_scenes import look_at, perturbed_nerf, random_scene

from diffusers_mvcustom.geometry import camera_rays, pixel_centers, project
from diffusers_mvcustom.models import FeatureNeRF, FeatureNeRFConfig, RenderedFeatures

HEIGHT, WIDTH, CHANNELS = 5, 7, 4


def plane_nerf(distance: float, density: float = math.inf, num_samples: int = 24) -> FeatureNeRF:
    """A field of the given density at z-depths beyond `distance` from the reference view, and nothing before it."""
    config = FeatureNeRFConfig(hidden_channels=2, num_samples=num_samples, point_frequencies=3, ray_frequencies=1)
    nerf = FeatureNeRF(CHANNELS, config).double()
    with torch.no_grad():
        for parameter in nerf.parameters():
            parameter.zero_()
        # Hidden units are silu(k (z - d)) and silu(k (z - d) - 1): their difference steps from 0 to 1 at the plane.
        steepness = 1e6
        nerf.point_projection.weight[:, 2] = steepness
        nerf.ray_projection.bias.copy_(
            torch.tensor([-steepness * distance, -steepness * distance - 1], dtype=torch.float64)
        )
        nerf.output_projection.weight[0] = torch.tensor([1.0, -1.0])
        nerf.output_projection.bias[1] = 1.0
        nerf.density_and_rgb.bias[0] = -200.0
        top = 60.0 if density == math.inf else math.log(density) - nerf._log_initial_density
        nerf.density_and_rgb.weight[0, 0] = 200.0 + top
    return nerf


def cameras() -> tuple[torch.Tensor, ...]:
    """A reference that sees all of two targets' rays, and the two targets, one of which is rolled and off centre."""
    reference = look_at((0.0, 0.5, -5.0), (0.0, 0.1, 0.0))
    targets = torch.stack([look_at((0.0, 0.1, -1.0)), look_at((0.5, -0.2, -0.8), (0.1, 0.0, 0.0))])
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    targets[1] = targets[1] @ turn
    reference_intrinsics = torch.tensor([[4.0, 0, 4], [0, 4, 4], [0, 0, 1]], dtype=torch.float64)
    intrinsics = torch.tensor([[9.0, 0, 3.5], [0, 8, 2.5], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
    intrinsics[1, :2, 2] = torch.tensor([2.0, 3.0])
    return reference, reference_intrinsics, targets, intrinsics


def render(nerf: FeatureNeRF, previous=None) -> RenderedFeatures:
    reference, reference_intrinsics, targets, intrinsics = cameras()
    features = torch.randn(1, 1, CHANNELS, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return nerf(
        features,
        reference[None, None],
        reference_intrinsics[None, None],
        targets[None],
        intrinsics[None],
        HEIGHT,
        WIDTH,
        previous=previous,
    )


def distance_to_plane(distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the targets' rays meet the plane, along the ray, and their z-depth for a distance of 1, `(M, h, w)`."""
    reference, _, targets, intrinsics = cameras()
    pixels = pixel_centers(HEIGHT, WIDTH, dtype=torch.float64).flatten(0, 1)
    origins, directions = camera_rays(targets, intrinsics, pixels)
    axis = reference[:3, 2]
    along = (distance - (origins - reference[:3, 3]) @ axis) / (directions @ axis)
    _, at_depth_1 = camera_rays(targets, intrinsics, pixels, normalize=False)
    return along.unflatten(1, (HEIGHT, WIDTH)), (1 / at_depth_1.norm(dim=-1)).unflatten(1, (HEIGHT, WIDTH))


def test_depth_is_where_the_rays_meet_a_plane():
    """With even bins to half a bin; looking again where it was found, and again, to far less."""
    nerf, distance = plane_nerf(4.9), distance_to_plane(4.9)
    expected = distance[0] * distance[1]
    assert 0.3 < expected.min() < expected.max() < 1.9
    assert expected.amax() - expected.amin() > 0.1
    rendered = render(nerf)
    bin_width = (nerf.config.far - nerf.config.near) / nerf.config.num_samples
    torch.testing.assert_close(rendered.opacity, torch.ones_like(rendered.opacity))
    assert ((rendered.depth - expected)[0].abs() <= 0.5 * bin_width * distance[1] + 1e-4).all()
    errors = [(rendered.depth - expected).abs().max()]
    for _ in range(2):
        rendered = render(nerf, rendered.ray_distribution)
        errors.append((rendered.depth - expected).abs().max())
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[0] / 15


def test_fog_behind_a_plane_gets_denser_with_its_depth():
    """Opacity is `1 - exp(-σ l)` over the length l of the ray behind the plane."""
    density = 1.3
    nerf = plane_nerf(4.9, density, num_samples=4000)
    along, _ = distance_to_plane(4.9)
    expected = 1 - torch.exp(-density * (nerf.config.far - along))
    torch.testing.assert_close(render(nerf).opacity[0], expected, rtol=0, atol=1e-3)


def test_features_of_a_solid_are_those_of_its_front():
    """The field says 1 in channel 1 everywhere and 1 in channel 0 behind the plane."""
    rendered = render(plane_nerf(4.9))
    expected = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).expand_as(rendered.features)
    torch.testing.assert_close(rendered.features, expected)
    torch.testing.assert_close(rendered.rgb, torch.full_like(rendered.rgb, 0.5))


def test_empty_space_is_transparent():
    nerf = plane_nerf(100.0)
    rendered = render(nerf)
    for name in ("opacity", "features", "rgb"):
        assert getattr(rendered, name).abs().max() < 1e-30
    _, per_distance = distance_to_plane(4.9)
    torch.testing.assert_close(rendered.depth[0], nerf.config.far * per_distance)


@pytest.mark.parametrize("size", [(8, 8), (3, 11)])
def test_a_constant_image_looks_the_same_from_everywhere_at_any_size(size):
    """Rendering does not depend on the references' resolution where their images are the same."""
    reference, intrinsics, targets, target_intrinsics = cameras()
    scaled = intrinsics.clone()
    scaled[0] *= size[1] / 8
    scaled[1] *= size[0] / 8
    torch.manual_seed(0)
    nerf = FeatureNeRF(CHANNELS, FeatureNeRFConfig(num_samples=6)).double()
    torch.nn.init.normal_(nerf.density_and_rgb.weight)

    def seen(height, width, k):
        maps = (
            torch.linspace(-1, 1, CHANNELS, dtype=torch.float64).view(1, 1, -1, 1, 1).expand(1, 1, -1, height, width)
        )
        return nerf(
            maps, reference[None, None], k[None, None], targets[None], target_intrinsics[None], HEIGHT, WIDTH
        ).features

    torch.testing.assert_close(seen(*size, scaled), seen(8, 8, intrinsics))


def test_what_a_view_sees_lies_on_the_epipolar_line():
    """Only the reference pixels near a target ray's image have an influence on that ray."""
    nerf = perturbed_nerf(
        4, FeatureNeRFConfig(hidden_channels=6, num_samples=64, point_frequencies=4, ray_frequencies=2), torch.float64
    )
    scene = random_scene(1, 1, 1, 4, (16, 16), (1, 1))
    scene["target_camera_to_world"][0, 0] = look_at((0.0, 0.0, -1.0))
    scene["reference_camera_to_world"][0, 0] = look_at((0.9, 0.3, -0.2))
    features = scene["reference_features"].requires_grad_()
    (gradient,) = torch.autograd.grad(nerf(**scene).features.sum(), features)
    touched = gradient[0, 0].abs().sum(0) > 0
    assert touched.sum() >= 16

    pose, intrinsics = scene["target_camera_to_world"][0, 0], scene["target_intrinsics"][0, 0]
    origin, direction = camera_rays(pose, intrinsics, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    ends = origin + torch.tensor([[0.9], [1.1]], dtype=torch.float64) * direction
    reference = torch.linalg.inv(scene["reference_camera_to_world"][0, 0])
    (a, b), _ = project(ends, reference, scene["reference_intrinsics"][0, 0])
    normal = torch.stack([-(b - a)[1], (b - a)[0]]) / (b - a).norm()
    away = ((pixel_centers(16, 16, dtype=torch.float64) - a) @ normal).abs()
    assert (away[touched] < 2**0.5).all()  # corners of the cells that the line crosses
    assert (away[~touched] > 2**0.5).any()
