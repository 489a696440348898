"""Subjects: what is learned of one object, its files, and its way into a U-Net and out of it.

What needs diffusers is imported when it is first used: reference views need torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names
from .reference_views import ReferenceViews

if TYPE_CHECKING:
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

__getattr__ = lazy_names(
    __name__,
    {
        "SubjectAdapter": "subject_adapter",
        "SubjectConfig": "subject_config",
        "SubjectRendering": "rendering",
        "collect_reference_features": "rendering",
        "default_blocks": "unet_blocks",
        "feature_map_size": "unet_blocks",
        "initial_token_embedding": "subject_adapter",
        "render_features": "rendering",
        "render_subject_features": "rendering",
        "select_blocks": "unet_blocks",
        "text_conditioned_blocks": "unet_blocks",
    },
)
