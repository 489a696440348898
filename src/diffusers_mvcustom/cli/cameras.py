"""`mvcustom cameras ...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import in_options

if TYPE_CHECKING:
    from ..cameras import Cameras

app = typer.Typer(help="Look at camera files and convert them.", no_args_is_help=True)

_Height = Annotated[
    int | None, typer.Option(min=1, help="Image height; cameras of another size are resized and cropped.")
]
_Width = Annotated[
    int | None, typer.Option(min=1, help="Image width; needed, as the height, where the file has none.")
]
_Convention = Annotated[
    str | None,
    typer.Option(
        help="Axes of the poses in a JSON file, if they are not OpenGL's: opencv, opencv_w2c (world-to-camera) or pytorch3d."
    ),
]


@app.command("show")
def cameras_show(
    file: Annotated[Path, typer.Argument(help="Camera file or capture of any supported format.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Plot to write; by default FILE's name + .png here.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Bring the cameras into the subject frame first.")] = False,
    height: _Height = None,
    width: _Width = None,
    convention: _Convention = None,
) -> None:
    """Summarise cameras and plot their frusta around the subject. Warns of cameras that do not look at it.

    Example: `mvcustom cameras show posed/transforms.json --normalize -o cameras.png`
    """
    from ..cameras import load_cameras, normalize_cameras, save_camera_plot

    given = load_cameras(file, height=height, width=width, convention=convention)
    given = given.cover(height or given.height, width or given.width)
    cameras = normalize_cameras(given)[0] if normalize else given
    output = output or Path(f"{file.stem}.png")
    save_camera_plot(output, cameras, title=file.name)
    fov = cameras.field_of_view.median(dim=0).values.tolist()
    distance = cameras.centers.norm(dim=-1)
    for doubt in _doubts(given):
        typer.echo(f"warning: {file}: {doubt}", err=True)
    typer.echo(
        f"{len(cameras)} cameras of {cameras.width} × {cameras.height}, field of view {fov[0]:.1f}° × {fov[1]:.1f}°, "
        f"{distance.min():.3g} to {distance.max():.3g} from the origin → {output}"
    )


@app.command("convert")
def cameras_convert(
    file: Annotated[Path, typer.Argument(help="Camera file of any supported format.")],
    output: Annotated[Path, typer.Argument(help="File or folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="Format to write: transforms_json, colmap (.bin), colmap_text or real_estate10k; by default by the output's "
            "name: .json, a folder, or .txt."
        ),
    ] = None,
    height: _Height = None,
    width: _Width = None,
    convention: _Convention = None,
) -> None:
    """Convert cameras between file formats.

    Examples:

    `mvcustom cameras convert sparse/0 transforms.json`

    A transforms.json that was written with OpenCV axes: `mvcustom cameras convert theirs.json mine.json --convention opencv`
    """
    from ..cameras import load_cameras, load_capture, save_cameras

    before = load_cameras(file, height=height, width=width, convention=convention)
    cameras = before.cover(height or before.height, width or before.width)
    names, masks = None, None
    if (cameras.height, cameras.width) == (before.height, before.width):  # else they are no cameras of these photos
        capture = load_capture(file, height=height, width=width, convention=convention)
        beside = _paths_from(output.resolve().parent, capture.image_paths)
        names = [path or name for path, name in zip(beside, capture.names)]
        masks = _paths_from(output.resolve().parent, capture.mask_paths)
    save_cameras(output, cameras, format=format, names=names, mask_names=masks)
    typer.echo(f"{len(cameras)} cameras → {output}")


def _paths_from(folder: Path, paths: Sequence[Path | None]) -> list[str | None]:
    """Paths from a folder, of those that lie there or in folders of it."""
    resolved = [None if path is None else path.resolve() for path in paths]
    return [
        path.relative_to(folder).as_posix() if path is not None and path.is_relative_to(folder) else None
        for path in resolved
    ]


def _doubts(cameras: Cameras) -> list[str]:
    """What speaks against these cameras being those of a capture."""
    from ..cameras import cameras_looking_elsewhere, normalize_cameras
    from ..errors import CamerasError, enumerated

    try:
        normalized, _ = normalize_cameras(cameras, up=None)
    except CamerasError:
        return []  # a single camera, or a path that does not turn: there is no point that they could miss
    try:
        strays = cameras_looking_elsewhere(normalized)
    except CamerasError as error:
        return [in_options(str(error))]
    if not strays:
        return []
    return [
        f"{len(strays)} of {len(cameras)} cameras do not look at the point that the axes have in common: "
        f"{enumerated(map(str, strays))}, counted from 0. Wrong poses?"
    ]
