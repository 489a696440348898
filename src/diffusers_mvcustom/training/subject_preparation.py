"""What is settled before a subject's training begins: its folder, size, class images, and what resuming must match."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import SubjectDataset
from ..errors import MVCustomError
from .class_images import IMAGE_SUFFIXES, generate_class_images, read_class_images
from .latent_cache import LatentCache, sampled_key
from .subject_batches import ClassViews
from .subject_training_config import SubjectTrainingConfig

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline

_FREE_TO_CHANGE = (
    *("model", "data", "output_dir", "motion_adapter", "revision", "variant", "offline"),  # contents count, not places
    *("class_data_dir", "cache_latents", "cache_dir", "resume_from_checkpoint"),
    *("checkpointing_steps", "checkpoints_total_limit", "gradient_checkpointing", "allow_tf32"),
    *("report_to", "tracker_project", "push_to_hub", "hub_model_id", "hub_private_repo"),
    *("train_batch_size", "gradient_accumulation_steps"),  # their product counts
)
"""Settings that do not change the weights a training ends with, and may be others when it is resumed."""


def resolution_of(config: SubjectTrainingConfig, pipe: MVCustomPipeline) -> int:
    """Side of the training crops in pixels.

    Raises:
        MVCustomError: if the model cannot take the resolution, or its parts are missing.
    """
    if pipe.vae is None or pipe.unet is None or pipe.text_encoder is None or pipe.tokenizer is None:
        raise MVCustomError("model: expected one with unet, vae, text_encoder and tokenizer.")
    factor = pipe.vae_scale_factor
    resolution = config.resolution or pipe.unet.config.sample_size * factor
    multiple = factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if resolution % multiple:
        below = max(multiple, resolution // multiple * multiple)
        raise MVCustomError(
            f"resolution: expected a multiple of {multiple} for this model, got {resolution}; try {below}."
        )
    return resolution


def fingerprint(
    config: SubjectTrainingConfig, dataset: SubjectDataset, pipe: MVCustomPipeline, samples_per_step: int
) -> dict[str, Any]:
    """What a checkpoint and the training that goes on from it must have in common, as JSON holds it.

    With a constant learning rate more steps are only more of the same, so their number may change.
    """
    values = {name: value for name, value in asdict(config).items() if name not in _FREE_TO_CHANGE}
    values = {name: value for name, value in values.items() if not name.startswith(("validation_", "num_validation"))}
    if config.lr_scheduler in ("constant", "constant_with_warmup"):
        del values["max_train_steps"]
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (dataset.views.images, dataset.views.masks, dataset.views.cameras.camera_to_world):
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().tobytes())
    models = {f"{name} weights": sampled_key(getattr(pipe, name)) for name in ("unet", "text_encoder", "vae")}
    return {**values, **models, "photos": digest.hexdigest(), "samples_per_step": samples_per_step}


def make_class_views(
    config: SubjectTrainingConfig,
    pipe: MVCustomPipeline,
    class_noun: str,
    latents: LatentCache,
    resolution: int,
    output: Path,
) -> ClassViews | None:
    """The class images: the user's, or as many as `num_class_images` made by the model; `None` if turned off."""
    if config.prior_probability == 0:
        return None
    text = config.class_prompt.replace("{noun}", class_noun)
    folder = Path(config.class_data_dir) if config.class_data_dir else output / "class_images"
    there = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()) if folder.is_dir() else 0
    if not config.class_data_dir and there < config.num_class_images:
        for part in (pipe.unet, pipe.text_encoder):  # and no depth estimator, which would stay there
            part.to(latents.vae.device)
        generate_class_images(pipe, folder, text, config.num_class_images, resolution, seed=config.seed)
    images, texts = read_class_images(folder, resolution, text)
    means, stds = latents.encode(images)
    return ClassViews(images, means, stds, texts)
