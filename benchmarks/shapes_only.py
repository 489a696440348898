"""Models of random weights whose tensors have shapes and types but no memory behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def unwritten_components(size: str, dtype: torch.dtype, **options) -> dict:
    """Components as `random_components` makes them, of weights that were never written, which takes no time."""
    from diffusers_mvcustom.toy import random_components

    with torch.device("meta"):
        components = random_components(size, dtype=dtype, **options)
    for component in components.values():
        if isinstance(component, nn.Module):
            component.to_empty(device="cpu")
    components["scheduler"] = type(components["scheduler"]).from_config(components["scheduler"].config)
    return components


def let_go_of_memory(modules: Sequence[nn.Module], mode: FakeTensorMode) -> dict[nn.Parameter, nn.Parameter]:
    """Puts fake tensors in the places of all weights and buffers. Returns the new weights by the old ones."""
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for module in (part for model in modules for part in model.modules()):
        for name, weight in module._parameters.items():
            if weight is not None and weight not in replaced:
                replaced[weight] = nn.Parameter(mode.from_tensor(weight.detach()), weight.requires_grad)
            module._parameters[name] = replaced.get(weight)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else mode.from_tensor(buffer)
    return replaced
