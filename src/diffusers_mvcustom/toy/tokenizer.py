"""CLIP tokenizers with a vocabulary of given words, and the toy world's."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from transformers import CLIPTokenizer

from .captions import caption_words


def word_tokenizer(words: Iterable[str], vocabulary_size: int | None = None, *, max_length: int = 77) -> CLIPTokenizer:
    """A CLIP tokenizer over bytes and the given words, in the order of CLIP's own vocabulary.

    Every text tokenises without an unknown token, and each of the words as one.

    Args:
        words (iterable of `str`): Lower-case words.
        vocabulary_size (`int`, *optional*): Entries that are never produced fill the vocabulary up to this.
        max_length (`int`, *optional*, defaults to 77): Tokens of a text, its start and end included.
    """
    bytes_as_text = _byte_characters()
    tokens = bytes_as_text + [character + "</w>" for character in bytes_as_text]
    chains = [_chain(word) for word in words]
    merges = list(dict.fromkeys(merge for chain in chains for merge in chain))
    tokens += [left + right for left, right in merges]
    tokens += [f"unused {i}" for i in range((vocabulary_size or 0) - len(tokens) - 2)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=_ranked(chains, merges), model_max_length=max_length)


def _chain(word: str) -> list[tuple[str, str]]:
    """The merges that make a word from its letters, from the left."""
    letters = [*word[:-1], word[-1] + "</w>"]
    return [("".join(letters[:place]), letters[place]) for place in range(1, len(letters))]


def _ranked(chains: list[list[tuple[str, str]]], merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The merges in an order in which every chain runs through, as far as there is one.

    Of all pairs that a text holds the first in this order is merged. So a word's chain has to come before the merges
    that other words have for letters further on in it ("of" must not be found in "roof").
    """
    # Not sets: the order is to be the same in every process.
    after: dict[tuple[str, str], dict[tuple[str, str], None]] = {merge: {} for merge in merges}
    for chain in chains:
        letters = [chain[0][0], *(right for _, right in chain)] if chain else []
        for place in range(1, len(letters) - 1):
            other = (letters[place], letters[place + 1])
            if other in after:
                after[other].update(dict.fromkeys(merge for merge in chain[:place] if merge != other))
    try:
        return list(TopologicalSorter(after).static_order())
    except CycleError:
        return merges


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE, in GPT-2's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def toy_tokenizer() -> CLIPTokenizer:
    """One token for every word of the captions; other words fall into letters."""
    return word_tokenizer(caption_words(), max_length=32)
