"""Metrics for generated views: cameras, geometric consistency, identity, text alignment.

Each is a function and a class that accumulates over many sets of views and over processes ([`Metric`]). What could not be
scored counts as the worst value and is reported as k of n. [`Evaluation`] holds them all.
"""

from .camera_accuracy import CameraAccuracy, PoseErrors, camera_accuracy, relative_pose_errors
from .covisibility import CovisibleReprojection, covisible_pixels, covisible_reprojection, reprojection_agreements
from .epipolar import Tsed, pair_agreements, tsed
from .evaluation import Evaluation, References
from .evaluation_report import EvaluationReport, Score
from .identity import Identity, identity, nearest_references, subject_crops
from .metric import Metric, MetricUnavailable, gather_rows
from .neighbour_distance import NeighbourDistance, neighbour_distance
from .pretrained_scores import ClipTextSimilarity, Dinov2Similarity, DreamSimDistance, LpipsDistance
from .sfm_poses import (
    EstimatedPoses,
    SfmConsistency,
    estimate_poses,
    estimated_camera_accuracy,
    sfm_consistency,
    views_in_place,
)
from .text_alignment import TextAlignment, prompt_without_token, text_alignment
from .views import view_pairs

__all__ = [
    "CameraAccuracy",
    "ClipTextSimilarity",
    "CovisibleReprojection",
    "Dinov2Similarity",
    "DreamSimDistance",
    "EstimatedPoses",
    "Evaluation",
    "EvaluationReport",
    "Identity",
    "LpipsDistance",
    "Metric",
    "MetricUnavailable",
    "NeighbourDistance",
    "PoseErrors",
    "References",
    "Score",
    "SfmConsistency",
    "TextAlignment",
    "Tsed",
    "camera_accuracy",
    "covisible_pixels",
    "covisible_reprojection",
    "estimate_poses",
    "estimated_camera_accuracy",
    "gather_rows",
    "identity",
    "nearest_references",
    "neighbour_distance",
    "pair_agreements",
    "prompt_without_token",
    "relative_pose_errors",
    "reprojection_agreements",
    "sfm_consistency",
    "subject_crops",
    "text_alignment",
    "tsed",
    "view_pairs",
    "views_in_place",
]
