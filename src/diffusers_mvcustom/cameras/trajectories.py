"""Camera paths around and through the subject frame."""

from __future__ import annotations


class TrajectoryConstructors:
    """Class methods of [`Cameras`] that build camera paths."""
