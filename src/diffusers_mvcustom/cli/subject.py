"""`mvcustom subject ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .named_models import load_model

app = typer.Typer(help="Make subjects.", no_args_is_help=True)


@app.command("create")
def subject_create(
    capture: Annotated[Path, typer.Argument(help="Posed photos: transforms.json, COLMAP, CO3Dv2 (folder or file).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Subject folder to write.")],
    model: Annotated[
        str, typer.Option(help="Model folder or Hub id that the subject is for; toy is the shipped one.")
    ],
    token: Annotated[str, typer.Option(help="New token that names the subject, such as `<my-mug>`.")],
    class_noun: Annotated[str, typer.Option(help="What the subject is: mug, car, chair ...")],
    up: Annotated[tuple[float, float, float] | None, typer.Option(help="World up; estimated if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a subject that is there.")] = False,
) -> None:
    """Make an untrained subject from posed photos: it holds the references and changes nothing yet.

    Example: `mvcustom subject create posed/ -o out/untrained --model you/base --token "<my-mug>" --class-noun mug`
    """
    from ..cameras import load_capture, normalize_cameras
    from ..data.checks import check_cameras_of_capture
    from ..errors import MVCustomError
    from ..subjects import ReferenceViews, SubjectAdapter, initial_token_embedding
    from ..training.token_embedding import check_token_is_new

    if not overwrite and (output / "subject_config.json").exists():
        raise MVCustomError(
            f"output: {output} holds a subject, trained perhaps; replace it with --overwrite, or name another folder."
        )
    loaded = load_capture(capture)
    normalized, frame = normalize_cameras(loaded.cameras, up="auto" if up is None else up)
    check_cameras_of_capture(capture, normalized, loaded.names)
    references = ReferenceViews.from_capture(loaded.with_cameras(normalized))
    pipe = load_model(model)
    check_token_is_new(pipe.tokenizer, token)
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
