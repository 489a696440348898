"""The reach of the motion modules' attention: set, saved with the pipeline and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..errors import MVCustomError
from ..models import AttentionWindows, enable_spatio_temporal_attention
from ..models.attention_windows import WindowSetting
from .pipeline_part import PipelinePart

if TYPE_CHECKING:
    from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel


class AttentionWindowMixin(PipelinePart):
    """Holds the attention window in the motion modules and in the pipeline's configuration."""

    _trained_window: WindowSetting

    def set_attention_window(self, window: WindowSetting | Literal["auto"]) -> None:
        """Sets the spatial window of the motion modules' attention; the values are those of `attention_window`.

        `"auto"` goes back to what the motion modules were trained with, as their configuration or, without that, the
        loaded pipeline's says.
        """
        resolved = self._trained_window if window == "auto" else window
        enable_spatio_temporal_attention(self.unet, AttentionWindows(resolved))
        self.register_to_config(attention_window=resolved)

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: FreeNoise rebuilds the motion modules with one-dimensional attention.

        Raises:
            MVCustomError: always.
        """
        raise MVCustomError(
            "enable_free_noise: FreeNoise replaces the dense spatio-temporal attention that keeps the surroundings "
            "consistent. Pass views_at_a_time= to generate long camera paths, or take AnimateDiffPipeline."
        )


def trained_window(
    unet: UNet2DConditionModel | UNetMotionModel | None,
    motion_adapter: MotionAdapter | None,
    saved: WindowSetting | str,
) -> WindowSetting:
    """The attention window that the motion modules were trained with.

    That which their configuration says, else the one `saved` with the pipeline, as diffusers' U-Net has no place for it;
    1 where that is `"auto"`.
    """
    for component in (motion_adapter, unet):
        if component is not None and "attention_window" in component.config:
            return component.config["attention_window"]
    return 1 if isinstance(saved, str) else saved
