"""`mvcustom random-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import checked_seed


def random_model(
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    size: Annotated[str, typer.Option(help="tiny, or sd15 for the shapes of Stable Diffusion 1.5.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the weights.", callback=checked_seed)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
) -> None:
    """Write a model with random weights: its views are noise, everything else about it is real.

    Example: `mvcustom random-model random-tiny/`
    """
    from ..errors import MVCustomError
    from ..pipelines import MVCustomPipeline
    from ..toy import random_components
    from ..toy.random_models import checked_size

    if not overwrite and (output / "model_index.json").exists():
        raise MVCustomError(f"output: {output} holds a model; replace it with --overwrite, or name another folder.")
    MVCustomPipeline(**random_components(checked_size(size), seed=seed)).save_pretrained(output)
    typer.echo(f"random {size} model → {output}")
