"""What a training needs of the machine that it is started on: checked before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

from huggingface_hub import get_token

from ..errors import MVCustomError
from .optimization import optimizer_class
from .training_config import TrainingConfig

_SHARDING_ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def check_environment(config: TrainingConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Raises if settings ask for what is not there: packages, an access token, or one of accelerate's sharding engines.

    Raises:
        MVCustomError: naming the setting and what to do.
    """
    _check_engine(environment)
    optimizer_class(config.optimizer)
    trackers_of(config.report_to)
    if config.push_to_hub and get_token() is None:
        raise MVCustomError("push_to_hub: there is no access token; run `hf auth login` first, or set HF_TOKEN.")


def _check_engine(environment: Mapping[str, str]) -> None:
    """Raises under engines that shard weights or optimiser states.

    They have nothing to offer here, and cannot do it right. What is trained is small, so there is no optimiser state worth
    sharding, and the frozen weights of Stable Diffusion fit on any GPU. FeatureNeRF uses parts of the U-Net (its text
    attention) outside of the U-Net's own call, where such an engine has not put the shards together. And a
    process would hold only its part of what a checkpoint has to hold whole.

    Args:
        environment (mapping): Variables that `accelerate launch` sets from its configuration.
    """
    for variable, engine in _SHARDING_ENGINES.items():
        if environment.get(variable, "").lower() == "true":
            raise MVCustomError(
                f"accelerate: expected one process or data parallelism, the configuration says {engine}. What is trained "
                "is small, and what is frozen is not worth sharding: `accelerate launch --multi_gpu` (or "
                "docs/accelerate/several_gpus.yaml) trains on all GPUs; with too little memory on each, take "
                "--gradient_checkpointing --mixed_precision bf16 --train_batch_size 1."
            )


def trackers_of(name: str) -> str | None:
    """What accelerate is to log with, for the setting `report_to`.

    Raises:
        MVCustomError: if the tracker is unknown or not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name == "none":
        return None
    if name == "all":
        return name
    if name not in LOGGER_TYPE_TO_CLASS:
        raise MVCustomError(f"report_to: expected none, all or one of {sorted(LOGGER_TYPE_TO_CLASS)}, got {name!r}.")
    if name not in [str(tracker.value) for tracker in get_available_trackers()]:
        raise MVCustomError(f"report_to: {name} is not installed: pip install {name}, or --report_to none.")
    return name
