"""The trained word against the one that diffusers loads."""

import pytest
import torch

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.subjects import initial_token_embedding
from diffusers_mvcustom.training.token_embedding import TokenEmbedding, check_token_is_new


@pytest.fixture
def pipe(make_components):
    return MVCustomPipeline(**make_components("tiny", depth_estimator=False))


@pytest.mark.parametrize("vectors", [1, 3])
def test_texts_are_encoded_as_after_loading_the_word(pipe, vectors):
    token = TokenEmbedding(pipe.tokenizer, pipe.text_encoder, "<my-mug>", "mug", vectors)
    with torch.no_grad():
        token.embeddings.normal_(std=0.5)
    texts = ["a photo of a <my-mug> mug", "<my-mug>", "a mug on a rock", ""]
    encoded = token.encode(pipe.tokenizer, pipe.text_encoder, texts)
    pipe.load_textual_inversion({"<my-mug>": token.embeddings.detach()}, token="<my-mug>")
    for text, ours in zip(texts, encoded):
        theirs, _ = pipe.encode_prompt(text, "cpu", 1, False)
        assert torch.equal(ours, theirs[0]), text


def test_it_starts_as_the_known_word(pipe):
    token = TokenEmbedding(pipe.tokenizer, pipe.text_encoder, "<my-mug>", "mug", 2)
    known = initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug")
    assert torch.equal(token.embeddings.detach(), torch.stack([known, known]))


def test_gradients_reach_the_word_and_nothing_is_left_on_the_text_encoder(pipe):
    pipe.text_encoder.requires_grad_(False)
    before = {name: weight.clone() for name, weight in pipe.text_encoder.state_dict().items()}
    words = len(pipe.tokenizer)
    token = TokenEmbedding(pipe.tokenizer, pipe.text_encoder, "<my-mug>", "mug")
    token.encode(pipe.tokenizer, pipe.text_encoder, ["a <my-mug> mug"]).sum().backward()
    assert token.embeddings.grad.abs().sum() > 0
    assert len(pipe.tokenizer) == words
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.text_encoder.state_dict().items())


def test_a_text_that_is_cut_off_before_the_word_is_refused(pipe):
    token = TokenEmbedding(pipe.tokenizer, pipe.text_encoder, "<my-mug>", "mug")
    with pytest.raises(MVCustomError, match="is too long"):
        token.encode(pipe.tokenizer, pipe.text_encoder, ["a mug " * pipe.tokenizer.model_max_length + "<my-mug>"])


@pytest.mark.parametrize("word", ["mug", "MUG"])
def test_a_word_that_the_model_knows_is_refused(pipe, word):
    assert "mug</w>" in pipe.tokenizer.get_vocab()
    with pytest.raises(MVCustomError, match=rf"token: '{word}' already is a word .* '<my-{word}>'"):
        check_token_is_new(pipe.tokenizer, word)
    check_token_is_new(pipe.tokenizer, f"<my-{word}>")
