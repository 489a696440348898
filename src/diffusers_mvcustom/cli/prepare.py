"""`mvcustom prepare`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of photos, video, or posed capture (transforms.json, COLMAP, CO3Dv2, Polycam)."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    class_noun: Annotated[str | None, typer.Option(help="What the subject is: mug, car, chair ...")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="New word that names the subject, such as `<my-mug>`. Kept in the folder, for training."),
    ] = None,
    masks: Annotated[
        str,
        typer.Option(
            help="auto (the capture's, else alpha channels, else none), required, none, rembg, or a folder with a mask of "
            "each photo's name (white is the subject)."
        ),
    ] = "auto",
    caption: Annotated[
        str | None,
        typer.Option(
            help="Text of photos without a .txt file of their name: 'a photo of a {token} {noun}'. Without both, training "
            "uses its own prompts."
        ),
    ] = None,
    up: Annotated[tuple[float, float, float] | None, typer.Option(help="World up; estimated if not given.")] = None,
    max_size: Annotated[int, typer.Option(help="Longer side of the prepared photos at most, in pixels.")] = 1024,
    sequence: Annotated[str | None, typer.Option(help="Sequence of a CO3Dv2 file.")] = None,
    frames: Annotated[int, typer.Option(help="How many frames of a video to take.")] = 40,
    features_in_masks: Annotated[
        bool,
        typer.Option(
            "--features-in-masks", help="The subject was turned (turntable): find cameras by it alone. Needs masks."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that was prepared before.")] = False,
) -> None:
    """From photos to a folder that training takes: cameras, masks, captions, subject frame.

    Nothing of yours is changed, and running it again is safe.

    Examples:

    `mvcustom prepare photos/ -o my-mug/ --token "<my-mug>" --class-noun mug`

    `mvcustom prepare photos/ -o my-mug/ --class-noun mug --masks rembg --caption "a photo of a {token} {noun} on a table"`

    `mvcustom prepare walk.mp4 -o my-mug/ --class-noun mug --frames 30`

    `mvcustom prepare posed/transforms.json -o my-mug/ --class-noun mug --masks posed/masks/`
    """
    from ..data import prepare_subject

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        done = prepare_subject(
            source,
            output,
            class_noun=class_noun,
            token=token,
            masks=masks,
            caption=caption,
            up="auto" if up is None else up,
            max_size=max_size,
            sequence=sequence,
            frames=frames,
            features_in_masks=features_in_masks,
            overwrite=overwrite,
            report=typer.echo,
        )
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            typer.echo(f"warning: {' '.join(str(warning.message).split())}", err=True)
    typer.echo(str(done))
