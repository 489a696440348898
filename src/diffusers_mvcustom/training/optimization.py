"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..errors import MVCustomError
from .training_config import TrainingConfig


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The optimiser of that name: adamw, adamw8bit or prodigy.

    Raises:
        MVCustomError: if its package is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW
    try:
        if name == "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit
        from prodigyopt import Prodigy

        return Prodigy
    except ImportError as error:
        package = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}[name]
        raise MVCustomError(f"optimizer: {name} needs {package}: pip install {package}.") from error


def make_optimizer(settings: TrainingConfig, groups: list[dict]) -> torch.optim.Optimizer:
    """The chosen optimiser over groups of parameters, each with its `lr` and, if other, `weight_decay`.

    Raises:
        MVCustomError: if the optimiser's package is not installed.
    """
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    if settings.optimizer == "prodigy":
        options |= {"decouple": True, "use_bias_correction": True, "safeguard_warmup": True}
    return optimizer_class(settings.optimizer)(groups, **options)


def make_lr_scheduler(settings: TrainingConfig, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The chosen schedule; it is to be stepped once an update of the weights."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        settings.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
