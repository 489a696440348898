"""From noise, or a known view, to the anchor's geometry: preview pass, depth estimate, alignment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.utils import logging
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry import align_depth, align_median_depth, ground_height, plane_depth
from ..hooks import AnchorGeometry, AnchorSettings, estimate_depth, predicts_disparity
from ..hooks.anchor_geometry import LEFT_OUT
from .guidance import Conditions
from .subject_features import SubjectFeatures
from .view_windows import ViewWindow

if TYPE_CHECKING:
    from .pipeline_mvcustom import MVCustomPipeline

logger = logging.get_logger(__name__)

_OPAQUE = 0.5
"""Opacity above which a pixel of the rendered subject gives the depth estimate something to be fitted to."""

_CLEAR = 0.1
"""Opacity below which a pixel is none of the subject's."""

_SURROUNDINGS = 3.0
"""What is around the subject counts so much more than the subject: it is what is rendered into the other views."""

_AGREES, _SUBJECT_AGREES = 0.15, 0.3
"""Median relative error of the depth up to which the surroundings and the subject agree with a fit to both. A picture's
subject need not stand quite where its ground is, unless it is rendered into the other views, too."""

_LEAST_GROUND = 0.05
"""Share of a view's pixels in which the ground has to be seen."""

_EVERYTHING = 0.9
"""Share of opaque pixels from which on a rendered subject cannot be told from its surroundings."""


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


def known_views(
    pipe: MVCustomPipeline,
    anchors: tuple[int, ...],
    images: Tensor | None,  # [B, A, 3, H, W] in [0, 1]
    depth: Tensor | None,  # [B, A, H, W]
    latents: Tensor,  # [B, C, N, h, w]
) -> AnchorViews:
    """What is known of the anchors before any view is generated: given images, encoded, and given depth."""
    known = AnchorViews()
    if depth is not None:
        known.depth.update(zip(anchors, depth.to(latents.device).unbind(1)))
    if images is not None:
        images = images.to(latents.device)
        for frame, views in zip(anchors, images.unbind(1)):
            pixels = views.to(pipe.vae.dtype) * 2 - 1
            encoded = torch.cat([pipe.vae.encode(image[None]).latent_dist.mode() for image in pixels])
            known.latents[frame] = (encoded * pipe.vae.config.scaling_factor).to(latents.dtype)
            known.images[frame] = views
    return known


