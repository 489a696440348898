"""Metrics for generated views: cameras, geometric consistency, identity, text alignment.

Each is a function and a class that accumulates over many sets of views and over processes ([`Metric`]). What could not be
scored counts as the worst value and is reported as k of n.
"""

from .camera_accuracy import CameraAccuracy, PoseErrors, camera_accuracy, relative_pose_errors
from .covisibility import CovisibleReprojection, covisible_pixels, covisible_reprojection, reprojection_agreements
from .metric import Metric, MetricUnavailable, gather_rows
from .views import view_pairs

__all__ = [
    "CameraAccuracy",
    "CovisibleReprojection",
    "Metric",
    "MetricUnavailable",
    "PoseErrors",
    "camera_accuracy",
    "covisible_pixels",
    "covisible_reprojection",
    "gather_rows",
    "relative_pose_errors",
    "reprojection_agreements",
    "view_pairs",
]
