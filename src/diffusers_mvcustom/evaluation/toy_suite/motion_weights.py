"""Motion modules of another training, for the length of a generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import MotionAdapter
from torch import nn

from ...errors import MVCustomError


@contextmanager
def motion_weights(unet: nn.Module, adapter: MotionAdapter | None) -> Iterator[None]:
    """Puts an adapter's weights in the place of the motion modules' own while it lasts; without one, nothing.

    Raises:
        MVCustomError: if the adapter is of another shape.
    """
    if adapter is None:
        yield
        return
    own = {name: weight for name, weight in unet.named_parameters() if "motion_modules." in name}
    other = dict(adapter.named_parameters())
    if {name: weight.shape for name, weight in own.items()} != {name: weight.shape for name, weight in other.items()}:
        raise MVCustomError(
            f"adapter: it does not fit the model's motion modules: {len(other)} weights, of which "
            f"{sum(name in own and own[name].shape == weight.shape for name, weight in other.items())} have the shape of "
            f"one of the model's {len(own)}."
        )
    before = {name: weight.detach().clone() for name, weight in own.items()}
    try:
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(other[name])
        yield
    finally:
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(before[name])
