"""Rays, feature meshes, their rendering into other cameras, and the alignment of depth maps."""

from .rays import (
    camera_rays,
    pixel_centers,
    plucker_coordinates,
    project,
    transform_directions,
    transform_points,
)

__all__ = [
    "camera_rays",
    "pixel_centers",
    "plucker_coordinates",
    "project",
    "transform_directions",
    "transform_points",
]
