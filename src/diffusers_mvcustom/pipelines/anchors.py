"""From noise to the anchor's geometry: preview pass, depth estimate, alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.utils import logging
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry import align_depth, align_median_depth
from ..hooks import AnchorGeometry, AnchorSettings, estimate_depth, predicts_disparity
from .guidance import Conditions

if TYPE_CHECKING:
    from .pipeline_mvcustom import MVCustomPipeline
    from .subject_loading import SubjectRendering

logger = logging.get_logger(__name__)

_OPAQUE = 0.5
"""Opacity above which a pixel of the rendered subject gives the depth estimate something to be fitted to."""


def resolve_anchor_depth(depth: Tensor, batch_size: int, num_anchors: int) -> Tensor:
    """Given z-depth of the anchor frames as `(batch, anchors, H, W)`, from any accepted shape.

    Raises:
        MVCustomError: for another shape, or depth that is not finite and above 0.
    """
    given = torch.as_tensor(depth, dtype=torch.float32)
    expanded = given[None] if given.ndim == 2 else given
    expanded = expanded[None].expand(batch_size, *expanded.shape) if expanded.ndim == 3 else expanded
    if expanded.ndim != 4 or expanded.shape[:2] != (batch_size, num_anchors):
        raise MVCustomError(
            f"anchor_depth: expected shape (H, W), ({num_anchors}, H, W) or ({batch_size}, {num_anchors}, H, W), one "
            f"map per anchor, got {tuple(given.shape)}."
        )
    if not (expanded.isfinite().all() and (expanded > 0).all()):
        raise MVCustomError("anchor_depth: expected finite z-depth above 0 at every pixel.")
    return expanded


class AnchorPreparation:
    """Makes the anchor geometry of one call when the first hook asks for it, and keeps it.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        settings ([`AnchorSettings`]): Anchor frames, preview and alignment.
        cameras ([`Cameras`]): Target cameras at the size of the views.
        latents (`torch.Tensor` of shape `(batch, channels, frames, h, w)`): The initial noise.
        conditions ([`Conditions`]): What conditions the preview pass.
        rendering ([`SubjectRendering`], *optional*): The subject's rendered depth and opacity.
        depth (`torch.Tensor` of shape `(batch, A, H, W)`, *optional*): Given z-depth, see [`resolve_anchor_depth`].
        extra_step_kwargs (`dict`): For the scheduler's step.
    """

    def __init__(
        self,
        pipe: MVCustomPipeline,
        settings: AnchorSettings,
        cameras: Cameras,
        latents: Tensor,
        conditions: Conditions,
        rendering: SubjectRendering | None,
        depth: Tensor | None,
        extra_step_kwargs: dict[str, Any],
    ) -> None:
        self.pipe = pipe
        self.settings = settings
        self.cameras = cameras
        self.latents = latents
        self.conditions = conditions
        self.rendering = rendering
        self.given_depth = depth
        self.extra_step_kwargs = extra_step_kwargs
        self.prepared: AnchorGeometry | None = None

    def geometry(self) -> AnchorGeometry:
        """The anchor geometry; the first call runs the preview unless depth was given."""
        if self.prepared is None:
            anchors = self.settings.resolve(len(self.cameras))
            depth = self._estimated(anchors) if self.given_depth is None else self.given_depth.to(self.latents.device)
            self.prepared = AnchorGeometry(depth, anchors, self.cameras, self.settings.discontinuity)
        return self.prepared

    def _estimated(self, anchors: tuple[int, ...]) -> Tensor:
        pipe = self.pipe
        steps = self.settings.preview_steps(pipe._num_inference_steps)
        latents = pipe.preview(steps, self.latents, self.conditions, self.extra_step_kwargs)
        images = pipe.decode_latents(latents[:, :, list(anchors)]).transpose(1, 2)  # [B, A, 3, H, W]
        images = ((images + 1) / 2).clamp(0, 1)
        estimates = estimate_depth(pipe.depth_estimator, pipe.depth_image_processor, images.flatten(0, 1))
        estimates = estimates.unflatten(0, images.shape[:2])
        inverse = predicts_disparity(pipe.depth_estimator)
        return torch.stack(
            [
                torch.stack([self._align(maps[a], anchor, inverse) for a, anchor in enumerate(anchors)])
                for maps in estimates
            ]
        )

    def _align(self, estimate: Tensor, anchor: int, inverse: bool) -> Tensor:
        """z-depth `(H, W)` in world units from the depth model's output at an anchor frame."""
        if self.settings.align and self.rendering is not None:
            size = tuple(estimate.shape)
            maps = torch.stack([self.rendering.depth[anchor], self.rendering.opacity[anchor]])[None].float()
            subject_depth, opacity = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]
            try:
                return align_depth(estimate, subject_depth, mask=opacity > _OPAQUE, inverse=inverse).apply(estimate)
            except MVCustomError as error:
                logger.info(f"Depth of anchor frame {anchor} is not fitted to the subject: {error}")
        # A camera that turns on the spot at the origin says nothing of the scene's size; any distance serves it.
        distance = self.cameras.centers[anchor].norm().item() or 1.0
        return align_median_depth(estimate, distance, inverse=inverse).apply(estimate)
