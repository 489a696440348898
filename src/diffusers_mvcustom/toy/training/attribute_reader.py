"""Training of the attribute reader, on scenes in which every combination of attributes occurs, and more if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribute_reader import AttributeReader, text_alignment
from ..rendering import SHOWN
from .autoencoder import flipped
from .training_run import TrainingRun
from .view_store import ViewStore


def reader_run(
    folder: Path, *, max_steps: int, batch_size: int, device: str, seed: int, max_seconds: float | None = None
) -> TrainingRun:
    """The stage's training, to go on from its newest checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = AttributeReader()
    return TrainingRun(
        folder,
        {"reader": reader},
        learning_rate=1e-3,
        max_steps=max_steps,
        batch_size=batch_size,
        ema_decay=0.998,
        weight_decay=0.05,
        decay_from=0.3,
        device=device,
        seed=seed,
        save_every=500,
        max_seconds=max_seconds,
    )


def train_reader(run: TrainingRun, stores: Sequence[ViewStore]) -> None:
    """Trains to the end.

    Args:
        run ([`TrainingRun`]): From [`reader_run`].
        stores (sequence of [`ViewStore`]): All views are learnt from alike: those of the split `reader`, and of others.
    """
    reader = run.modules["reader"]
    places = [(store, index) for store in stores for index in range(len(store))]
    each = [view_labels(store, range(len(store))) for store in stores]
    labels = {name: torch.cat([one[name] for one in each]) for name in each[0]}

    def loss(step: int, numbers: list[int]) -> dict[str, Tensor]:
        indices = torch.randint(len(places), (len(numbers),))
        pixels = torch.cat([store.pixels([index]) for store, index in (places[i] for i in indices.tolist())])
        pixels = degraded(shifted(flipped(pixels))).to(run.device)
        scores = reader(pixels / 2 + 0.5)
        truth = {name: label[indices].to(run.device) for name, label in labels.items()}
        losses = {name: answer_loss(name, scores[name].float(), truth) for name in scores}
        right = (scores["color"].argmax(-1) == truth["color"]).float().mean()
        return {"loss": sum(losses.values()), "right_colors": right}

    run.train(loss)


def answer_loss(name: str, scores: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Cross entropy where there is something to see: of other objects where there are any, of the subject's pattern and
    second colour where enough of them shows.
    """
    each = F.cross_entropy(scores, truth[name], reduction="none", label_smoothing=0.02)
    if name == "objects":
        some = truth["object_count"] > 0
    elif name in SHOWN:
        some = truth[f"{name} shows"]
    else:
        return each.mean()
    return (each * some).sum() / some.sum().clamp(min=1)


def view_labels(store: ViewStore, indices: range) -> dict[str, Tensor]:
    """Labels of a store's views, `(N,)` each. Of other objects those in view count; `"pattern shows"` and
    `"second_color shows"` say where those can be seen.
    """
    rows = []
    for index in indices:
        labels = store.attributes(index).labels() | {"object_count": store.object_count(index)}
        unseen = store.unseen(index)
        rows.append(labels | {f"{name} shows": name not in unseen for name in SHOWN})
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


SHIFT = 4
"""Pixels by which a picture is moved at most."""


def shifted(pixels: Tensor) -> Tensor:
    """Every picture `(N, C, H, W)` moved by up to [`SHIFT`] pixels each way, its border repeated."""
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (SHIFT,) * 4, mode="replicate")
    places = torch.randint(2 * SHIFT + 1, (len(pixels), 2)).tolist()
    return torch.stack([view[:, y : y + height, x : x + width] for view, (y, x) in zip(padded, places)])


def degraded(pixels: Tensor) -> Tensor:
    """Some of the pictures blurred, and all with a little noise: generated pictures are not clean."""
    blurred = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear", align_corners=False)
    share = torch.rand(len(pixels), 1, 1, 1) * (torch.rand(len(pixels), 1, 1, 1) < 0.5)
    contrast = 1 + 0.1 * torch.randn(len(pixels), 1, 1, 1)
    noise = 0.04 * torch.rand(len(pixels), 1, 1, 1) * torch.randn(pixels.shape)
    return ((pixels + share * (blurred - pixels)) * contrast + noise).clamp(-1, 1)


@torch.no_grad()
def reader_accuracy(reader: AttributeReader, store: ViewStore, views: int = 512) -> dict[str, float]:
    """Share of a store's views whose attribute is read correctly, by attribute, where it can be seen."""
    found, truth = [], []
    for start in range(0, min(views, len(store)), 32):
        indices = list(range(start, min(start + 32, views, len(store))))
        found += reader.read(store.pixels(indices).to(reader.device) / 2 + 0.5)
        for index in indices:
            attributes = vars(store.attributes(index)) | {"object_count": store.object_count(index)}
            unseen = store.unseen(index) | ({"objects"} if attributes["object_count"] == 0 else set())
            truth.append({name: value for name, value in attributes.items() if name not in unseen})
    return text_alignment(found, truth)
