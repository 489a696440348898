"""The embedding of a subject's new word while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import MVCustomError
from ..subjects import initial_token_embedding

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


class TokenEmbedding(nn.Module):
    """K trainable embeddings of a new word, put in the place of its tokens while a text is encoded.

    The text encoder's own table stays frozen and as large as it is: the new tokens are given to it as a known one, whose
    embedding is then replaced.

    Args:
        tokenizer (`CLIPTokenizer`): Used for lookups; not changed.
        text_encoder (`CLIPTextModel`): Gives the initial embedding; not changed.
        token (`str`): The new word.
        initializer_token (`str`): The known word whose embedding the new ones start from.
        num_vectors (`int`): K.

    Raises:
        MVCustomError: if the token already is a word of the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        token: str,
        initializer_token: str,
        num_vectors: int = 1,
    ) -> None:
        super().__init__()
        check_token_is_new(tokenizer, token)
        self.token = token
        initial = initial_token_embedding(tokenizer, text_encoder, initializer_token)
        self.embeddings = nn.Parameter(initial.expand(num_vectors, -1).clone())

    def encode(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
        """Text states of prompts that may name the token, `(B, L, D)`. Gradients reach the embeddings."""
        ids, places = self._tokenize(tokenizer, texts)
        device = self.embeddings.device
        with self._replacing(text_encoder, places.to(device)):
            return text_encoder(ids.to(device))[0]

    def _tokenize(self, tokenizer: CLIPTokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids with a stand-in for the new word, and which vector goes where (-1: none), both `(B, L)`."""
        length = tokenizer.model_max_length
        stand_in = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        vectors = len(self.embeddings)
        ids = torch.full((len(texts), length), stand_in, dtype=torch.long)
        places = torch.full((len(texts), length), -1, dtype=torch.long)
        for row, text in enumerate(texts):
            tokens, place = [tokenizer.bos_token_id], [-1]
            for index, part in enumerate(text.split(self.token)):
                if index:
                    tokens += [stand_in] * vectors
                    place += range(vectors)
                words = tokenizer(part, add_special_tokens=False)["input_ids"] if part.strip() else []
                tokens += words
                place += [-1] * len(words)
            tokens, place = [*tokens[: length - 1], tokenizer.eos_token_id], [*place[: length - 1], -1]
            if self.token in text and max(place) < vectors - 1:
                raise MVCustomError(f"prompts: {text!r} is too long; the token is beyond its first {length} tokens.")
            ids[row, : len(tokens)] = torch.tensor(tokens)
            places[row, : len(place)] = torch.tensor(place)
        return ids, places

    @contextmanager
    def _replacing(self, text_encoder: CLIPTextModel, places: Tensor) -> Iterator[None]:
        def replace(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            ours = self.embeddings.to(output.dtype)[places.clamp(min=0)]
            return torch.where((places >= 0)[..., None], ours, output)

        handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def check_token_is_new(tokenizer: CLIPTokenizer, token: str) -> None:
    """Raises if the tokenizer knows the token as one word: prompts with it would change their meaning.

    Raises:
        MVCustomError: naming the token.
    """
    vocabulary = tokenizer.get_vocab()
    spellings = (token, f"{token}</w>", token.lower(), f"{token.lower()}</w>")
    known = next((word for word in spellings if word in vocabulary), None)
    if known is not None:
        raise MVCustomError(
            f"token: {token!r} already is a word of the model's tokenizer ({known!r}); take a new one such as "
            f"'<my-{token.strip('<>')}>'."
        )
