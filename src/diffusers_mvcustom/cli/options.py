"""Checks of options that several commands have, made before anything is loaded."""

from __future__ import annotations

import typer

LEAST_SEED, MOST_SEED = -(2**63), 2**64 - 1
"""What `torch.Generator.manual_seed` takes."""


def checked_seed(seed: int) -> int:
    """Raises for a seed that no generator takes."""
    if not LEAST_SEED <= seed <= MOST_SEED:
        raise typer.BadParameter(f"expected a whole number from {LEAST_SEED} to {MOST_SEED}, got {seed}")
    return seed


def checked_device(device: str | None) -> str | None:
    """Raises for a device that torch does not know, or that is not there."""
    if device is not None:
        import torch

        try:
            kind = torch.device(device).type
        except RuntimeError as error:
            raise typer.BadParameter(f"expected a device such as cpu, cuda or cuda:1, got {device!r}") from error
        found = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
        if kind in found and not found[kind].is_available():
            raise typer.BadParameter(f"there is no {kind} device here; leave --device out, or take cpu")
    return device
