"""From the stages' checkpoints to a model folder that `MVCustomPipeline.from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNetMotionModel
from torch import nn

from ...errors import MVCustomError
from ...training import fresh_motion_adapter
from ..attribute_reader import AttributeReader
from ..tokenizer import toy_tokenizer
from .attribute_reader import reader_accuracy, reader_run
from .autoencoder import decoder_run, latent_autoencoder, reconstruction_psnr
from .depth_model import depth_error, depth_image_processor, depth_run
from .image_model import image_model_run, toy_scheduler
from .training_run import TrainingRun
from .view_store import ViewStore

HISTORY = "history.md"
"""Written by hand into the folder of the stages, for the card: what steps do not tell, such as settings that changed."""

ANY: dict[str, Any] = {"max_steps": 1, "batch_size": 1, "device": "cpu", "seed": 0}
"""Settings of a stage that is only read."""


def image_components(folder: Path, store: ViewStore, start_from: Path | None = None) -> dict[str, Any]:
    """The trained image model: `vae`, `text_encoder`, `unet` (2-D), `tokenizer`, `scheduler`.

    Args:
        folder (`Path`): Of the stages.
        store ([`ViewStore`]): What the autoencoder was trained on.
        start_from (`Path`, *optional*): Model folder that parts without a checkpoint are taken from.
    """
    vae = latent_autoencoder(folder, store, start_from, **ANY)
    if _has_checkpoints(folder / "decoder"):
        decoder_run(folder / "decoder", vae, **ANY).use_averaged_weights()
    images = image_model_run(folder / "images", **ANY, start_from=start_from)
    if start_from is None:
        _trained(images)
    images.use_averaged_weights()
    return {
        "vae": vae.eval(),
        "text_encoder": images.modules["text_encoder"],
        "unet": images.modules["unet"],
        "tokenizer": toy_tokenizer(),
        "scheduler": toy_scheduler(),
    }


def depth_components(folder: Path, start_from: Path | None = None) -> dict[str, Any]:
    """The trained `depth_estimator` and its `depth_image_processor`; nothing if there is none."""
    stored = start_from is not None and (start_from / "depth_estimator").is_dir()
    if not (stored or _has_checkpoints(folder / "depth")):
        return {}
    run = depth_run(folder / "depth", **ANY, start_from=start_from if stored else None)
    run.use_averaged_weights()
    return {"depth_estimator": run.modules["depth"], "depth_image_processor": depth_image_processor()}


def assemble(
    folder: Path,
    model: Path,
    *,
    motion_adapter: Path | None = None,
    start_from: Path | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes the model folder, with a card that says how it was made.

    Args:
        folder (`Path`): Of the stages.
        model (`Path`): Where to write.
        motion_adapter (`Path`, *optional*): Result of the backbone trainer; without it motion modules change nothing.
        start_from (`Path`, *optional*): Model folder that parts without a checkpoint are taken from.
        dtype (`torch.dtype`): Of the saved weights.
    """
    from ...pipelines import MVCustomPipeline
    from ...pipelines.attention_window import TrainedAttention, trained_attention

    store = ViewStore.at(folder / "views")
    held_out = ViewStore.at(folder / "validation-views")
    components = image_components(folder, store, start_from)
    vae: AutoencoderKL = components["vae"]
    unet2d = components.pop("unet")
    adapter = (
        fresh_motion_adapter(unet2d.config)
        if motion_adapter is None
        else MotionAdapter.from_pretrained(motion_adapter)
    )
    trained = trained_attention(None, adapter, saved=TrainedAttention(window=1, temporal_heads=0))
    components |= {"attention_window": trained.window, "temporal_heads": trained.temporal_heads}
    components["unet"] = UNetMotionModel.from_unet2d(unet2d, adapter)
    components |= depth_components(folder, start_from)
    measured = {"autoencoder PSNR on held-out scenes, dB": round(reconstruction_psnr(vae, held_out), 2)}
    if "depth_estimator" in components:
        error = depth_error(components["depth_estimator"], held_out)
        measured["depth, mean relative error on held-out scenes"] = round(error, 4)
    pipe = MVCustomPipeline(**components)
    pipe.to(dtype=dtype)
    pipe.save_pretrained(model)
    steps = {stage: _steps(folder / stage) for stage in ("text", "autoencoder", "decoder", "images", "depth")}
    history = (folder / HISTORY).read_text(encoding="utf-8") if (folder / HISTORY).is_file() else ""
    (model / "README.md").write_text(_card(pipe, steps, measured, motion_adapter, history), encoding="utf-8")


def assemble_reader(folder: Path, destination: Path) -> dict[str, float]:
    """Writes the attribute reader, with a card; returns the share of held-out views it reads right, by attribute."""
    run = _trained(reader_run(folder / "reader", **ANY))
    run.use_averaged_weights()
    reader = run.modules["reader"]
    assert isinstance(reader, AttributeReader)
    accuracy = reader_accuracy(reader, ViewStore.at(folder / "validation-views"))
    reader.half().save_pretrained(destination)
    lines = [
        "---",
        "license: apache-2.0",
        "---",
        "",
        "# Attribute reader of the toy world",
        "",
        "A small convolutional classifier that reads what captions say off a picture: the ruler for text alignment. Trained "
        f"for {run.step:,} steps of 32 views on scenes of a split of its own, which has every combination of attributes, "
        "and on those that images are trained on, where they are at hand. What a view does not show, or too small to tell, "
        "is neither learnt nor counted.",
        "",
        "| attribute | right on held-out views |",
        "|---|---|",
        *(f"| {name} | {share:.1%} |" for name, share in sorted(accuracy.items())),
        "",
    ]
    (destination / "README.md").write_text("\n".join(lines), encoding="utf-8")
    return accuracy


def _has_checkpoints(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir()


def _trained(run: TrainingRun) -> TrainingRun:
    if run.step == 0:
        raise MVCustomError(f"{run.folder}: this stage has no checkpoint yet; train it first.")
    return run


def _steps(folder: Path) -> int:
    states = sorted((folder / "checkpoints").glob("checkpoint-*/state.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(states[-1].read_text())["step"] if states else 0


def _card(
    pipe: Any, steps: dict[str, int], measured: dict[str, float], motion_adapter: Path | None, history: str
) -> str:
    sizes = {
        name: sum(weight.numel() for weight in part.parameters()) / 1e6
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
    }
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "tags: [diffusers, diffusers-mvcustom, multi-view]",
        "---",
        "",
        "# A small model of the toy world",
        "",
        "Trained from scratch, with nothing but pictures that `diffusers_mvcustom.toy` renders; 64 × 64 pixels, 16 × 16 "
        "latents. It knows the toy world's things, colours, grounds and times of day, and nothing else.",
        "",
        "| part | million weights |",
        "|---|---|",
        *(f"| {name} | {size:.2f} |" for name, size in sizes.items()),
        "",
        "| stage | steps |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in steps.items() if count),
        "",
        *(f"- {name}: {value}" for name, value in measured.items()),
        "",
        "Made by `python -m diffusers_mvcustom.toy.training` (views, autoencoder, images, depth, assemble)"
        + (" and `train_backbone.py` on its clips." if motion_adapter else "; the motion modules are untrained."),
        "",
        *([history.strip(), ""] if history else []),
    ]
    return "\n".join(lines)
