"""Cameras, trajectories, normalisation and camera files. Needs torch and numpy only."""

from .cameras import Cameras

__all__ = ["Cameras"]
