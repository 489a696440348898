"""Denoising hooks: what acts between and within denoising steps."""

from .anchor_geometry import AnchorGeometry, AnchorSettings
from .built_in_hooks import BUILT_IN_HOOKS
from .consistent_aware_latent_completion import ConsistentAwareLatentCompletion
from .denoising_hook import DenoisingHook, DenoisingRun, DenoisingStep, PlainRun, settings_from_dict
from .depth_aware_feature_rendering import DepthAwareFeatureRendering
from .depth_estimation import estimate_depth, predicts_disparity
from .known_views import KnownViews
from .noise_levels import NoiseLevels

__all__ = [
    "BUILT_IN_HOOKS",
    "AnchorGeometry",
    "AnchorSettings",
    "ConsistentAwareLatentCompletion",
    "DenoisingHook",
    "DenoisingRun",
    "DenoisingStep",
    "DepthAwareFeatureRendering",
    "KnownViews",
    "NoiseLevels",
    "PlainRun",
    "estimate_depth",
    "predicts_disparity",
    "settings_from_dict",
]
