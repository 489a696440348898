"""Dense spatio-temporal attention, FeatureNeRF and the pose-conditioned block.

What needs diffusers is imported when it is first used: a FeatureNeRF needs torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names
from .attention_windows import AttentionWindows
from .feature_nerf import FeatureNeRF, RenderedFeatures
from .feature_nerf_config import FeatureNeRFConfig
from .ray_sampling import RayDistribution

if TYPE_CHECKING:
    from .motion_transformer import (
        SpatioTemporalTransformer3D,
        disable_spatio_temporal_attention,
        enable_spatio_temporal_attention,
        motion_bypassed,
        motion_inputs_replaced,
    )
    from .pose_conditioned_block import (
        PoseConditionedTransformerBlock,
        PoseConditioner,
        PoseConditioning,
        PoseProjection,
    )
    from .spatio_temporal_attention import SpatioTemporalAttnProcessor, windowed_attention

__all__ = [
    "AttentionWindows",
    "FeatureNeRF",
    "FeatureNeRFConfig",
    "PoseConditionedTransformerBlock",
    "PoseConditioner",
    "PoseConditioning",
    "PoseProjection",
    "RayDistribution",
    "RenderedFeatures",
    "SpatioTemporalAttnProcessor",
    "SpatioTemporalTransformer3D",
    "disable_spatio_temporal_attention",
    "enable_spatio_temporal_attention",
    "motion_bypassed",
    "motion_inputs_replaced",
    "windowed_attention",
]

__getattr__ = lazy_names(
    __name__,
    {
        "PoseConditionedTransformerBlock": "pose_conditioned_block",
        "PoseConditioner": "pose_conditioned_block",
        "PoseConditioning": "pose_conditioned_block",
        "PoseProjection": "pose_conditioned_block",
        "SpatioTemporalAttnProcessor": "spatio_temporal_attention",
        "SpatioTemporalTransformer3D": "motion_transformer",
        "disable_spatio_temporal_attention": "motion_transformer",
        "enable_spatio_temporal_attention": "motion_transformer",
        "motion_bypassed": "motion_transformer",
        "motion_inputs_replaced": "motion_transformer",
        "windowed_attention": "spatio_temporal_attention",
    },
)
