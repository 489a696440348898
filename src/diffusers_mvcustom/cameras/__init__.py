"""Cameras, trajectories, normalisation and camera files. Needs torch and numpy only (plots: matplotlib)."""

from .cameras import Cameras
from .capture import Capture
from .conventions import (
    CONVENTIONS,
    camera_to_world_in,
    cameras_from_convention,
    cameras_from_pytorch3d,
    cameras_to_pytorch3d,
)
from .diagnostics import cameras_looking_elsewhere, check_cameras_face_subject
from .distortion import Distortion, undistort_image
from .files import load_cameras, load_capture, save_cameras
from .normalization import SubjectFrame, estimate_up, normalize_cameras
from .plots import plot_cameras, save_camera_plot
from .trajectories import look_at

__all__ = [
    "CONVENTIONS",
    "Cameras",
    "Capture",
    "Distortion",
    "SubjectFrame",
    "camera_to_world_in",
    "cameras_from_convention",
    "cameras_from_pytorch3d",
    "cameras_looking_elsewhere",
    "cameras_to_pytorch3d",
    "check_cameras_face_subject",
    "estimate_up",
    "load_cameras",
    "load_capture",
    "look_at",
    "normalize_cameras",
    "plot_cameras",
    "save_camera_plot",
    "save_cameras",
    "undistort_image",
]
