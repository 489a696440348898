"""All stages of the toy model's training for a step or two, and the model folder made of them."""

import json

import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter

from diffusers_mvcustom import Cameras, MVCustomPipeline
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import caption_words
from diffusers_mvcustom.toy.training.assembly import assemble, image_components
from diffusers_mvcustom.toy.training.attribute_reader import (
    SHIFT,
    answer_loss,
    reader_accuracy,
    reader_run,
    shifted,
    train_reader,
    view_labels,
)
from diffusers_mvcustom.toy.training.autoencoder import (
    autoencoder_run,
    decoder_run,
    latent_autoencoder,
    new_autoencoder,
    reconstruction_psnr,
    train_autoencoder,
)
from diffusers_mvcustom.toy.training.depth_model import depth_run, train_depth_model
from diffusers_mvcustom.toy.training.image_model import LatentStore, image_model_run, train_image_model
from diffusers_mvcustom.toy.training.view_store import ViewStore
from diffusers_mvcustom.training import fresh_motion_adapter

SETTINGS = {"max_steps": 1, "batch_size": 2, "device": "cpu", "seed": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of all stages after a step or two each."""
    folder = tmp_path_factory.mktemp("toy")
    store = ViewStore(folder / "views", num_scenes=16)
    store.fill()
    ViewStore(folder / "validation-views", "validation", 20).fill()
    autoencoder = autoencoder_run(folder / "autoencoder", **SETTINGS)
    train_autoencoder(autoencoder, autoencoder.modules["vae"], store)
    train_depth_model(depth_run(folder / "depth", **SETTINGS), store)
    vae = latent_autoencoder(folder, store, **SETTINGS)
    images = image_model_run(folder / "images", **{**SETTINGS, "max_steps": 2})
    train_image_model(images, LatentStore(store, vae, folder / "latents"))
    return folder


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    adapter = fresh_motion_adapter(image_components(trained, ViewStore.at(trained / "views"))["unet"].config)
    for name, weight in adapter.named_parameters():
        if ".proj_out.weight" in name:
            torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(0))
    adapter.register_to_config(attention_window=5, temporal_heads=1)
    adapter.save_pretrained(folder.parent / "motion")
    assemble(trained, folder, motion_adapter=folder.parent / "motion")
    return folder


def generate(pipe, **call):
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 1, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return pipe("a red car on sand", **settings, **call).frames


def test_the_folder_loads_and_generates(model):
    pipe = MVCustomPipeline.from_pretrained(model, dtype=torch.float32)
    assert {weight.dtype for weight in pipe.unet.parameters()} == {torch.float32}
    assert (pipe.config.attention_window, pipe.config.temporal_heads) == (5, 1)  # as the motion adapter was trained
    assert {hook.name for hook in pipe.hooks} == {
        "depth_aware_feature_rendering",
        "consistent_aware_latent_completion",
    }
    frames = generate(pipe, cameras=Cameras.orbit(3, azimuth=(-20, 20), height=64, width=64))
    assert frames.shape == (1, 3, 3, 64, 64)
    assert frames.isfinite().all()
    assert len(pipe.tokenizer("a red car on sand").input_ids) == 5 + 2  # its own words
    assert set(caption_words()) <= {token.removesuffix("</w>") for token in pipe.tokenizer.get_vocab()}


def test_it_is_a_stock_animatediff_repository_of_half_precision(model):
    pipe = AnimateDiffPipeline.from_pretrained(model, dtype=torch.float32)
    assert generate(pipe, num_frames=2).shape == (1, 2, 3, 64, 64)
    index = json.loads((model / "model_index.json").read_text())
    assert {entry[0] for entry in index.values() if isinstance(entry, list) and entry[0]} == {
        "diffusers",
        "transformers",
    }
    assert not list(model.rglob("*.py"))
    assert not list(model.rglob("*.bin"))
    assert sum(file.stat().st_size for file in model.rglob("*") if file.is_file()) < 60e6


def test_weights_are_the_averaged_ones_of_the_checkpoints(trained, model):
    pipe = MVCustomPipeline.from_pretrained(model, dtype=torch.float32)
    run = image_model_run(trained / "images", **SETTINGS)
    run.use_averaged_weights()
    expected = run.modules["unet"].state_dict()
    stored = pipe.unet.state_dict()
    for name, weight in expected.items():
        assert torch.equal(stored[name], weight.half().float()), name
    motion = MotionAdapter.from_pretrained(model.parent / "motion").state_dict()
    for name, weight in motion.items():
        assert torch.equal(stored[name], weight.half().float()), name


def test_the_card_says_how_it_was_made(model):
    card = (model / "README.md").read_text()
    assert "| images | 2 |" in card
    assert "| autoencoder | 1 |" in card
    assert "train_backbone.py" in card
    assert "autoencoder PSNR on held-out scenes" in card


def test_what_is_not_trained_is_named(tmp_path):
    with pytest.raises(MVCustomError, match="there are no rendered views; run the stage `views` first"):
        assemble(tmp_path, tmp_path / "model")
    ViewStore(tmp_path / "views", num_scenes=1, size=16)
    ViewStore(tmp_path / "validation-views", "validation", 1, 16)
    with pytest.raises(MVCustomError, match="there is no trained autoencoder yet"):
        assemble(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_training_goes_on_from_a_stored_model(trained, model, tmp_path):
    run = image_model_run(tmp_path / "images", **SETTINGS, start_from=model)
    stored = MVCustomPipeline.from_pretrained(model, dtype=torch.float32)
    assert torch.equal(run.modules["unet"].conv_in.weight, stored.unet.conv_in.weight)
    embedding = run.modules["text_encoder"].get_input_embeddings().weight
    assert torch.equal(embedding, stored.text_encoder.get_input_embeddings().weight)
    assert run.step == 0


def test_training_the_decoder_leaves_latents_as_they_are(trained, tmp_path):
    store = ViewStore.at(trained / "views")
    pixels = store.pixels([0, 1])
    vae = latent_autoencoder(trained, store, **SETTINGS)
    with torch.no_grad():
        latents, decoded = vae.encode(pixels).latent_dist.mode(), vae.decode(torch.ones(1, 4, 4, 4)).sample
    run = decoder_run(tmp_path / "decoder", vae, **SETTINGS)
    train_autoencoder(run, vae, store)
    with torch.no_grad():
        assert torch.equal(vae.encode(pixels).latent_dist.mode(), latents)
        assert not torch.equal(vae.decode(torch.ones(1, 4, 4, 4)).sample, decoded)


def test_an_untrained_autoencoder_keeps_mean_colours(trained):
    """It starts there, so its error is that of 4 × 4 blocks of one colour."""
    store = ViewStore.at(trained / "validation-views")
    pixels = store.pixels(list(range(len(store))))  # a number that batches do not divide
    blocks = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(pixels, 4), scale_factor=4)
    expected = (-10 * ((blocks - pixels).square() / 4).mean(dim=(1, 2, 3)).log10()).mean().item()
    assert reconstruction_psnr(new_autoencoder().eval(), store) == pytest.approx(expected, abs=1.0)


def test_the_reader_trains_on_the_attributes_in_view(trained, tmp_path):
    store = ViewStore(tmp_path / "views", "reader", num_scenes=8)
    store.fill()
    labels = view_labels(store, range(len(store)))
    for index in range(len(store)):
        assert labels["category"][index] == store.attributes(index).labels()["category"]
        assert labels["object_count"][index] == store.object_count(index)
        assert labels["pattern shows"][index] == ("pattern" not in store.unseen(index))
    run = reader_run(tmp_path / "reader", max_steps=2, batch_size=4, device="cpu", seed=0)
    before = run.modules["reader"].answers["color"].weight.clone()
    train_reader(run, [store, ViewStore.at(trained / "views")])
    assert not torch.equal(run.modules["reader"].answers["color"].weight, before)
    run.use_averaged_weights()
    accuracy = reader_accuracy(run.modules["reader"], store)
    assert accuracy.keys() >= {"category", "color", "all"}
    assert all(0 <= share <= 1 for share in accuracy.values())


def test_what_a_view_does_not_show_is_not_learnt_from_it():
    scores = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    label, shows = torch.tensor([3, 3, 0, 9]), torch.tensor([True, False, True, False])
    truth = {"second_color": label, "second_color shows": shows, "color": label}
    seen = answer_loss("second_color", scores, truth)
    torch.testing.assert_close(seen, answer_loss("color", scores[shows], {"color": label[shows]}))
    truth["second_color shows"] = torch.zeros(4, dtype=torch.bool)
    assert answer_loss("second_color", scores, truth) == 0


def test_pictures_are_moved_each_by_its_own_few_pixels():
    torch.manual_seed(0)
    pixels = torch.zeros(40, 1, 24, 20)
    pixels[:, :, 12, 10] = 1
    moved = shifted(pixels)
    assert moved.shape == pixels.shape
    y, x = moved.flatten(1).argmax(1) // 20 - 12, moved.flatten(1).argmax(1) % 20 - 10
    assert moved.sum() == 40
    for way in (y, x):
        assert way.min() == -SHIFT
        assert way.max() == SHIFT
