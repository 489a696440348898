"""Whether target cameras can show a subject at all, found out before they cost a run."""

from __future__ import annotations

import torch
from diffusers.utils import logging
from torch import Tensor

from ..cameras import Cameras, SubjectFrame
from ..cameras.checks import check_kind
from ..errors import CamerasError

logger = logging.get_logger(__name__)

_STRAYS = 0.1
"""Share of a capture's cameras that may look elsewhere, and it is a capture of the subject all the same."""

_RADIUS = 0.3
"""How far from the origin something of the subject is taken to be: six tenths of what a photo of 50° shows at distance 1.

Only pictures that miss all of it are taken for mistakes; a close-up of a part passes.
"""

_WIDEST = 170.0
"""Field of view, in degrees, above which a subject at distance 1 covers a few hundredths of the picture."""


def check_target_cameras(cameras: Cameras, *, far: float, subject_frame: SubjectFrame | None = None) -> None:
    """Raises if none of the cameras can show the subject, and warns of those that cannot.

    A camera cannot if it has the subject behind it, stands farther from it than `far`, has a picture that nothing within
    0.3 of the origin is in, or a field of view above 170°, in which the subject is a speck.

    Args:
        cameras ([`Cameras`]): Target cameras in the subject frame.
        far (`float`): Distance from the subject up to which it is rendered.
        subject_frame ([`SubjectFrame`], *optional*): The way to the world of the subject's photos. With it, cameras of that
            world are recognised.

    Raises:
        CamerasError: if none of them can, saying how many for which reason, with the likely cause.
    """
    check_kind("cameras", cameras, Cameras)
    away, past, wide, beyond = blind = _blind(cameras, far)
    unseen = torch.stack(blind).any(dim=0)
    if not unseen.any():
        return
    cause = None
    if subject_frame is not None:
        moved = torch.stack(_blind(subject_frame.to_subject(cameras), far)).any(dim=0)
        if moved.float().mean() <= _STRAYS:
            cause = (
                "They are where cameras of the photos' own world would be: subject.config.subject_frame.to_subject(cameras), "
                "or --cameras-frame user of the command, brings them into the subject frame."
            )
    counts = ((away, "look away from it"), (past, "look past it"), (wide, f"have a field of view above {_WIDEST:g}°"))
    reasons = [f"{int(kind.sum())} {what}" for kind, what in counts if kind.any()]
    if beyond.any():
        reasons.append(f"{int(beyond.sum())} are more than {far:g} from it, farther than it is rendered")
    if not unseen.all():
        logger.warning(
            "cameras: %d of %d will not show the subject: %s.%s",
            int(unseen.sum()),
            len(cameras),
            ", and ".join(reasons),
            "" if cause is None else f" {cause}",
        )
        return
    if wide.all():
        fx, fy = cameras.focal[0].tolist()
        message = (
            f"cameras: all {len(cameras)} have a field of view above {_WIDEST:g}° (focal lengths {fx:.3g}, {fy:.3g} of a "
            f"picture of {cameras.width} × {cameras.height}); the subject would be a speck."
        )
        cause = (
            "Intrinsics divided by the image's width and height? They are in pixels here: multiply their first row by the "
            "width, their second by the height."
        )
    elif away.all():
        message = f"cameras: all {len(cameras)} look away from the subject, which is at the origin."
        cause = cause or (
            "Axes of another convention, or world-to-camera instead of camera-to-world? Cameras have OpenCV axes, and a "
            "transforms.json is read as OpenGL, as nerfstudio defines it; load_cameras(file, convention='opencv') takes "
            "one that was written otherwise."
        )
    elif past.all():
        message = (
            f"cameras: all {len(cameras)} look past the subject, which is at the origin: none of the pictures shows a "
            f"point nearer to it than {_miss(cameras).min():.2g}."
        )
        cause = cause or _cause_of_looking_past(cameras)
    elif beyond.all():
        message = (
            f"cameras: all are more than {far:g} from the subject (the nearest at {_distance(cameras).min():.3g}), farther "
            "than it is rendered."
        )
        cause = cause or "In the subject frame the farthest photo is at distance 1; are these cameras in another unit?"
    else:
        message = f"cameras: none of {len(cameras)} can show the subject: {', and '.join(reasons)}."
        cause = cause or "Are these cameras of another world? They have to be in the subject frame."
    raise CamerasError(f"{message} {cause}")


def _blind(cameras: Cameras, far: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which cameras look away from the subject, look past it, are too wide for it, and are too far, `(N,)` each."""
    away = _looks_away(cameras)
    past = ~away & (_miss(cameras) > _RADIUS)
    return away, past, (cameras.field_of_view > _WIDEST).any(dim=-1), _distance(cameras) > far


def _cause_of_looking_past(cameras: Cameras) -> str:
    size = cameras.intrinsics.new_tensor([cameras.width, cameras.height])
    point = cameras.intrinsics[:, :2, 2]
    if ((point < 0) | (point > size)).any(dim=-1).all():
        x, y = point[0].tolist()
        return (
            f"Their principal point ({x:g}, {y:g}) lies outside of the picture of {cameras.width} × {cameras.height}: "
            "intrinsics of another image size? Width and height have to be those of the image that the intrinsics are of."
        )
    return "Poses of another convention, or of another world? They have to be in the subject frame, with OpenCV axes."


def _distance(cameras: Cameras) -> Tensor:
    """From the subject, `(N,)`."""
    return cameras.centers.norm(dim=-1)


def _looks_away(cameras: Cameras) -> Tensor:
    """Which cameras have the subject behind them, `(N,)`; one inside of it has not."""
    in_front = (-cameras.centers * cameras.optical_axes).sum(dim=-1)  # the origin's z in the camera
    return (in_front <= 0) & (_distance(cameras) > 1e-3)


def _miss(cameras: Cameras) -> Tensor:
    """How near the pictures' rays come to the origin, `(N,)`, for cameras that do not look away from it."""
    origin = cameras.world_to_camera[:, :3, 3]
    seen = origin[:, :2] / origin[:, 2:].clamp(min=1e-6)  # at depth 1
    point, focal = cameras.intrinsics[:, :2, 2], cameras.focal
    size = point.new_tensor([cameras.width, cameras.height])
    nearest = seen.clamp(min=-point / focal, max=(size - point) / focal)
    ray = torch.nn.functional.normalize(torch.nn.functional.pad(nearest, (0, 1), value=1.0), dim=-1)
    return torch.linalg.cross(origin, ray, dim=-1).norm(dim=-1)