@dataclass
class AnchorViews:
    """What is known of the anchors of a whole call, window by window.

    Args:
        depth (`dict[int, torch.Tensor]`): z-depth `(batch, H, W)` by frame, given or once estimated.
        images (`dict[int, torch.Tensor]`): Given views `(batch, 3, H, W)` in [0, 1] by frame.
        latents (`dict[int, torch.Tensor]`): Clean latents `(batch, channels, h, w)` of known views by frame.
        surfaces (`dict[int, torch.Tensor]`): z-depth `(batch, h, w)` by frame of what earlier anchors saw of it, infinite
            elsewhere. What the depth estimate of a view that is handed over is fitted to.
        used (`dict[int, None]`): The frames that anchored the geometry, in order.
        ground_height (`float`, *optional*): Of the plane under the subject, once it is known.
    """

    depth: dict[int, Tensor] = field(default_factory=dict)
    images: dict[int, Tensor] = field(default_factory=dict)
    latents: dict[int, Tensor] = field(default_factory=dict)
    surfaces: dict[int, Tensor] = field(default_factory=dict)
    used: dict[int, None] = field(default_factory=dict)
    ground_height: float | None = None

    def stacked_depth(self, frames: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The depth of `frames` as `(batch, frames, H, W)`; maps of different sizes are brought to `size`."""
        maps = [self.depth[frame] for frame in frames]
        if len({tuple(depth.shape) for depth in maps}) > 1:
            maps = [F.interpolate(depth[:, None], size=size, mode="nearest-exact")[:, 0] for depth in maps]
        return torch.stack(maps, dim=1)


class AnchorPreparation:
    """Makes the anchor geometry of one window when the first hook asks for it, and keeps it.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        settings ([`AnchorSettings`]): Preview and alignment.
        window ([`ViewWindow`]): The frames and the anchors among them.
        cameras ([`Cameras`]): The cameras of the window's frames at the size of the views.
        latents (`torch.Tensor` of shape `(batch, channels, frames, h, w)`): The initial noise of the window.
        conditions ([`Conditions`]): What conditions the preview pass.
        subject ([`SubjectFeatures`], *optional*): The subject's rendered depth and opacity in the window's frames.
        views ([`AnchorViews`]): What is known; what is estimated here goes in.
        extra_step_kwargs (`dict`): For the scheduler's step.
    """

    def __init__(
        self,
        pipe: MVCustomPipeline,
        settings: AnchorSettings,
        window: ViewWindow,
        cameras: Cameras,
        latents: Tensor,
        conditions: Conditions,
        subject: SubjectFeatures | None,
        views: AnchorViews,
        extra_step_kwargs: dict[str, Any],
    ) -> None:
        self.pipe = pipe
        self.settings = settings
        self.window = window
        self.cameras = cameras
        self.latents = latents
        self.conditions = conditions
        self.subject = subject
        self.views = views
        self.extra_step_kwargs = extra_step_kwargs
        self.prepared: AnchorGeometry | None = None

    def geometry(self) -> AnchorGeometry:
        """The anchor geometry. The first call estimates what depth is not known, after a preview for what is not seen."""
        if self.prepared is None:
            anchors = self.window.anchors
            if not anchors:
                raise MVCustomError(
                    "hooks: a hook asks for the anchor geometry in a run that has none. Hooks that need it say so by "
                    "needs_geometry = True."
                )
            self._estimate([frame for frame in anchors if frame not in self.views.depth])
            self.views.used.update(dict.fromkeys(anchors))
            depth = self.views.stacked_depth(anchors, (self.cameras.height, self.cameras.width))
            places = tuple(self.window.frames.index(frame) for frame in anchors)
            left_out = self._left_out(places)
            self.prepared = AnchorGeometry(
                depth.to(self.latents.device), places, self.cameras, self.settings.discontinuity, left_out
            )
        return self.prepared

    def _left_out(self, places: tuple[int, ...]) -> Tensor | None:
        """Opacity `(frames, h, w)` of the subject, if it is left out of the geometry of the anchors at `places`."""
        if self.subject is None or self.settings.render_subject:
            return None
        if _fills_everything(self.subject.opacity[list(places)]):
            logger.info(
                "The subject's rendering is opaque almost everywhere in the anchor views, as that of an untrained subject "
                "is. So that there are surroundings, it is not left out of their geometry."
            )
            return None
        return self.subject.opacity.to(self.latents.device)

    def hand_over(self, frames: Collection[int]) -> None:
        """Notes for later windows where the anchors' surfaces are in `frames`."""
        if self.prepared is None:
            return
        warps = self.prepared.warps(*self.latents.shape[-2:])
        for frame in frames:
            if frame not in self.views.depth:
                place = self.window.frames.index(frame)
                seen = [torch.where(warp.visibility[place], warp.depth[place], torch.inf) for warp in warps]
                self.views.surfaces[frame] = torch.stack(seen)

    def _estimate(self, frames: Sequence[int]) -> None:
        if not frames:
            return
        pipe = self.pipe
        images = self._images(frames)  # [B, A, 3, H, W]
        estimates = estimate_depth(pipe.depth_estimator, pipe.depth_image_processor, images.flatten(0, 1))
        estimates = estimates.unflatten(0, images.shape[:2])
        inverse = predicts_disparity(pipe.depth_estimator)
        for a, frame in enumerate(frames):
            surfaces = self.views.surfaces.get(frame, [None] * len(estimates))
            self.views.depth[frame] = torch.stack(
                [self._align(maps[a], frame, surface, inverse) for maps, surface in zip(estimates, surfaces)]
            )

    def _images(self, frames: Sequence[int]) -> Tensor:
        """`(batch, frames, 3, H, W)` in [0, 1]: given, decoded where the latents are known, else from a preview."""
        images, latents = dict(self.views.images), self.views.latents
        unseen = [frame for frame in frames if frame not in images]
        if any(frame not in latents for frame in unseen):
            steps = self.settings.preview_steps(self.pipe._num_inference_steps)
            preview = self.pipe.preview(steps, self.latents, self.conditions, self.extra_step_kwargs)
            latents = dict(zip(self.window.frames, preview.unbind(2))) | latents
        if unseen:
            decoded = self.pipe.decode_latents(torch.stack([latents[frame] for frame in unseen], dim=2))
            images.update(zip(unseen, ((decoded + 1) / 2).clamp(0, 1).unbind(2)))
        return torch.stack([images[frame] for frame in frames], dim=1)

    def _align(self, estimate: Tensor, frame: int, surface: Tensor | None, inverse: bool) -> Tensor:
        """z-depth `(H, W)` in world units from the depth model's output at an anchor frame."""
        place, size = self.window.frames.index(frame), tuple(estimate.shape)
        surroundings = torch.full_like(estimate, torch.inf)
        if surface is not None:
            surroundings = F.interpolate(surface[None, None], size=size, mode="nearest-exact")[0, 0].to(estimate)
        known = surroundings
        if self.settings.align and self.subject is not None:
            maps = torch.stack([self.subject.depth[place], self.subject.opacity[place]])[None].float()
            subject_depth, opacity = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]
            if self.settings.ground:
                depth = self._fitted_to_ground(estimate, frame, subject_depth, opacity, surroundings, inverse)
                if depth is not None:
                    return depth
            known = torch.where(opacity > _OPAQUE, subject_depth, surroundings)
        there = known.isfinite()
        if there.any():
            try:
                return align_depth(estimate, known, mask=there, inverse=inverse).apply(estimate)
            except MVCustomError as error:
                logger.info(f"Depth of anchor frame {frame} is not fitted to what is known of the scene: {error}")
        if surface is not None and there.any():  # the scene's size is known, if not its shape
            return align_median_depth(estimate[there], known[there].median(), inverse=inverse).apply(estimate)
        # A camera that turns on the spot at the origin says nothing of the scene's size; any distance serves it.
        distance = self.cameras.centers[place].norm().item() or 1.0
        return align_median_depth(estimate, distance, inverse=inverse).apply(estimate)

    def _fitted_to_ground(
        self,
        estimate: Tensor,  # [H, W]
        frame: int,
        subject_depth: Tensor,  # [H, W]
        opacity: Tensor,  # [H, W]
        seen: Tensor,  # [H, W]
        inverse: bool,
    ) -> Tensor | None:
        """z-depth `(H, W)`, fitted in inverse depth to the subject, the plane under it, and what earlier anchors saw.

        A plane's inverse depth is linear in the picture, so a scale and a shift bring a horizon that is too high or too low
        to where the camera has it. `None` if the plane is not known or not seen, or if a part does not agree with the fit.
        """
        ground = self._ground_depth(self.window.frames.index(frame)).to(estimate)
        clear = opacity < _CLEAR
        subject_agrees = _AGREES if self.settings.render_subject else _SUBJECT_AGREES
        parts = (
            (opacity > _OPAQUE, subject_depth, 1.0, subject_agrees),
            (clear & seen.isfinite(), seen, _SURROUNDINGS, _AGREES),
            (clear & ground.isfinite() & ~seen.isfinite(), ground, _SURROUNDINGS, _AGREES),
        )
        seen_enough = bool(parts[1][0].any()) or parts[2][0].float().mean().item() >= _LEAST_GROUND
        if not (ground.isfinite().any() and seen_enough and (inverse or (estimate > 0).all())):
            return None
        reference, weights = torch.ones_like(estimate), torch.zeros_like(estimate)
        for there, depth, weight, _ in parts:
            reference = torch.where(there, depth, reference)
            weights[there] = weight / max(int(there.sum()), 1)
        disparity = estimate if inverse else 1 / estimate
        try:
            fitted = align_depth(disparity, reference, mask=weights > 0, weights=weights, inverse=True).apply(
                disparity
            )
        except MVCustomError as error:
            logger.info(f"Depth of anchor frame {frame} is not fitted to the ground under the subject: {error}")
            return None
        for name, (there, depth, _, agrees) in zip(("subject", "earlier anchors", "ground"), parts):
            off = ((fitted - depth) / depth).abs()[there].median().item() if there.any() else 0.0
            if not off <= agrees:
                logger.info(
                    f"Depth of anchor frame {frame} is not fitted to the ground under the subject: that would put the "
                    f"depth of the {name} off by {100 * off:.0f} %."
                )
                return None
        return fitted

    def _ground_depth(self, place: int) -> Tensor:
        """z-depth `(H, W)` of the plane under the subject; infinite where it is not seen, or not known."""
        camera, views = self.cameras[place : place + 1], self.views
        if views.ground_height is None and self.subject is not None and not _fills_everything(self.subject.opacity):
            views.ground_height = ground_height(self.subject.depth, self.subject.opacity, self.cameras)
        if views.ground_height is None:
            return torch.full((camera.height, camera.width), torch.inf)
        return plane_depth(camera, views.ground_height)[0]


def _fills_everything(opacity: Tensor) -> bool:
    """Whether a subject cannot be told from its surroundings, as an untrained one."""
    return bool((opacity > LEFT_OUT).float().mean() > _EVERYTHING)
