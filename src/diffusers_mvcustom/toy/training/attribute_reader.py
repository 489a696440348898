"""Training of the attribute reader, on scenes of its own in which every combination of attributes occurs."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribute_reader import AttributeReader, text_alignment
from ..attributes import ATTRIBUTE_VALUES
from .autoencoder import flipped
from .training_run import TrainingRun
from .view_store import ViewStore


def reader_run(folder: Path, *, max_steps: int, batch_size: int, device: str, seed: int) -> TrainingRun:
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
    )


def train_reader(run: TrainingRun, store: ViewStore, reconstructions: Tensor | None = None) -> None:
    """Trains to the end.

    Args:
        run ([`TrainingRun`]): From [`reader_run`].
        store ([`ViewStore`]): Of the split `reader`.
        reconstructions (`torch.Tensor` of shape `(N, 3, H, W)`, *optional*, uint8): The store's first N views through
            the autoencoder, so that what an autoencoder does to a picture does not mislead.
    """
    reader = run.modules["reader"]
    labels = view_labels(store, range(len(store)))

    def loss(step: int, numbers: list[int]) -> dict[str, Tensor]:
        indices = torch.randint(len(labels["category"]), (len(numbers),))
        pixels = store.pixels(indices.tolist())
        if reconstructions is not None:
            through = (torch.rand(len(indices)) < 0.5) & (indices < len(reconstructions))
            pixels[through] = reconstructions[indices[through]].float() / 127.5 - 1
        pixels = degraded(shifted(flipped(pixels))).to(run.device)
        scores = reader(pixels / 2 + 0.5)
        truth = {name: label[indices].to(run.device) for name, label in labels.items()}
        losses = {name: answer_loss(name, scores[name].float(), truth) for name in scores}
        right = (scores["color"].argmax(-1) == truth["color"]).float().mean()
        return {"loss": sum(losses.values()), "right_colors": right}

    run.train(loss)


def answer_loss(name: str, scores: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Cross entropy; the kind of other objects counts only where there are any."""
    each = F.cross_entropy(scores, truth[name], reduction="none", label_smoothing=0.02)
    if name == "objects":
        some = truth["object_count"] > 0
        return (each * some).sum() / some.sum().clamp(min=1)
    return each.mean()


def view_labels(store: ViewStore, indices: range) -> dict[str, Tensor]:
    """Labels of a store's views, `(N,)` each. Of other objects those in view count."""
    rows = []
    for index in indices:
        attributes = store.attributes(index)
        rows.append(attributes.labels() | {"object_count": store.object_count(index)})
    return {name: torch.tensor([row[name] for row in rows]) for name in ATTRIBUTE_VALUES}


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
    """Share of a store's views whose attribute is read correctly, by attribute."""
    found, truth = [], []
    for start in range(0, min(views, len(store)), 32):
        indices = list(range(start, min(start + 32, views, len(store))))
        found += reader.read(store.pixels(indices).to(reader.device) / 2 + 0.5)
        for index in indices:
            attributes = vars(store.attributes(index)) | {"object_count": store.object_count(index)}
            if attributes["object_count"] == 0:
                del attributes["objects"]
            truth.append(attributes)
    return text_alignment(found, truth)
