"""What a FeatureNeRF promises beside its values (those are compared with plain loops in `test_feature_nerf_reference`)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from reference.feature_nerf_scenes import float_scene, look_at, perturbed_nerf, random_scene, text_block

from diffusers_mvcustom.geometry import camera_rays, pixel_centers
from diffusers_mvcustom.models import FeatureNeRF, FeatureNeRFConfig, RayDistribution
from diffusers_mvcustom.models.positional_encoding import encoding_size

CONFIG = FeatureNeRFConfig(hidden_channels=6, num_samples=8, point_frequencies=4, ray_frequencies=2)
OUTPUTS = ("features", "opacity", "rgb", "depth", "density")


def assert_same(found, expected, names=OUTPUTS, **tolerances):
    for name in names:
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), msg=lambda text, name=name: f"{name}: {text}", **tolerances
        )


# --- shapes ---


@pytest.mark.parametrize(("batch", "views", "targets", "texts"), [(1, 1, 1, 1), (3, 3, 3, 2), (2, 3, 1, 3)])
def test_shapes(batch, views, targets, texts):
    nerf = perturbed_nerf(8, CONFIG, torch.float32)
    scene = float_scene(batch, views, targets, 8, (4, 7), (5, 3))
    rendered = nerf(
        **scene, encoder_hidden_states=torch.randn(batch, texts, 4, 10), attend_text=text_block(8, 10).attend_text
    )
    assert rendered.features.shape == (batch, texts, targets, 5 * 3, 8)
    assert rendered.opacity.shape == rendered.depth.shape == (batch, targets, 5, 3)
    assert rendered.rgb.shape == (batch, targets, 5, 3, 3)
    assert rendered.density.shape == (batch, targets, 5 * 3, 8)
    assert rendered.ray_distribution.edges.shape == (batch, targets, 5, 3, 9)
    assert rendered.ray_distribution.weights.shape == (batch, targets, 5, 3, 8)
    assert not rendered.ray_distribution.weights.requires_grad


def test_colours_are_optional():
    nerf = perturbed_nerf(4, replace(CONFIG, predict_rgb=False), torch.float32)
    assert nerf(**float_scene(1, 2, 1, 4, (3, 3), (2, 2))).rgb is None


def test_scenes_cameras_and_texts_are_each_on_their_own():
    """Every scene, target camera and text alone gives what it gives among three; size-3 axes are not mixed up."""
    nerf, attend_text = perturbed_nerf(8, CONFIG), text_block(8, 10).double().attend_text
    scene = random_scene(3, 3, 3, 8, (3, 3), (3, 3))
    text = torch.randn(3, 3, 5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = nerf(**scene, encoder_hidden_states=text, attend_text=attend_text)
    for i in range(3):
        one = {name: value[i : i + 1] if isinstance(value, torch.Tensor) else value for name, value in scene.items()}
        one["target_camera_to_world"] = one["target_camera_to_world"][:, i : i + 1]
        one["target_intrinsics"] = one["target_intrinsics"][:, i : i + 1]
        alone = nerf(**one, encoder_hidden_states=text[i : i + 1, i : i + 1], attend_text=attend_text)
        torch.testing.assert_close(alone.features[0, 0, 0], together.features[i, i, i])
        for name in OUTPUTS[1:]:
            torch.testing.assert_close(getattr(alone, name)[0, 0], getattr(together, name)[i, i])


def test_the_order_of_the_views_does_not_matter():
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 3, 2, 4, (4, 3), (3, 3))
    order = [2, 0, 1]
    turned = dict(scene)
    for name in ("reference_features", "reference_camera_to_world", "reference_intrinsics"):
        turned[name] = scene[name][:, order]
    assert_same(nerf(**turned), nerf(**scene))


def test_colours_and_shape_do_not_depend_on_the_text():
    nerf, attend_text = perturbed_nerf(8, CONFIG, torch.float32), text_block(8, 10).attend_text
    scene = float_scene(1, 2, 2, 8, (3, 3), (3, 3))
    with_text = nerf(**scene, encoder_hidden_states=torch.randn(1, 2, 5, 10), attend_text=attend_text)
    without = nerf(**scene)
    assert_same(with_text, without, OUTPUTS[1:], rtol=0, atol=0)
    assert not torch.allclose(with_text.features[:, :1], without.features, atol=1e-3)


# --- chunks, checkpoints, dtypes ---


@pytest.mark.parametrize("rays_per_chunk", [1, 5, 23, 24, 1000])
def test_chunks_of_rays_do_not_change_the_result_or_the_gradients(rays_per_chunk):
    nerf, attend_text = perturbed_nerf(8, CONFIG), text_block(8, 10).double().attend_text
    scene = random_scene(2, 3, 2, 8, (4, 5), (4, 3))
    scene["reference_features"].requires_grad_()
    text = torch.randn(2, 2, 5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for chunk, checkpointing in ((None, False), (rays_per_chunk, False), (rays_per_chunk, True)):
        nerf.gradient_checkpointing = checkpointing
        rendered = nerf(
            **scene,
            encoder_hidden_states=text,
            attend_text=attend_text,
            stratified=True,
            generator=torch.Generator().manual_seed(1),
            rays_per_chunk=chunk,
        )
        loss = rendered.features.square().sum() + rendered.rgb.sum() + rendered.depth.sum()
        gradients = torch.autograd.grad(loss, [scene["reference_features"], *nerf.parameters()])
        results.append((rendered, gradients))
    for rendered, gradients in results[1:]:
        assert_same(rendered, results[0][0])
        for x, y in zip(gradients, results[0][1]):
            torch.testing.assert_close(x, y)


def test_checkpoints_render_again_in_the_backward_pass():
    nerf, block = perturbed_nerf(8, CONFIG), text_block(8, 10).double()
    scene, calls = random_scene(1, 2, 1, 8, (3, 3), (3, 3)), []

    def attend_text(points, text):
        calls.append(points.shape[1])
        return block.attend_text(points, text)

    nerf.gradient_checkpointing = True
    text = torch.zeros(1, 1, 2, 10, dtype=torch.float64)
    rendered = nerf(**scene, encoder_hidden_states=text, attend_text=attend_text, rays_per_chunk=4)
    assert calls == [4 * 8, 4 * 8, 1 * 8]
    rendered.features.sum().backward()
    assert sorted(calls[3:]) == sorted(calls[:3])


def test_the_default_chunk_keeps_within_its_memory():
    """At the widest block of Stable Diffusion 1.5 maps go in several chunks; texts and gradients make them smaller."""
    with torch.device("meta"):
        nerf = FeatureNeRF(1280)
    one, four = (nerf._default_rays_per_chunk(texts, 8) for texts in (1, 4))
    assert 32 <= four < one < 16 * 16 * 4
    assert nerf._default_rays_per_chunk(1, 16) == one  # views are gone through one by one
    nerf.gradient_checkpointing = True
    assert 16 <= nerf._default_rays_per_chunk(1, 16) < nerf._default_rays_per_chunk(1, 8) < one
    with torch.no_grad():
        assert nerf._default_rays_per_chunk(1, 16) == one


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_float32_geometry(dtype):
    nerf, block = perturbed_nerf(8, CONFIG, torch.float32), text_block(8, 10)
    scene = float_scene(1, 3, 2, 8, (6, 6), (6, 6))
    text = torch.randn(1, 2, 4, 10, generator=torch.Generator().manual_seed(0))
    expected = nerf(**scene, encoder_hidden_states=text, attend_text=block.attend_text)
    scene["reference_features"] = scene["reference_features"].to(dtype)
    found = nerf.to(dtype)(**scene, encoder_hidden_states=text.to(dtype), attend_text=block.to(dtype).attend_text)
    assert found.features.dtype == dtype
    for name in OUTPUTS[1:]:
        assert getattr(found, name).dtype == torch.float32
    assert torch.equal(found.ray_distribution.edges, expected.ray_distribution.edges)
    # What is left is the rounding of weights and features.
    assert_same(found, expected, ("opacity", "depth", "rgb"), rtol=0, atol=torch.finfo(dtype).eps)
    assert (found.features.float() - expected.features).abs().max() < 2 * torch.finfo(dtype).eps


def test_autocast_keeps_float32_geometry():
    nerf = perturbed_nerf(8, CONFIG, torch.float32)
    scene = float_scene(1, 3, 2, 8, (6, 6), (6, 6))
    expected = nerf(**scene)
    with torch.autocast("cpu", torch.bfloat16):
        found = nerf(**scene)
    assert found.opacity.dtype == found.depth.dtype == found.density.dtype == torch.float32
    assert torch.equal(found.ray_distribution.edges, expected.ray_distribution.edges)
    assert_same(found, expected, ("opacity", "depth"), rtol=0, atol=torch.finfo(torch.bfloat16).eps)


def test_rendering_is_exact_under_autocast():
    """Point features that are exact in bfloat16 and the same everywhere come out as opacity times them, to float32."""
    nerf = perturbed_nerf(8, replace(CONFIG, num_samples=24), torch.float32)
    constant = torch.tensor([1.0, -2.0, 0.5, 4.0, -8.0, 0.25, 16.0, -1.0])
    with torch.no_grad():
        nerf.output_projection.weight.zero_()
        nerf.output_projection.bias.copy_(constant)
    scene = float_scene(1, 3, 1, 8, (6, 6), (6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        found = nerf(**scene)
    expected = found.opacity.flatten(2)[..., None] * constant  # [1, 1, 36, 8]
    assert 0.1 < found.opacity.mean() < 1
    torch.testing.assert_close(found.features[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [(2, 2), (2, 3)])
def test_reference_maps_of_another_resolution_are_the_same_views(scale):
    """A map that is linear across the view says the same at any size, as long as its camera goes with it."""
    nerf = perturbed_nerf(4, CONFIG)
    targets = torch.stack([look_at((0.1, 0.1, -1.0)), look_at((-0.2, 0.0, -0.9))])[None]
    references = torch.stack([look_at((0.3, 0.2, -4.0)), look_at((-0.4, 0.1, -5.0))])[None]
    narrow = torch.tensor([[30.0, 0, 2.5], [0, 30, 2], [0, 0, 1]], dtype=torch.float64).expand(1, 2, 3, 3)
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)

    def render(height, width):
        pixels = pixel_centers(height, width, dtype=torch.float64) / torch.tensor([width, height])  # in [0, 1]
        maps = torch.einsum("vck,hwk->vchw", slopes, F.pad(pixels, (0, 1), value=1.0))
        intrinsics = torch.tensor(
            [[1.5 * width, 0, 0.4 * width], [0, 1.4 * height, 0.6 * height], [0, 0, 1]], dtype=torch.float64
        )
        return nerf(maps[None], references, intrinsics.expand(1, 2, 3, 3), targets, narrow, 4, 5)

    assert_same(render(8 * scale[0], 10 * scale[1]), render(8, 10))


def test_no_grad_gives_the_same():
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 2, 2, 4, (3, 4), (3, 2))
    before = scene["reference_features"].clone()
    expected = nerf(**scene)
    with torch.no_grad():
        assert_same(nerf(**scene), expected)
    assert torch.equal(scene["reference_features"], before)


def test_nothing_stays_on_the_module():
    nerf = perturbed_nerf(4, CONFIG)
    before = set(vars(nerf)), set(nerf.state_dict())
    nerf(**random_scene(1, 2, 1, 4, (3, 4), (3, 2)))
    assert (set(vars(nerf)), set(nerf.state_dict())) == before


# --- samples on rays ---


def test_stratified_samples_follow_the_generator_and_lie_in_their_bins():
    nerf = perturbed_nerf(4, CONFIG, torch.float32)
    scene = float_scene(1, 2, 1, 4, (3, 4), (3, 2))

    def render(seed):
        return nerf(**scene, stratified=True, generator=torch.Generator().manual_seed(seed))

    assert_same(render(0), render(0), rtol=0, atol=0)
    assert not torch.allclose(render(0).density, render(1).density)
    assert_same(nerf(**scene), nerf(**scene), rtol=0, atol=0)
    # The bins are the same; only the samples within them move.
    assert torch.equal(render(0).ray_distribution.edges, nerf(**scene).ray_distribution.edges)


def test_the_next_block_looks_where_this_one_found_something_at_another_size():
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(2, 2, 3, 4, (4, 4), (2, 3))
    edges = torch.linspace(CONFIG.near, CONFIG.far, 20, dtype=torch.float64).expand(2, 3, 4, 6, -1)
    surface = torch.randint(19, (2, 3, 2, 3), generator=torch.Generator().manual_seed(0))  # of each ray here
    weights = F.one_hot(surface, 19).double().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    rendered = nerf(**scene, previous=RayDistribution(edges, weights))
    found = rendered.ray_distribution.edges
    width = edges[0, 0, 0, 0, 1] - edges[0, 0, 0, 0, 0]
    start = CONFIG.near + (surface[..., None] - 0.5) * width
    inside = ((found[..., 1:] > start) & (found[..., :-1] < start + 2 * width)).sum(-1)
    assert (inside >= CONFIG.importance_share * CONFIG.num_samples).all()
    assert torch.equal(found[..., 0], torch.full_like(found[..., 0], CONFIG.near))
    assert torch.equal(found[..., -1], torch.full_like(found[..., -1], CONFIG.far))


def test_half_precision_distributions_are_taken():
    nerf = perturbed_nerf(4, CONFIG, torch.float32)
    scene = float_scene(1, 2, 2, 4, (4, 4), (3, 3))
    first = nerf(**scene).ray_distribution
    coarse = RayDistribution(first.edges.bfloat16(), first.weights.bfloat16())
    assert nerf(**scene, previous=coarse).ray_distribution.edges.dtype == torch.float32


# --- masks and visibility ---


def test_masked_pixels_are_as_if_they_were_zero():
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 3, 2, 4, (4, 5), (3, 3))
    masks = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    expected = nerf(**{**scene, "reference_features": scene["reference_features"] * masks[:, :, None]})
    for kind in (torch.bool, torch.float32, torch.uint8):
        assert_same(nerf(**scene, reference_masks=masks.to(kind)), expected)
    # And what stands under the mask does not matter at all.
    other = scene["reference_features"] + 100 * (~masks)[:, :, None]
    assert_same(nerf(**{**scene, "reference_features": other}, reference_masks=masks), expected)


def test_a_view_that_does_not_see_a_point_has_no_say():
    """A second view that looks away from all rays changes nothing, whatever is in it."""
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 2, 1, 4, (4, 4), (3, 3))
    away = look_at((0.0, 0.0, -40.0), (0.0, 0.0, -80.0))
    scene["reference_camera_to_world"][0, 1] = away
    alone = dict(scene)
    for name in ("reference_features", "reference_camera_to_world", "reference_intrinsics"):
        alone[name] = scene[name][:, :1]
    both = nerf(**scene)
    assert both.opacity.max() > 0
    assert_same(both, nerf(**alone))


def test_where_no_view_looks_is_nothing_and_gradients_stay_finite():
    nerf = perturbed_nerf(4, CONFIG)
    scene = random_scene(1, 2, 1, 4, (4, 4), (3, 3))
    scene["reference_camera_to_world"][:] = look_at((0.0, 0.0, -40.0), (0.0, 0.0, -80.0))
    scene["reference_features"].requires_grad_()
    rendered = nerf(**scene)
    for name in ("features", "opacity", "rgb", "density"):
        assert (getattr(rendered, name) == 0).all()
    pixels = pixel_centers(3, 3, dtype=torch.float64).flatten(0, 1)
    _, per_depth = camera_rays(
        scene["target_camera_to_world"][0], scene["target_intrinsics"][0], pixels, normalize=False
    )
    torch.testing.assert_close(rendered.depth.flatten(), (CONFIG.far / per_depth.norm(dim=-1)).flatten())
    (rendered.features.sum() + rendered.depth.sum() + rendered.opacity.sum()).backward()
    for tensor in (scene["reference_features"], *nerf.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()


def test_gradients_are_finite_for_a_density_beyond_all_bounds():
    nerf = perturbed_nerf(4, CONFIG, torch.float32)
    with torch.no_grad():
        nerf.density_and_rgb.bias[0] = 200.0  # exp overflows
    rendered = nerf(**float_scene(1, 2, 1, 4, (4, 4), (3, 3)))
    (rendered.features.sum() + rendered.depth.sum() + rendered.rgb.sum()).backward()
    for name in ("features", "opacity", "rgb", "depth"):
        assert getattr(rendered, name).isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in nerf.parameters())


# --- weights ---


def test_layers_that_act_in_parts_start_as_one_layer_would():
    """Uniform within ±1/√n, n the inputs of all parts together: `nn.Linear`'s own start for the undivided layer."""
    torch.manual_seed(0)
    channels, config = 64, FeatureNeRFConfig()  # as wide as to tell 1/√n from the parts' own bounds
    nerf = FeatureNeRF(channels, config)
    point_size, plucker_size, direction_size = (
        encoding_size(size, frequencies)
        for size, frequencies in (
            (3, config.point_frequencies),
            (6, config.ray_frequencies),
            (3, config.ray_frequencies),
        )
    )
    first = [nerf.feature_projection.weight, nerf.point_projection.weight, nerf.ray_projection.weight]
    score = [nerf.feature_score.weight, nerf.direction_score.weight]
    for weights, inputs in (
        ([*first, nerf.ray_projection.bias], channels + point_size + plucker_size),
        (score, channels + direction_size),
    ):
        bound = 1 / math.sqrt(inputs)
        for weight in weights:
            assert weight.abs().max() <= bound
            assert weight.abs().max() > 0.9 * bound
            assert abs(weight.mean()) < 0.3 * bound
    assert (nerf.density_and_rgb.weight == 0).all()
    assert (nerf.density_and_rgb.bias == 0).all()


def test_the_score_of_a_fresh_module_weighs_the_views():
    """A blend that starts as the plain mean would learn more slowly which view to trust."""
    scene = float_scene(1, 3, 1, 8, (4, 5), (4, 4))
    torch.manual_seed(0)
    nerf = FeatureNeRF(8, CONFIG)
    first = nerf(**scene).features
    for score in (nerf.feature_score, nerf.direction_score):
        kept = score.weight.detach().clone()
        torch.nn.init.zeros_(score.weight)
        assert (nerf(**scene).features - first).abs().max() > 1e-3
        with torch.no_grad():
            score.weight.copy_(kept)


def test_weights_go_from_one_module_to_another():
    scene = random_scene(1, 2, 1, 4, (3, 3), (2, 2))
    nerf, other = perturbed_nerf(4, CONFIG), FeatureNeRF(4, CONFIG).double()
    other.load_state_dict(nerf.state_dict())
    assert_same(other(**scene), nerf(**scene), rtol=0, atol=0)
