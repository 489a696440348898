"""Dense spatio-temporal attention, FeatureNeRF and the pose-conditioned block."""

from .attention_windows import AttentionWindows
from .feature_nerf import FeatureNeRF, RenderedFeatures
from .feature_nerf_config import FeatureNeRFConfig
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
from .ray_sampling import RayDistribution
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
