"""Rays, feature meshes, their rendering into other cameras, and the alignment of depth maps."""

from .depth_alignment import DepthAlignment, align_depth, align_median_depth
from .feature_mesh import DEFAULT_DISCONTINUITY, SAME_SURFACE, FeatureMesh, feature_mesh_from_depth
from .ground_plane import ground_height, plane_depth
from .rasterizer import Rasterization, rasterize
from .rays import (
    camera_rays,
    pixel_centers,
    plucker_coordinates,
    project,
    transform_directions,
    transform_points,
)
from .warp import FeatureWarp

__all__ = [
    "DEFAULT_DISCONTINUITY",
    "SAME_SURFACE",
    "DepthAlignment",
    "FeatureMesh",
    "FeatureWarp",
    "Rasterization",
    "align_depth",
    "align_median_depth",
    "camera_rays",
    "feature_mesh_from_depth",
    "ground_height",
    "pixel_centers",
    "plane_depth",
    "plucker_coordinates",
    "project",
    "rasterize",
    "transform_directions",
    "transform_points",
]
