import numpy as np
import pytest
import torch

from diffusers_mvcustom.toy.tokenizer import toy_tokenizer
from diffusers_mvcustom.toy.training.autoencoder import new_autoencoder
from diffusers_mvcustom.toy.training.image_model import (
    LatentStore,
    image_model_run,
    train_image_model,
)
from diffusers_mvcustom.toy.training.view_draws import ViewDraws, view_weights
from diffusers_mvcustom.toy.training.view_store import ViewStore


@pytest.fixture(scope="module")
def vae():
    vae = new_autoencoder().eval()
    vae.register_to_config(scaling_factor=1.7)
    return vae


@torch.no_grad()
def encoded(vae, pixels):
    return vae.encode(pixels).latent_dist.mode() * 1.7


def test_latents_are_those_of_views_and_their_mirror_images(small_store, vae, tmp_path):
    latents = LatentStore(small_store, vae, tmp_path)
    assert len(latents) == 2 * len(small_store)
    samples = [6, 1, 0, 7, 6]
    pixels = small_store.pixels([sample // 2 for sample in samples])
    mirrored = torch.stack([view.flip(-1) if sample % 2 else view for sample, view in zip(samples, pixels)])
    expected = encoded(vae, mirrored)
    assert torch.allclose(latents[samples], expected, rtol=1e-3, atol=1e-3)  # stored as float16
    assert latents[samples].shape == (5, 4, 4, 4)
    assert not torch.allclose(latents[[0]], latents[[1]], atol=0.05)


def test_what_was_encoded_once_is_read(small_store, vae, tmp_path):
    first = LatentStore(small_store, vae, tmp_path)
    stored = first[[3, 4]]
    assert np.flatnonzero(first.encoded).tolist() == [3, 4]
    other = LatentStore(small_store, new_autoencoder(seed=1), tmp_path)  # would encode differently
    assert torch.equal(other[[4, 3]], stored[[1, 0]])


def test_filling_encodes_everything_once(small_store, vae, tmp_path):
    latents = LatentStore(small_store, vae, tmp_path / "filled")
    latents[[5]]
    latents.fill(block=7)
    assert latents.encoded.all()
    one_by_one = LatentStore(small_store, vae, tmp_path / "single")
    for sample in (0, 5, 23):
        assert torch.allclose(latents[[sample]], one_by_one[[sample]], atol=2e-3)


def test_views_are_trained_on_the_more_often_the_more_objects_they_show(small_store):
    weights = view_weights(small_store)
    assert weights.shape == (len(small_store),)
    counts = [small_store.object_count(view) for view in range(len(small_store))]
    assert len(set(counts)) > 1
    assert weights.tolist() == [1 + 3 * count for count in counts]


def test_views_that_are_rendered_during_the_training_are_trained_on(vae, tmp_path):
    store = ViewStore(tmp_path / "views", num_scenes=4)
    store.fill(lambda blocks: blocks[:1], block=2)  # as far as another process has come
    latents = LatentStore(store, vae, tmp_path / "latents")
    run = image_model_run(tmp_path / "images", max_steps=2, batch_size=16, device="cpu", seed=0)
    train_image_model(run, latents, until=1)
    first = 2 * len(store)
    assert latents.encoded[:first].any()
    assert not latents.encoded[first:].any()
    progress = iter(range(3))

    class Filling(LatentStore):
        """Another process renders the rest once the training has begun."""

        def __getitem__(self, samples):
            if next(progress) == 0:
                store.fill()
            return super().__getitem__(samples)

    run.max_steps = 4
    train_image_model(run, Filling(store, vae, tmp_path / "latents"))
    assert latents.encoded[first:].any()


def test_draws_follow_from_seed_and_step_alone(small_store):
    def drawn(seed, first, workers=0):
        draws = ViewDraws(small_store.folder, batch_size=6, max_steps=4, seed=seed)
        return [(step.samples, step.token_ids.tolist()) for step in draws.ahead(first, workers)]

    whole = drawn(0, 0)
    assert len(whole) == 4
    assert drawn(0, 2) == whole[2:]
    assert drawn(0, 0, workers=2) == whole
    assert drawn(1, 0) != whole
    assert all(0 <= sample < 2 * len(small_store) for samples, _ in whole for sample in samples)


def test_captions_are_of_the_views_drawn(small_store):
    draws = ViewDraws(small_store.folder, batch_size=40, max_steps=1, seed=0)
    drawn = draws[0]
    tokenizer = toy_tokenizer()
    texts = tokenizer.batch_decode(drawn.token_ids, skip_special_tokens=True)
    empty = sum(not text.strip() for text in texts)
    assert 0 < empty < 20
    for number, (sample, text) in enumerate(zip(drawn.samples, texts)):
        if text.strip():
            again = tokenizer(small_store.caption(sample // 2, number)).input_ids
            assert text == tokenizer.decode(again, skip_special_tokens=True)
