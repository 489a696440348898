"""The model that a trainer's settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .named_models import load_model, load_motion_adapter

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline
    from ..training.training_config import TrainingConfig


def load_training_model(config: TrainingConfig) -> MVCustomPipeline:
    """The pipeline that a training's `model` names, with its `motion_adapter`.

    Raises:
        MVCustomError: naming the model, if it cannot be loaded.
    """
    adapter = None
    if config.motion_adapter is not None:
        adapter = load_motion_adapter(config.motion_adapter, local_files_only=config.offline)
    given = {"revision": config.revision, "variant": config.variant, "local_files_only": config.offline}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    return load_model(config.model, adapter, **options)
