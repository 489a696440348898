"""`mvcustom demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import checked_device, checked_seed


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("out/demo"),
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 20,
    views: Annotated[int, typer.Option(help="Cameras on the arc.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", callback=checked_seed)] = 0,
    device: Annotated[
        str | None, typer.Option(help="By default cuda where there is one.", callback=checked_device)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model: folder or Hub id. Needs --subject.")] = None,
    subject: Annotated[str | None, typer.Option(help="Another subject of the model: folder or Hub id.")] = None,
) -> None:
    """See it work: a small model and a subject that ship with the package, two prompts, no download.

    The subject is generated from cameras on an arc for each prompt, with and without depth-aware feature rendering (DFR) and
    consistent-aware latent completion (CLC), from the same noise. Look at `overview.png` and `overview.gif` first.

    Example: `mvcustom demo -o out/demo --seed 3`
    """
    import torch

    from ..pipelines import MVCustomPipeline
    from ..toy.demo import check_output, run_demo
    from ..toy.shipped import shipped_folder

    if model is not None and subject is None:
        raise typer.BadParameter("--model: the shipped subject fits the shipped model only; name a --subject too")
    check_output(output)
    folders = (model or shipped_folder("toy"), subject or shipped_folder("toy-subject"))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = MVCustomPipeline.from_pretrained(folders[0], dtype=torch.float32).to(device)
    pipe.load_subject(folders[1])
    summary = run_demo(
        pipe, output, steps=steps, views=views, seed=seed, report=lambda line: typer.echo(line, err=True)
    )
    typer.echo(str(summary))
