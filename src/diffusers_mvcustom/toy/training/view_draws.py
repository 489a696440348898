"""Which views a step of the image model's training sees and what is said of them, drawn ahead of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...training.sampling import derived_seed
from ..tokenizer import toy_tokenizer
from .view_store import ViewStore

TEXT_DROPOUT = 0.1
OBJECT_WEIGHT = 3.0
"""How much more often a view is trained on for each of the other objects that it shows."""


@dataclass(frozen=True)
class Drawn:
    """The samples of a step.

    Args:
        samples (list of `int`): Of a [`LatentStore`]: view `i` is sample `2 i`, its mirror image sample `2 i + 1`.
        token_ids (`torch.Tensor` of shape `(N, L)`, int64): Their captions; some are empty.
    """

    samples: list[int]
    token_ids: Tensor  # [N, L]


class ViewDraws(Dataset):
    """The samples of each step. They follow from the seed, the step and the views rendered by then.

    Args:
        views (`Path`): Folder of the view store. It may still be filled by another process.
        batch_size (`int`): Samples a step.
        max_steps (`int`): How many steps there are.
        seed (`int`): Of the draws.
    """

    def __init__(self, views: Path, batch_size: int, max_steps: int, seed: int) -> None:
        self.views, self.batch_size, self.max_steps, self.seed = views, batch_size, max_steps, seed
        self._store: ViewStore | None = None
        self._often = torch.empty(0)

    def __len__(self) -> int:
        return self.max_steps

    def __getitem__(self, step: int) -> Drawn:
        if self._store is None:  # opened by the process that reads: memory maps are not handed over
            self._store, self._tokenizer = ViewStore.at(self.views), toy_tokenizer()
        store = self._store
        if len(self._often) != len(store):
            self._often = view_weights(store)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "views", step))
        views = torch.multinomial(self._often, self.batch_size, replacement=True, generator=generator)
        samples = 2 * views + torch.randint(2, views.shape, generator=generator)  # half of them mirrored
        dropped = (torch.rand(len(views), generator=generator) < TEXT_DROPOUT).tolist()
        first = step * self.batch_size
        texts = [
            "" if drop else store.caption(view, first + number)
            for number, (view, drop) in enumerate(zip(views.tolist(), dropped))
        ]
        tokens = self._tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return Drawn(samples.tolist(), tokens.input_ids)

    def ahead(self, first: int, workers: int) -> DataLoader:
        """An iterable over the steps from `first` on, drawn ahead by so many processes; by none, one at a time."""
        steps = range(first, self.max_steps)
        return DataLoader(self, batch_size=None, sampler=steps, num_workers=workers)


def view_weights(store: ViewStore) -> Tensor:
    """How often the views `(N,)` rendered so far are trained on, in relation to each other: more where objects show.

    Only a quarter of the views show any of the other objects and one in forty two of them, each in a few dozen pixels;
    drawn evenly, the words for them are hardly ever practised. Captions say what is in view, so what they mean stays.
    """
    return 1 + OBJECT_WEIGHT * torch.from_numpy(store.object_counts().astype(np.float32))
