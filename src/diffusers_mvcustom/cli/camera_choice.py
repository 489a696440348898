"""The cameras of `mvcustom generate`: its options for them, and the cameras that they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MVCustomError

if TYPE_CHECKING:
    from ..cameras import Cameras
    from ..subjects import SubjectAdapter

_MOST_VIEWS = 10_000
_PANEL = "Cameras"

_ALONG: dict[str, tuple[str, ...]] = {
    "orbit": ("azimuth", "elevation", "rise"),
    "arc": ("azimuth", "elevation", "rise"),
    "spiral": ("azimuth", "elevation", "rise"),
    "lemniscate": ("azimuth", "elevation"),
    "dolly": ("azimuth", "elevation", "distance"),
    "zoom": ("azimuth", "elevation", "factor"),
    "dolly_zoom": ("azimuth", "elevation", "distance"),
    "translate": ("azimuth", "elevation", "offset"),
}
"""The options that each path looks at, beside those of `_LENS`."""
_LENS = ("radius", "target", "field_of_view")
_SPIRAL_ELEVATION, _SPIRAL_RISE = 0.0, 50.0
_ORBIT_ELEVATION = 20.0
"""The values of [`Cameras.spiral`] and [`Cameras.orbit`], for a spiral or an orbit of which only the other one is given."""


def _count(help: str) -> Any:
    return typer.Option(min=1, max=_MOST_VIEWS, help=help, rich_help_panel=_PANEL)


def _setting(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=_PANEL)


CameraFile = Annotated[
    str | None,
    _setting(
        "File of cameras: transforms.json, nerfstudio's camera_path.json, COLMAP, RealEstate10K; or 'references' for the "
        "subject's own."
    ),
]
CamerasFrame = Annotated[
    str, _setting("World of the cameras in the file: subject (the subject frame), or user for that of its photos.")
]
Interpolate = Annotated[
    int | None, _count("Number of views on a smooth path through the cameras of the file, its key cameras.")
]
Orbit = Annotated[int | None, _count("Number of views on an orbit, a full turn without --azimuth.")]
Arc = Annotated[int | None, _count("Number of views on an arc, from -45° to 45° without --azimuth.")]
Spiral = Annotated[int | None, _count("Number of views on a spiral, a turn that rises from 0° to 50°.")]
Lemniscate = Annotated[int | None, _count("Number of views on a figure of eight, from -30° to 30° without --azimuth.")]
Dolly = Annotated[int | None, _count("Number of views on a straight line towards the subject.")]
Zoom = Annotated[int | None, _count("Number of views from one place, zooming in.")]
DollyZoom = Annotated[
    int | None, _count("Number of views on a line towards the subject, zooming out so that it keeps its size.")
]
Translate = Annotated[int | None, _count("Number of views on a straight line sideways, without turning.")]
Azimuth = Annotated[
    tuple[float, float] | None,
    _setting(
        "First and last azimuth, degrees; for a spiral, 0 540 is a turn and a half. Dolly, zoom, dolly zoom and translate "
        "stay at one: give it twice."
    ),
]
Elevation = Annotated[
    float | None,
    _setting("Elevation, degrees; where the path starts if it rises. By default 20, a lemniscate's 15, a spiral's 0."),
]
Rise = Annotated[float | None, _setting("Degrees that an orbit, arc or spiral rises from first to last.")]
Distance = Annotated[
    tuple[float, float] | None,
    _setting("First and last distance of a dolly or dolly zoom, in radii. By default 1.3 0.8."),
]
Factor = Annotated[
    tuple[float, float] | None, _setting("First and last factor of a zoom to the focal length. By default 1 2.")
]
Offset = Annotated[
    tuple[float, float, float] | None,
    _setting("Move of --translate: right, up, back. By default 0.4 0 0."),
]
Radius = Annotated[
    float | None, _setting("Distance of a path to its target; by default the subject's photos', 1 without a subject.")
]
Target = Annotated[
    tuple[float, float, float] | None, _setting("Point that a path looks at. By default the subject's middle, 0 0 0.")
]
FieldOfView = Annotated[
    float | None,
    _setting("Vertical field of view of a path, degrees; by default the photos', 50 without a subject."),
]
Views = Annotated[int | None, _count("Keep this many of the cameras, evenly spread.")]
_SIDE = {"min": 1, "rich_help_panel": _PANEL}
Height = Annotated[int | None, typer.Option(help="Height of the views; by default the model's size.", **_SIDE)]
Width = Annotated[int | None, typer.Option(help="Width of the views; by default the model's size.", **_SIDE)]


@dataclass(frozen=True)
class CameraChoice:
    """What the options say about the cameras; each field is the option of its name.

    Which cameras they are depends on the subject: its own, or those of paths with the lens and distance of its photos.
    """

    cameras: str | None = None
    cameras_frame: str = "subject"
    interpolate: int | None = None
    orbit: int | None = None
    arc: int | None = None
    spiral: int | None = None
    lemniscate: int | None = None
    dolly: int | None = None
    zoom: int | None = None
    dolly_zoom: int | None = None
    translate: int | None = None
    azimuth: tuple[float, float] | None = None
    elevation: float | None = None
    rise: float | None = None
    distance: tuple[float, float] | None = None
    factor: tuple[float, float] | None = None
    offset: tuple[float, float, float] | None = None
    radius: float | None = None
    target: tuple[float, float, float] | None = None
    field_of_view: float | None = None
    views: int | None = None
    height: int | None = None
    width: int | None = None

    def check(self) -> None:
        """Finds out what can be wrong without a model: options that contradict each other, paths and files.

        Raises:
            typer.BadParameter: for options that do not go together.
            MVCustomError: for numbers that give no path, or a file that cannot be read.
        """
        sources = [name for name in ("cameras", *_ALONG) if getattr(self, name) is not None]
        if len(sources) != 1:
            raise typer.BadParameter(
                f"expected one of {_options(('cameras', *_ALONG))}, got {_options(sources) or 'none'}"
            )
        source = sources[0]
        if self.cameras_frame not in ("subject", "user"):
            raise typer.BadParameter(f"--cameras-frame: expected subject or user, got {self.cameras_frame!r}")
        if self.cameras_frame == "user" and self.cameras in (None, "references"):
            raise typer.BadParameter(
                "--cameras-frame: says which world the cameras of a file are in; give --cameras FILE"
            )
        known = ("interpolate",) if source == "cameras" else (*_ALONG[source], *_LENS)
        every = {"interpolate", *_LENS, *(name for names in _ALONG.values() for name in names)}
        unknown = sorted(name for name in every.difference(known) if getattr(self, name) is not None)
        if unknown:
            raise typer.BadParameter(
                f"{_options(unknown)}: not for {_options([source])}, which takes {_options(known)}"
            )
        if source != "cameras":
            self._path(source, None, self.height or 64, self.width or 64)
        elif self.cameras != "references":
            self._from_file()

    def of(self, subject: SubjectAdapter | None, side: int) -> Cameras:
        """The cameras in the subject frame.

        Args:
            subject ([`SubjectAdapter`], *optional*): The subject in the pipeline.
            side (`int`): Height and width of the views where the options say none.

        Raises:
            MVCustomError: if they need a subject, or one that knows the world of its photos, and there is none.
        """
        import torch

        height, width = self.height or side, self.width or side
        references = None if subject is None else subject.references.cameras
        if self.cameras is None:
            path = next(name for name in _ALONG if getattr(self, name) is not None)
            cameras = self._path(path, None if references is None else references.cover(height, width), height, width)
        elif self.cameras != "references":
            cameras = self._from_file()
            if self.cameras_frame == "user":
                frame = None if subject is None else subject.config.subject_frame
                if frame is None:
                    raise MVCustomError(
                        "cameras_frame: 'user' is the world of a subject's photos; name a --subject that knows it."
                    )
                cameras = frame.to_subject(cameras)
        elif references is not None:
            cameras = self._interpolated(references)
        else:
            raise MVCustomError("cameras: 'references' are the subject's own cameras; name a --subject.")
        cameras = cameras.cover(height, width)
        if self.views is not None:
            count = min(self.views, len(cameras))
            cameras = cameras[torch.linspace(0, len(cameras) - 1, count).round().long()]
        return cameras

    def _from_file(self) -> Cameras:
        from ..cameras import load_cameras

        assert self.cameras is not None
        return self._interpolated(load_cameras(self.cameras, height=self.height, width=self.width))

    def _interpolated(self, keys: Cameras) -> Cameras:
        from ..cameras import Cameras

        return keys if self.interpolate is None else Cameras.interpolate(keys, self.interpolate)

    def _path(self, path: str, like: Cameras | None, height: int, width: int) -> Cameras:
        from ..cameras import Cameras

        given: dict[str, Any] = {"like": like, "height": height, "width": width}
        for name in (*_LENS, "distance", "factor", "offset"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        if (elevation := self._elevation(path)) is not None:
            given["elevation"] = elevation
        if self.azimuth is not None:
            given |= _azimuths(path, *self.azimuth)
        return getattr(Cameras, path)(getattr(self, path), **given)

    def _elevation(self, path: str) -> float | tuple[float, float] | None:
        if path != "spiral" and self.rise is None:
            return self.elevation
        if self.elevation is None and self.rise is None:
            return None
        default = (_SPIRAL_ELEVATION, _SPIRAL_RISE) if path == "spiral" else (_ORBIT_ELEVATION, 0.0)
        first, rise = (
            given if given is not None else value for given, value in zip((self.elevation, self.rise), default)
        )
        if not -90 <= first + rise <= 90:
            raise MVCustomError(
                f"--elevation, --rise: expected a path that stays between -90° and 90°, got one that rises from {first:g}° "
                f"by {rise:g}°{' (as a spiral does without --rise)' if self.rise is None else ''}."
            )
        return first, first + rise


def _azimuths(path: str, first: float, last: float) -> dict[str, Any]:
    """The arguments of a path that leads from the first to the last azimuth."""
    if path in ("orbit", "arc"):
        return {"azimuth": (first, last)}
    if path == "spiral":
        return {"azimuth": first, "turns": (last - first) / 360}
    if path == "lemniscate":
        return {"azimuth": (first + last) / 2, "degrees": (last - first) / 2}
    if first != last:
        raise MVCustomError(
            f"--azimuth: --{path.replace('_', '-')} stays at one azimuth, which is given twice, as in --azimuth 30 30; got "
            f"{first:g} {last:g}."
        )
    return {"azimuth": first}


def _options(names: Any) -> str:
    """The options of these names, as the command has them."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
