"""Subjects: what is learned of one object, its files, and its way into a U-Net and out of it."""

from .reference_views import ReferenceViews
from .rendering import SubjectRendering, collect_reference_features, render_features, render_subject_features
from .subject_adapter import SubjectAdapter, initial_token_embedding
from .subject_config import SubjectConfig
from .unet_blocks import default_blocks, feature_map_size, select_blocks, text_conditioned_blocks

__all__ = [
    "ReferenceViews",
    "SubjectAdapter",
    "SubjectConfig",
    "SubjectRendering",
    "collect_reference_features",
    "default_blocks",
    "feature_map_size",
    "initial_token_embedding",
    "render_features",
    "render_subject_features",
    "select_blocks",
    "text_conditioned_blocks",
]
