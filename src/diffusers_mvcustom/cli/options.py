"""Checks of options that several commands have, made before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

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


def parsed_window(text: str) -> int | dict[str, int | None] | None:
    """The setting of `set_attention_window` that a text names: `3`, `full`, or by size of feature map `8:full,16:3`.

    Raises:
        typer.BadParameter: for anything else.
    """
    from ..models import AttentionWindows

    pairs = [entry.split(":") for entry in text.split(",")]
    try:
        if len(pairs) == 1 and len(pairs[0]) == 1:
            setting = AttentionWindows(_one_window(text)).setting
        else:
            by_size = {size.strip(): _one_window(window) for size, window in pairs}
            if len(by_size) < len(pairs):
                raise ValueError("a size that is there twice")
            setting = AttentionWindows(by_size).setting
    except ValueError as error:
        raise typer.BadParameter(
            "--window: expected 1, an odd number or 'full', or one of these for each size of feature map, as in "
            f"8:full,16:3; got {text!r}"
        ) from error
    return dict(setting) if isinstance(setting, Mapping) else setting


def _one_window(text: str) -> int | None:
    return None if text.strip() == "full" else int(text)
