"""The reach of the motion modules' attention: set, saved with the pipeline and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import MVCustomError
from ..models import AttentionWindows, enable_spatio_temporal_attention
from ..models.attention_windows import WindowSetting
from .pipeline_part import PipelinePart

if TYPE_CHECKING:
    from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel


class TrainedAttention(NamedTuple):
    """What motion modules were trained with.

    Args:
        window (`int`, `None` or `dict`): Their attention window.
        temporal_heads (`int`): How many of their heads attend along time alone.
    """

    window: WindowSetting
    temporal_heads: int


class AttentionWindowMixin(PipelinePart):
    """Holds the attention window in the motion modules and in the pipeline's configuration."""

    _trained_attention: TrainedAttention

    def set_attention_window(
        self, window: WindowSetting | Literal["auto"], temporal_heads: int | Literal["auto"] | None = None
    ) -> None:
        """Sets how far the motion modules' attention reaches.

        Args:
            window (`int`, `None`, `dict` or `"auto"`): Spatial window, as `attention_window` of the pipeline. `"auto"` goes
                back to what the motion modules were trained with, as their configuration or, without that, the loaded
                pipeline's says, and to their `temporal_heads` if these are not given.
            temporal_heads (`int` or `"auto"`, *optional*): Heads that attend along time alone; as they are if not given.

        Raises:
            MVCustomError: for values that cannot be; nothing has changed then.
        """
        trained = self._trained_attention
        resolved = trained.window if window == "auto" else window
        if temporal_heads is None:
            temporal_heads = "auto" if window == "auto" else self.config.temporal_heads
        heads = trained.temporal_heads if temporal_heads == "auto" else temporal_heads
        enable_spatio_temporal_attention(self.unet, AttentionWindows(resolved), heads)
        self.register_to_config(attention_window=resolved, temporal_heads=heads)

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: FreeNoise rebuilds the motion modules with one-dimensional attention.

        Raises:
            MVCustomError: always.
        """
        raise MVCustomError(
            "enable_free_noise: FreeNoise replaces the dense spatio-temporal attention that keeps the surroundings "
            "consistent. Pass views_at_a_time= to generate long camera paths, or take AnimateDiffPipeline."
        )


def trained_attention(
    unet: UNet2DConditionModel | UNetMotionModel | None,
    motion_adapter: MotionAdapter | None,
    saved: TrainedAttention,
) -> TrainedAttention:
    """What the motion modules were trained with.

    That which their configuration says, else what was `saved` with the pipeline, as diffusers' U-Net has no place for it.
    """
    for component in (motion_adapter, unet):
        if component is not None and "attention_window" in component.config:
            return TrainedAttention(component.config["attention_window"], component.config.get("temporal_heads", 0))
    return saved
