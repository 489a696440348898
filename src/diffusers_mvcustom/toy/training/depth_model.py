"""The toy model's depth estimator: a small Depth Anything, trained on exact depth."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

from .autoencoder import flipped
from .training_run import TrainingRun
from .view_store import ViewStore

MAX_DEPTH = 8.0
"""In units of the subject frame (the subject is at about 1); all that is farther counts as this far."""
EDGE_WEIGHT = 0.5


def new_depth_model(seed: int = 0) -> DepthAnythingForDepthEstimation:
    """An untrained metric depth model for 64 × 64 pixels, about 2 million weights."""
    backbone = Dinov2Config(
        image_size=64,
        patch_size=8,
        hidden_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        mlp_ratio=3,
        out_features=["stage2", "stage4", "stage6", "stage8"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DepthAnythingForDepthEstimation(
            DepthAnythingConfig(
                backbone_config=backbone,
                patch_size=8,
                reassemble_hidden_size=128,
                neck_hidden_sizes=[24, 32, 48, 64],
                fusion_hidden_size=32,
                head_in_index=-1,
                head_hidden_size=16,
                depth_estimation_type="metric",
                max_depth=10,
            )
        )


def depth_image_processor() -> DPTImageProcessor:
    """Resizes to the model's size and normalises to [-1, 1]."""
    return DPTImageProcessor(
        size={"height": 64, "width": 64},
        keep_aspect_ratio=False,
        ensure_multiple_of=8,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def depth_losses(predicted: Tensor, depth: Tensor) -> dict[str, Tensor]:
    """Error of the logarithm of depth and of its differences.

    Args:
        predicted (`torch.Tensor` of shape `(N, H, W)`), depth (`torch.Tensor` of shape `(N, H, W)`): z-depths.
    """
    depth = depth.clamp(max=MAX_DEPTH)
    error = predicted.clamp(min=1e-2).log() - depth.log()
    edges = sum(error.diff(dim=dim).abs().mean() for dim in (-1, -2))
    absolute = error.abs().mean()
    relative = ((predicted - depth).abs() / depth).detach().mean()
    return {"loss": absolute + EDGE_WEIGHT * edges, "log_error": absolute, "relative_error": relative}


def stored_depth_model(model: Path) -> DepthAnythingForDepthEstimation:
    """The depth model of a model folder, to train it further."""
    return DepthAnythingForDepthEstimation.from_pretrained(model / "depth_estimator", dtype=torch.float32)


def depth_run(
    folder: Path,
    *,
    max_steps: int,
    batch_size: int,
    device: str,
    seed: int,
    start_from: Path | None = None,
    max_seconds: float | None = None,
) -> TrainingRun:
    """The stage's training, to go on from its newest checkpoint, else from `start_from` (a model folder), else anew."""
    return TrainingRun(
        folder,
        {"depth": new_depth_model(seed) if start_from is None else stored_depth_model(start_from)},
        learning_rate=1e-3,
        max_steps=max_steps,
        batch_size=batch_size,
        ema_decay=0.998,
        device=device,
        seed=seed,
        save_every=250,
        max_seconds=max_seconds,
    )


def train_depth_model(run: TrainingRun, store: ViewStore) -> None:
    """Trains to the end."""
    model = run.modules["depth"]

    def loss(step: int, numbers: list[int]) -> dict[str, Tensor]:
        indices = torch.randint(len(store), (len(numbers),)).tolist()
        both = torch.cat([store.pixels(indices, run.device), store.depths(indices, run.device)[:, None]], dim=1)
        both = flipped(both)
        noise = torch.randn(both[:, :3].shape, device=run.device)  # generated pictures are not clean
        predicted = model(pixel_values=both[:, :3] + 0.05 * torch.rand(()).item() * noise).predicted_depth
        return depth_losses(predicted.float(), both[:, 3])

    run.train(loss)


@torch.no_grad()
def depth_error(model: DepthAnythingForDepthEstimation, store: ViewStore, views: int = 256) -> float:
    """Mean relative error of depth over the first views of a store, up to [`MAX_DEPTH`]."""
    errors, views = [], min(views, len(store))
    for start in range(0, views, 32):
        indices = list(range(start, min(start + 32, views)))
        depth = store.depths(indices).clamp(max=MAX_DEPTH).to(model.device)
        predicted = model(pixel_values=store.pixels(indices).to(model.device)).predicted_depth
        errors.append(((predicted - depth).abs() / depth).mean(dim=(1, 2)))
    return torch.cat(errors).mean().item()
