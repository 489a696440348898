"""`mvcustom toy`: pictures of the toy world, to try things out on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The toy world, to try things out on.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The toy world, to try things out on."""


@app.command()
def photos(
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not be there yet.")],
    split: Annotated[str, typer.Option(help="Whose subjects; the model knows those of train.")] = "unseen_subjects",
    index: Annotated[int, typer.Option(help="Which subject.")] = 0,
    count: Annotated[int, typer.Option(help="How many photos.")] = 30,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 64,
) -> None:
    """Render posed, masked and captioned photos of a subject: a prepared folder, as `mvcustom prepare` writes them.

    Example: `mvcustom toy photos out/photos --index 3`, then `mvcustom train-lora --config toy --data out/photos
    --output_dir out/training`
    """
    from ..data.output_folder import written_at_once
    from ..errors import MVCustomError
    from ..evaluation.toy_suite.cases import ToySubject
    from ..evaluation.toy_suite.subject_training import write_training_views
    from ..toy import describe
    from ..toy.splits import checked_split

    for name, value, least in (("count", count, 3), ("size", size, 16)):
        if value < least:
            raise typer.BadParameter(f"--{name}: expected at least {least}, got {value}")
    subject = ToySubject(checked_split(split), index)
    looks = describe(subject.training_scene().attributes)
    if output.exists():
        raise MVCustomError(f"{output}: is there already; name another folder.")
    with written_at_once(output) as partial:
        write_training_views(partial, subject, count, size)
    typer.echo(f"{count} photos of {looks} → {output}")
