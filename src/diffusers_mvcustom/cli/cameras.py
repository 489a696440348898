"""`mvcustom cameras ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at camera files and convert them.", no_args_is_help=True)


@app.command("show")
def cameras_show(
    file: Annotated[Path, typer.Argument(help="Camera file or capture of any supported format.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Plot to write; by default FILE's name + .png here.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Bring the cameras into the subject frame first.")] = False,
) -> None:
    """Summarise cameras and plot their frusta around the subject.

    Example: `mvcustom cameras show photos/transforms.json --normalize -o cameras.png`
    """
    from ..cameras import load_cameras, normalize_cameras, save_camera_plot

    cameras = load_cameras(file)
    if normalize:
        cameras, _ = normalize_cameras(cameras)
    output = output or Path(f"{file.stem}.png")
    save_camera_plot(output, cameras, title=file.name)
    fov = cameras.field_of_view.median(dim=0).values.tolist()
    distance = cameras.centers.norm(dim=-1)
    typer.echo(
        f"{len(cameras)} cameras of {cameras.width} × {cameras.height}, field of view {fov[0]:.1f}° × {fov[1]:.1f}°, "
        f"{distance.min():.3g} to {distance.max():.3g} from the origin → {output}"
    )


@app.command("convert")
def cameras_convert(
    file: Annotated[Path, typer.Argument(help="Camera file of any supported format.")],
    output: Annotated[Path, typer.Argument(help="File or folder to write.")],
    format: Annotated[str | None, typer.Option(help="Format to write; by default by the output's name.")] = None,
) -> None:
    """Convert cameras between file formats.

    Example: `mvcustom cameras convert sparse/0 transforms.json`
    """
    from ..cameras import load_cameras, save_cameras

    cameras = load_cameras(file)
    save_cameras(output, cameras, format=format)
    typer.echo(f"{len(cameras)} cameras → {output}")
