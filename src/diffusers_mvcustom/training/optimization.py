"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers.optimization import get_scheduler

from ..errors import MVCustomError


class OptimizerSettings(Protocol):
    """The settings that every trainer has for its optimiser."""

    optimizer: str
    learning_rate: float
    adam_beta1: float
    adam_beta2: float
    adam_weight_decay: float
    adam_epsilon: float
    lr_scheduler: str
    lr_warmup_steps: int
    lr_num_cycles: int
    lr_power: float
    max_train_steps: int


def make_optimizer(settings: OptimizerSettings, groups: list[dict]) -> torch.optim.Optimizer:
    """The chosen optimiser over groups of parameters, each with its `lr` and, if other, `weight_decay`.

    Raises:
        MVCustomError: if the optimiser's package is not installed.
    """
    options = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    if settings.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise MVCustomError("optimizer: adamw8bit needs bitsandbytes: pip install bitsandbytes.") from error
        return AdamW8bit(groups, **options)
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise MVCustomError("optimizer: prodigy needs prodigyopt: pip install prodigyopt.") from error
    return Prodigy(groups, **options, decouple=True, use_bias_correction=True, safeguard_warmup=True)


def make_lr_scheduler(settings: OptimizerSettings, optimizer: torch.optim.Optimizer):
    """The chosen schedule; it is to be stepped once an update of the weights."""
    return get_scheduler(
        settings.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
