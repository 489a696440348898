"""DreamSim, LPIPS, DINOv2 and CLIP: real classes at tiny random size, and a clear word where weights are missing."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from diffusers_mvcustom import MVCustomError
from diffusers_mvcustom.evaluation import (
    ClipTextSimilarity,
    Dinov2Similarity,
    DreamSimDistance,
    LpipsDistance,
    MetricUnavailable,
    pretrained_scores,
)
from diffusers_mvcustom.toy.tokenizer import word_tokenizer

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def images():
    return torch.rand(18, 3, 20, 30, generator=torch.Generator().manual_seed(0))  # more than one batch


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = word_tokenizer(["mug", "rock", "a", "on"])
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = CLIPTextConfig(**TINY, vocab_size=len(tokenizer), **ends)
    vision = CLIPVisionConfig(**TINY, image_size=16, patch_size=8)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**TINY, image_size=16, patch_size=8)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_clip_says_what_the_model_says_of_each_image(clip_folder, images):
    similarity = ClipTextSimilarity(clip_folder)
    found = similarity(images, "a mug on a rock")
    network, processor, tokenizer = similarity.model
    assert not network.training
    for i in (0, 17):
        picture = Image.fromarray(np.round(images[i].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
        output = network(
            **tokenizer("a mug on a rock", return_tensors="pt"), **processor(images=picture, return_tensors="pt")
        )
        assert found[i].item() == pytest.approx(
            output.logits_per_image.item() / network.logit_scale.exp().item(), abs=1e-5
        )
    assert found.shape == (18,)
    assert not torch.allclose(found, similarity(images, "rock"))
    assert similarity(images[:1], "mug " * 200).isfinite().all()  # longer than the model reads


def test_dinov2_is_1_for_equal_images_and_the_cosine_of_class_tokens_else(dinov2_folder, images):
    similarity = Dinov2Similarity(dinov2_folder)
    torch.testing.assert_close(similarity(images, images), torch.ones(18))
    network, processor = similarity.model
    pictures = [Image.fromarray(np.round(i.permute(1, 2, 0).numpy() * 255).astype(np.uint8)) for i in images[:2]]
    tokens = network(**processor(images=pictures, return_tensors="pt")).last_hidden_state[:, 0].detach()
    expected = torch.nn.functional.cosine_similarity(tokens[0], tokens[1], dim=0)
    torch.testing.assert_close(similarity(images[:1], images[1:2])[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("similarity", [ClipTextSimilarity, Dinov2Similarity])
def test_weights_that_are_not_there_are_named(similarity, tmp_path, images):
    score = similarity(tmp_path)
    with pytest.raises(MetricUnavailable, match=rf"{tmp_path}.* cannot be loaded: .* give the folder"):
        score(images, "a mug" if similarity is ClipTextSimilarity else images)


def test_nothing_is_loaded_before_it_is_needed():
    for made in (ClipTextSimilarity("none"), Dinov2Similarity("none"), DreamSimDistance(), LpipsDistance()):
        assert "model" not in vars(made)


@pytest.mark.parametrize(("distance", "package"), [(DreamSimDistance, "dreamsim"), (LpipsDistance, "torchmetrics")])
def test_a_package_that_is_not_there_is_named(distance, package, images, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed, where it is
    with pytest.raises(MetricUnavailable, match=rf"needs the package {package}: pip install"):
        distance()(images, images)


def test_a_package_that_a_package_needs_is_no_matter_of_weights(images, monkeypatch):
    """torchmetrics without torchvision: no network would bring it."""
    monkeypatch.setattr(pretrained_scores, "is_installed", lambda name: True)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(MetricUnavailable, match=r"LPIPS needs torchmetrics.*not installed: pip install") as caught:
        LpipsDistance()(images, images)
    assert "network" not in str(caught.value)


@pytest.mark.parametrize("distance", [DreamSimDistance(), LpipsDistance(), Dinov2Similarity()])
def test_pairs_of_two_shapes_are_refused_before_anything_is_loaded(distance, images):
    with pytest.raises(MVCustomError, match="one, other: expected images of one shape"):
        distance(images, images[:3])
