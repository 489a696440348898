"""Text alignment: the prompt without its token, CLIPScore, k of n."""

import pytest
import torch

from diffusers_mvcustom import MVCustomError
from diffusers_mvcustom.evaluation import TextAlignment, prompt_without_token, text_alignment


@pytest.mark.parametrize(
    ("prompt", "token", "text"),
    [
        ("a <my-mug> mug on a rock", "<my-mug>", "a mug on a rock"),
        ("<v*> car, <v*>  car", "<v*>", "car, car"),
        ("a <my-mug>, seen from above", "<my-mug>", "a, seen from above"),
        ("a mug", None, "a mug"),
    ],
)
def test_the_token_is_left_out(prompt, token, text):
    assert prompt_without_token(prompt, token) == text


def test_a_prompt_of_the_token_alone_is_refused():
    with pytest.raises(MVCustomError, match="expected words besides the token"):
        prompt_without_token(" <v*> ", "<v*>")


def test_score_is_clipscore_and_cosine_clip_t():
    texts = []

    def similarity(images, text):
        texts.append(text)
        return images.mean(dim=(1, 2, 3)) - 0.5

    images = torch.tensor([0.1, 0.7, 0.9]).reshape(3, 1, 1, 1).expand(3, 3, 4, 6)
    metric = TextAlignment(similarity)
    metric.update(images, "a <v> mug", "<v>")
    metric.update(images[1:2], "a rock")
    numbers = metric.compute()
    assert texts == ["a mug", "a rock"]
    assert numbers["cosine"] == pytest.approx((-0.4 + 0.2 + 0.4 + 0.2) / 4)
    assert numbers["clip_score"] == pytest.approx(2.5 * (0.0 + 0.2 + 0.4 + 0.2) / 4)
    assert numbers["views"] == 4
    assert text_alignment(similarity, images, "a mug")["clip_score"] == pytest.approx(2.5 * 0.6 / 3)


def test_a_callable_that_gives_no_number_an_image_is_refused():
    with pytest.raises(MVCustomError, match="one finite number for each of 2 images"):
        text_alignment(lambda images, text: torch.zeros(1), torch.zeros(2, 3, 4, 4), "a mug")
