"""`mvcustom subject ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make and inspect subjects.", no_args_is_help=True)


@app.command("create")
def subject_create(
    capture: Annotated[Path, typer.Argument(help="Posed photos: transforms.json, COLMAP, CO3Dv2 (folder or file).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Subject folder to write.")],
    model: Annotated[str, typer.Option(help="Model folder or Hub id that the subject is for.")],
    token: Annotated[str, typer.Option(help="New token that names the subject, such as '<my-mug>'.")],
    class_noun: Annotated[str, typer.Option(help="What the subject is: mug, car, chair ...")],
    up: Annotated[tuple[float, float, float] | None, typer.Option(help="World up; estimated if not given.")] = None,
) -> None:
    """Make an untrained subject from posed photos: it holds the references and changes nothing yet.

    Example: `mvcustom subject create photos/ -o my-mug/ --model you/base --token "<my-mug>" --class-noun mug`
    """
    from ..cameras import load_capture, normalize_cameras
    from ..pipelines import MVCustomPipeline
    from ..subjects import ReferenceViews, SubjectAdapter, initial_token_embedding

    loaded = load_capture(capture)
    normalized, frame = normalize_cameras(loaded.cameras, up="auto" if up is None else up)
    references = ReferenceViews.from_capture(loaded.with_cameras(normalized))
    pipe = MVCustomPipeline.from_pretrained(model)
    adapter = SubjectAdapter.create(
        pipe.unet,
        references,
        token=token,
        class_noun=class_noun,
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, class_noun),
        subject_frame=frame,
        base_model=model,
    )
    adapter.save_pretrained(output)
    typer.echo(f"{len(references)} reference views of {references.width} × {references.height}, untrained → {output}")
