"""Camera paths as sliders have them: a preset and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..cameras import Cameras
from ..cameras.trajectories import ViewOptions
from ..errors import MVCustomError

PRESETS: dict[str, tuple[str, ...]] = {
    "arc": ("azimuth", "span", "elevation", "distance"),
    "orbit": ("azimuth", "elevation", "distance"),
    "spiral": ("azimuth", "span", "elevation", "rise", "distance"),
    "lemniscate": ("azimuth", "span", "elevation", "distance"),
    "dolly": ("azimuth", "elevation", "distance", "change"),
    "zoom": ("azimuth", "elevation", "distance", "change"),
    "dolly zoom": ("azimuth", "elevation", "distance", "change"),
    "sideways": ("azimuth", "elevation", "distance", "shift"),
    "reference cameras": (),
}
"""The numbers that each preset looks at, beside the number of views."""


@dataclass(frozen=True)
class CameraPath:
    """One camera path.

    Args:
        preset (`str`): A name of `PRESETS`.
        views (`int`): Number of cameras.
        azimuth (`float`): Degrees; the middle of an arc and a lemniscate, the start of an orbit and a spiral.
        span (`float`): Degrees of azimuth from the first to the last camera, or from end to end of a lemniscate.
        elevation (`float`): Degrees; of a spiral where it starts.
        rise (`float`): Degrees that a spiral rises.
        distance (`float`): From the origin, as a share of the reference cameras' median distance.
        change (`float`): First distance of a dolly over the last, last focal length of a zoom over the first.
        shift (`float`): Length of a sideways move, as a share of the distance.
    """

    preset: str = "arc"
    views: int = 8
    azimuth: float = 0.0
    span: float = 80.0
    elevation: float = 20.0
    rise: float = 30.0
    distance: float = 1.0
    change: float = 1.4
    shift: float = 0.4

    def cameras(self, references: Cameras | None, height: int, width: int) -> Cameras:
        """The cameras in the subject frame, of images of `height` × `width`.

        Args:
            references ([`Cameras`], *optional*): The subject's, for distance and lens.

        Raises:
            MVCustomError: for an unknown preset, numbers that give no cameras, or the reference cameras of no subject.
        """
        if self.preset not in PRESETS:
            raise MVCustomError(f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}.")
        if not self.distance > 0:
            raise MVCustomError(f"distance: expected a share above 0, got {self.distance!r}.")
        views = int(self.views)
        like = None if references is None else references.cover(height, width)
        if self.preset == "reference cameras":
            if like is None:
                raise MVCustomError("preset: the reference cameras are a subject's; load one.")
            if views < 1:
                raise MVCustomError(f"views: expected at least 1, got {views}.")
            return like[torch.linspace(0, len(like) - 1, min(views, len(like))).round().long()]
        radius = 1.0 if like is None else like.centers.float().norm(dim=-1).median().item()
        radius *= self.distance
        view: ViewOptions = {"like": like, "height": height, "width": width, "radius": radius}
        azimuth, elevation = float(self.azimuth), float(self.elevation)
        if self.preset == "arc":
            ends = (azimuth - self.span / 2, azimuth + self.span / 2)
            return Cameras.arc(views, azimuth=ends, elevation=elevation, **view)
        if self.preset == "orbit":
            return Cameras.orbit(views, azimuth=(azimuth, azimuth + 360.0), elevation=elevation, **view)
        if self.preset == "spiral":
            heights = (elevation, elevation + self.rise)
            return Cameras.spiral(views, turns=self.span / 360, azimuth=azimuth, elevation=heights, **view)
        if self.preset == "lemniscate":
            return Cameras.lemniscate(views, degrees=self.span / 2, azimuth=azimuth, elevation=elevation, **view)
        if self.preset == "zoom":
            factor = (1.0, float(self.change))
            return Cameras.zoom(views, factor=factor, azimuth=azimuth, elevation=elevation, **view)
        if self.preset == "sideways":
            offset = (self.shift * radius, 0.0, 0.0)
            return Cameras.translate(views, offset=offset, azimuth=azimuth, elevation=elevation, **view)
        move = Cameras.dolly if self.preset == "dolly" else Cameras.dolly_zoom
        return move(views, distance=(float(self.change), 1.0), azimuth=azimuth, elevation=elevation, **view)
