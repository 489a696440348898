"""Motion modules of another training, for the length of a generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import MotionAdapter
from torch import nn

from ...models.motion_transformer import fitting_motion_weights


@contextmanager
def motion_weights(unet: nn.Module, adapter: MotionAdapter | None) -> Iterator[None]:
    """Puts an adapter's weights in the place of the motion modules' own while it lasts; without one, nothing.

    Raises:
        MVCustomError: if the adapter is of another shape.
    """
    if adapter is None:
        yield
        return
    given, own = fitting_motion_weights(unet, adapter), unet.state_dict()  # whose tensors are the modules' own
    before = {name: own[name].clone() for name in given}
    try:
        with torch.no_grad():
            for name, weight in given.items():
                own[name].copy_(weight)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                own[name].copy_(weight)
