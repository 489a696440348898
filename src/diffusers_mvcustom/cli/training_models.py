"""The model that a trainer's settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline
    from ..training.training_config import TrainingConfig


def load_training_model(config: TrainingConfig) -> MVCustomPipeline:
    """The pipeline of a model folder or Hub id; `tiny` and `sd15` are models of random weights, to try a trainer with.

    Raises:
        MVCustomError: naming the model, if it cannot be loaded.
    """
    from diffusers import MotionAdapter

    from ..errors import MVCustomError
    from ..pipelines import MVCustomPipeline

    adapter = None
    if config.motion_adapter is not None:
        try:
            adapter = MotionAdapter.from_pretrained(config.motion_adapter, local_files_only=config.offline)
        except (OSError, ValueError) as error:
            raise MVCustomError(f"motion_adapter: {config.motion_adapter} cannot be loaded: {error}") from error
    if config.model in ("tiny", "sd15"):
        from ..toy import random_components
        from ..toy.random_models import checked_size

        pipe = MVCustomPipeline(**random_components(checked_size(config.model), seed=0))
        if adapter is not None:
            pipe.load_motion_adapter(adapter)
        return pipe
    options = {"revision": config.revision, "variant": config.variant, "local_files_only": config.offline}
    options = {name: value for name, value in options.items() if value}
    try:
        if adapter is not None:
            options["motion_adapter"] = adapter
        return MVCustomPipeline.from_pretrained(config.model, **options)
    except MVCustomError:
        raise
    except (OSError, ValueError) as error:
        raise MVCustomError(f"model: {config.model} cannot be loaded: {error}") from error
