"""Cameras in the wrong convention, or in the wrong place, found out before they cost a run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CamerasError
from .cameras import Cameras
from .checks import check_kind

_FACING_SHARE = 0.5
"""Share of a capture's cameras that has to see the subject."""


def check_cameras_face_subject(cameras: Cameras, *, radius: float = 0.5, minimum_distance: float = 0.02) -> None:
    """Raises if no camera of a path sees the subject, or if one stands inside it.

    Args:
        cameras ([`Cameras`]): Cameras in the subject frame.
        radius (`float`, defaults to 0.5): How near an optical axis has to pass to the origin, as a share of the camera's
            distance from it.
        minimum_distance (`float`, defaults to 0.02): Distance from the origin below which a camera is inside the subject.

    Raises:
        CamerasError: saying how many axes pass near the origin and how many look away, and the likely cause.
    """
    check_kind("cameras", cameras, Cameras)
    distance = cameras.centers.norm(dim=-1)
    inside = distance < minimum_distance
    if inside.any():
        raise CamerasError(
            f"cameras: expected cameras outside the subject, got {int(inside.sum())} of {len(cameras)} nearer than "
            f"{minimum_distance} to its centre. Cameras of another world, or a translation left out?"
        )
    near, away = _facing(cameras.centers, cameras.optical_axes, radius)
    if near.any():
        return
    flipped, _ = _facing(cameras.centers, -cameras.optical_axes, radius)
    cause = "Cameras of another world? They have to be in the subject frame."
    if flipped.float().mean() > 0.5:
        cause = (
            "OpenGL poses given as OpenCV, or the other way round (a transforms.json is read as OpenGL)? Name their "
            "convention, or flip the columns y and z of the rotations."
        )
    raise CamerasError(
        f"cameras: {int(near.sum())} of {len(cameras)} optical axes pass near the origin, {int(away.sum())} look away from "
        f"it. {cause}"
    )


def cameras_looking_elsewhere(cameras: Cameras) -> list[int]:
    """Which cameras of a capture do not see the subject: strays among many that do.

    Args:
        cameras ([`Cameras`]): Cameras in the subject frame.

    Returns:
        `list` of `int`: their indices.

    Raises:
        CamerasError: if they are more than half: then the convention is wrong, not a few photos.
    """
    check_kind("cameras", cameras, Cameras)
    elsewhere = []
    for i, camera in enumerate(cameras):
        try:
            check_cameras_face_subject(camera)
        except CamerasError:
            elsewhere.append(i)
    facing = len(cameras) - len(elsewhere)
    if facing >= _FACING_SHARE * len(cameras):
        return elsewhere
    try:
        check_cameras_face_subject(cameras)
        cause = "World-to-camera matrices given as camera-to-world, or the axes of another convention?"
    except CamerasError as error:
        cause = str(error)
    raise CamerasError(
        f"only {facing} of {len(cameras)} cameras look at the point that their axes have in common. {cause}"
    )


def _facing(centers: Tensor, axes: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Which axes pass near the origin in front of their camera, and which have it behind them, `(N,)` each."""
    along = -(centers * axes).sum(dim=-1)
    miss = torch.linalg.cross(centers, axes, dim=-1).norm(dim=-1)
    return (along > 0) & (miss <= radius * centers.norm(dim=-1)), along <= 0
