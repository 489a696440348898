"""Whether target cameras can show a subject at all, found out before they cost a run."""

from __future__ import annotations

from diffusers.utils import logging
from torch import Tensor

from ..cameras import Cameras, SubjectFrame
from ..errors import CamerasError

logger = logging.get_logger(__name__)

_STRAYS = 0.1
"""Share of a capture's cameras that may look elsewhere, and it is a capture of the subject all the same."""


def check_target_cameras(cameras: Cameras, *, far: float, subject_frame: SubjectFrame | None = None) -> None:
    """Raises if none of the cameras can show the subject, and warns of those that cannot.

    Args:
        cameras ([`Cameras`]): Target cameras in the subject frame.
        far (`float`): Distance from the subject up to which it is rendered.
        subject_frame ([`SubjectFrame`], *optional*): The way to the world of the subject's photos. With it, cameras of that
            world are recognised.

    Raises:
        CamerasError: if each of them looks away from the subject or is farther than `far`, with the likely cause.
    """
    away, beyond = _looks_away(cameras), _distance(cameras) > far
    unseen = away | beyond
    if not unseen.any():
        return
    cause = None
    if subject_frame is not None:
        moved = subject_frame.to_subject(cameras)
        if (_looks_away(moved) | (_distance(moved) > far)).float().mean() <= _STRAYS:
            cause = (
                "They are where cameras of the photos' own world would be: subject.config.subject_frame.to_subject(cameras), "
                "or --cameras-frame user of the command, brings them into the subject frame."
            )
    if not unseen.all():
        logger.warning(
            "cameras: of %d, %d look away from the subject and %d are farther than %g from it; they will not show it.%s",
            len(cameras),
            int(away.sum()),
            int(beyond.sum()),
            far,
            "" if cause is None else f" {cause}",
        )
        return
    if away.all():
        message = f"cameras: all {len(cameras)} look away from the subject, which is at the origin."
        cause = cause or (
            "Axes of another convention, or world-to-camera instead of camera-to-world? Cameras have OpenCV axes, and a "
            "transforms.json is read as OpenGL, as nerfstudio defines it; load_cameras(file, convention='opencv') takes "
            "one that was written otherwise."
        )
    elif beyond.all():
        message = (
            f"cameras: all are more than {far:g} from the subject (the nearest at {_distance(cameras).min():.3g}), farther "
            "than it is rendered."
        )
        cause = cause or "In the subject frame the farthest photo is at distance 1; are these cameras in another unit?"
    else:
        message = (
            f"cameras: none of {len(cameras)} can show the subject: {int(away.sum())} look away from it, and "
            f"{int(beyond.sum())} are more than {far:g} from it, farther than it is rendered."
        )
        cause = cause or "Are these cameras of another world? They have to be in the subject frame."
    raise CamerasError(f"{message} {cause}")


def _distance(cameras: Cameras) -> Tensor:
    """From the subject, `(N,)`."""
    return cameras.centers.norm(dim=-1)


def _looks_away(cameras: Cameras) -> Tensor:
    """Which cameras have the subject behind them, `(N,)`; one inside of it has not."""
    in_front = (-cameras.centers * cameras.optical_axes).sum(dim=-1)  # the origin's z in the camera
    return (in_front <= 0) & (_distance(cameras) > 1e-3)
