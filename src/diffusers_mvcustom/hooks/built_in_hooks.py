"""The hooks whose settings are saved with a pipeline."""

from .consistent_aware_latent_completion import ConsistentAwareLatentCompletion
from .depth_aware_feature_rendering import DepthAwareFeatureRendering

BUILT_IN_HOOKS = (DepthAwareFeatureRendering, ConsistentAwareLatentCompletion)
"""In the order in which they act; hooks of the user's are code, and are not saved."""
