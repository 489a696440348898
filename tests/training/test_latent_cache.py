"""Cached latents are those of these pixels and this autoencoder."""

import pytest
import torch

from diffusers_mvcustom.training.latent_cache import LatentCache


@pytest.fixture
def vae(make_components):
    return make_components("tiny", depth_estimator=False)["vae"].eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_they_are_the_autoencoders_posterior_scaled(vae, images):
    means, stds = LatentCache(vae).encode(images)
    with torch.no_grad():  # all at once: kernels round otherwise than for one at a time
        posterior = vae.encode(images * 2 - 1).latent_dist
    scale = vae.config.scaling_factor
    assert torch.allclose(means, posterior.mean * scale, atol=1e-4)
    assert torch.allclose(stds, posterior.std * scale, atol=1e-4)


def test_each_image_is_encoded_once(vae, images, tmp_path):
    first = LatentCache(vae, tmp_path / "cache")
    fresh = first.encode(images)
    again = LatentCache(vae, tmp_path / "cache")
    cached = again.encode(images[[2, 0]])
    assert (first.encoded, again.encoded) == (3, 0)
    assert torch.equal(cached[0], fresh[0][[2, 0]])
    assert torch.equal(cached[1], fresh[1][[2, 0]])


def test_other_pixels_other_shapes_and_other_weights_are_not_mixed_up(vae, images, tmp_path):
    LatentCache(vae, tmp_path).encode(images)
    other = images.clone()
    other[0, 0, 0, 0] = 1 - other[0, 0, 0, 0].round()
    cache = LatentCache(vae, tmp_path)
    cache.encode(other[:1])
    cache.encode(images[:1].reshape(1, 3, 48, 32))
    assert cache.encoded == 2
    with torch.no_grad():
        vae.quant_conv.weight[0, 0] += 1e-3
    changed = LatentCache(vae, tmp_path)
    means, _ = changed.encode(images[:1])
    assert changed.encoded == 1
    assert torch.equal(means, LatentCache(vae).encode(images[:1])[0])


def test_a_damaged_file_is_made_anew(vae, images, tmp_path):
    fresh, _ = LatentCache(vae, tmp_path).encode(images[:1])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    cache = LatentCache(vae, tmp_path)
    assert torch.equal(cache.encode(images[:1])[0], fresh)
    assert cache.encoded == 1
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
