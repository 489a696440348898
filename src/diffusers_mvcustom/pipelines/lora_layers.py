"""The LoRA layers of a model: which adapters act, how strongly, and whether they are fused into the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peft.tuners.lora import LoraLayer
from torch import nn

LoraScalings = dict[str, float]
"""Strength of one adapter by the name of its layer."""


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Names and modules of a model's LoRA layers."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def active_loras(model: nn.Module) -> list[str]:
    """Names of the adapters that act, in order."""
    return next((list(layer.active_adapters) for _, layer in lora_layers(model)), [])


def set_active_loras(model: nn.Module, names: Sequence[str]) -> None:
    """Lets exactly these adapters act; their strengths stay as they are. Nothing of them is to be trained."""
    for _, layer in lora_layers(model):
        layer.set_adapter(list(names), inference_mode=True)


def fused_loras(model: nn.Module) -> list[str]:
    """Names of the adapters that `fuse_lora` has added to the weights."""
    return sorted({name for _, layer in lora_layers(model) for name in layer.merged_adapters})


def lora_scalings(model: nn.Module, adapter: str) -> LoraScalings:
    """How strong an adapter is, by layer."""
    return {name: layer.scaling[adapter] for name, layer in lora_layers(model) if adapter in layer.scaling}


def set_lora_scalings(model: nn.Module, adapter: str, scalings: Mapping[str, float]) -> None:
    """Makes an adapter as strong as it was when [`lora_scalings`] looked."""
    for name, layer in lora_layers(model):
        if name in scalings and adapter in layer.scaling:
            layer.scaling[adapter] = scalings[name]


@contextmanager
def lora_scaled(model: nn.Module, scale: float | None) -> Iterator[None]:
    """All adapters times `scale` for the length of the context, as `cross_attention_kwargs={"scale": scale}` has them.

    For what uses a model's layers outside of its own call.
    """
    if scale is None or scale == 1:
        yield
        return
    before = [(layer, dict(layer.scaling)) for _, layer in lora_layers(model)]
    try:
        for layer, scalings in before:
            layer.scaling.update({name: value * scale for name, value in scalings.items()})
        yield
    finally:
        for layer, scalings in before:
            layer.scaling.update(scalings)
