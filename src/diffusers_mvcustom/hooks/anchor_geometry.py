"""What the anchor frames see of the scene: depth, feature mesh and visibility, prepared once for all steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry import DEFAULT_DISCONTINUITY, SAME_SURFACE, FeatureWarp
from .denoising_hook import settings_from_dict

LEFT_OUT = 0.3
"""Opacity above which a pixel of a feature map is the subject's: less than a half, as features reach beyond its rim."""


@dataclass(frozen=True)
class AnchorSettings:
    """Which frames anchor the scene's geometry, and how their depth is had.

    Args:
        frames (`int` or sequence of `int`, *optional*): Index of the anchor frame, or of several anchors, each of which
            renders into all other frames. Negative ones count from the end. `None` takes the middle frame.
        preview (`float`, defaults to 0.2): Steps of the preview pass (same noise, no hooks), as a share of the run's
            steps; at least two steps.
        discontinuity (`float`, *optional*): Depth discontinuity beyond which the feature mesh is cut, see
            [`feature_mesh_from_depth`]; `None` takes its default.
        align (`bool`, defaults to `True`): Whether to fit the estimated depth's scale and shift to the subject's
            rendered depth. Otherwise (and without a subject) the median depth is set to the camera's distance from
            the origin. A view that is handed over to the next window is fitted to what earlier anchors saw of it, too.
        ground (`bool`, defaults to `True`): Whether the estimate is fitted to the horizontal plane under the subject, too, in
            inverse depth; needs `align` and a subject. The picture that a view becomes has a horizon of its own, not the
            camera's. An estimate that is right for the picture moves wrongly with the cameras; fitted to the plane it does
            not. If the plane is off by more than 15 % after the fit, or the subject by more than 30 % (15 % with
            `render_subject`), only the subject counts.
        keep_first (`bool`, defaults to `False`): In a path that is generated window by window (`views_at_a_time`),
            whether the first anchor is a second anchor of every later window, beside the nearest view.
        render_subject (`bool`, defaults to `False`): Whether the anchor's subject is rendered into the other views like all
            else that it saw, as in the paper. By default the subject is left to FeatureNeRF, which knows it from all sides,
            and the anchor's geometry is that of its surroundings. Without a subject there is no difference, nor with one that
            is opaque almost everywhere, as untrained ones are.
    """

    frames: int | tuple[int, ...] | None = None
    preview: float = 0.2
    discontinuity: float | None = None
    align: bool = True
    ground: bool = True
    keep_first: bool = False
    render_subject: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.frames, Sequence):
            object.__setattr__(self, "frames", tuple(self.frames))
        if isinstance(self.preview, bool) or not 0 < self.preview <= 1:
            raise MVCustomError(
                f"AnchorSettings.preview: expected a share of the steps in (0, 1], got {self.preview!r}."
            )
        for name in ("align", "ground", "keep_first", "render_subject"):
            if not isinstance(getattr(self, name), bool):
                raise MVCustomError(f"AnchorSettings.{name}: expected true or false, got {getattr(self, name)!r}.")
        if self.discontinuity is not None and not self.discontinuity > 0:
            raise MVCustomError(
                f"AnchorSettings.discontinuity: expected a number above 0, got {self.discontinuity!r}."
            )

    def resolve(self, num_frames: int) -> tuple[int, ...]:
        """The anchors' indices among `num_frames` frames.

        Raises:
            MVCustomError: for indices out of range, named twice, or none at all.
        """
        if self.frames is None:
            return (num_frames // 2,)
        given = self.frames if isinstance(self.frames, tuple) else (self.frames,)
        for index in given:
            if isinstance(index, bool) or not isinstance(index, int) or not -num_frames <= index < num_frames:
                raise MVCustomError(
                    f"anchor: expected frame indices below {num_frames}, the number of cameras, got {index!r}."
                )
        anchors = tuple(index % num_frames for index in given)
        if not anchors or len(set(anchors)) != len(anchors):
            raise MVCustomError(f"anchor: expected one or more different frames, got {list(given)}.")
        return anchors

    def with_frames(self, anchor: int | Sequence[int] | AnchorSettings | None) -> AnchorSettings:
        """These settings with a call's choice of anchor frames, or the call's own settings."""
        if anchor is None:
            return self
        if isinstance(anchor, AnchorSettings):
            return anchor
        return replace(self, frames=tuple(anchor) if isinstance(anchor, Sequence) else anchor)

    def preview_steps(self, num_inference_steps: int) -> int:
        """The number of steps of the preview pass."""
        return min(num_inference_steps, max(2, round(self.preview * num_inference_steps)))

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        settings = asdict(self)
        settings["frames"] = list(self.frames) if isinstance(self.frames, tuple) else self.frames
        return settings

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> AnchorSettings:
        """The settings from plain values; unknown names are errors."""
        return settings_from_dict(cls, settings)


class AnchorGeometry:
    """The anchors' depth and, per feature map size, the warps from the anchors into all frames.

    Args:
        depth (`torch.Tensor` of shape `(batch, anchors, H, W)`): z-depth at the anchor frames, in world units.
        anchors (`tuple` of `int`): The anchors' frame indices.
        cameras (`Cameras`): The cameras of all frames, at any resolution.
        discontinuity (`float`, *optional*): See [`AnchorSettings`].
        subject (`torch.Tensor` of shape `(frames, h, w)`, *optional*): Opacity of what is left out of the geometry: the
            anchors' pixels there get no surface, and in the other frames nothing is rendered there.
    """

    def __init__(
        self,
        depth: Tensor,  # [B, A, H, W]
        anchors: tuple[int, ...],
        cameras: Cameras,
        discontinuity: float | None = None,
        subject: Tensor | None = None,  # [F, h, w]
    ) -> None:
        if depth.ndim != 4 or depth.shape[1] != len(anchors):
            raise MVCustomError(
                f"depth: expected shape (batch, {len(anchors)}, H, W), one map per anchor, got {tuple(depth.shape)}."
            )
        if not (depth.isfinite().all() and (depth > 0).all()):
            raise MVCustomError("depth: expected finite z-depth above 0 at every pixel of the anchor frames.")
        if subject is not None and (subject.ndim != 3 or len(subject) != len(cameras)):
            raise MVCustomError(
                f"subject: expected shape ({len(cameras)}, h, w), one opacity map per frame, got {tuple(subject.shape)}."
            )
        self.depth = depth.float()
        self.anchors = anchors
        # As a tensor, so that a compiled U-Net serves every choice of anchors, and no step moves indices to the GPU.
        self._anchor_frames = torch.tensor(anchors, device=depth.device)
        self.cameras = cameras.to(dtype=torch.float32)
        self.discontinuity = discontinuity
        self.subject = subject
        self._warps: dict[tuple[int, int], list[FeatureWarp]] = {}

    def warps(self, height: int, width: int) -> list[FeatureWarp]:
        """One warp per batch element from the anchors' feature maps of `height` × `width` into all frames.

        The source of a warp is the anchors' maps stacked along the height, `(..., C, anchors * height, width)`.
        Nothing is visible in the anchors themselves: their features stay as they are. Kept for the next call.
        """
        if (height, width) not in self._warps:
            cameras = self.cameras.resize(height, width)
            depth = F.interpolate(self.depth, size=(height, width), mode="nearest-exact")
            self._warps[height, width] = [self._merged_warp(maps, cameras) for maps in depth]
        return self._warps[height, width]

    def visibility(self, height: int, width: int) -> Tensor:
        """`(batch, frames, height, width)` bool: what any anchor saw; the anchors themselves saw all of their own, and a
        subject that is left out counts as seen: what it looks like is known.
        """
        visibility = torch.stack([warp.visibility for warp in self.warps(height, width)])
        visibility[:, list(self.anchors)] = True
        if self.subject is not None:
            visibility |= self._left_out(height, width)
        return visibility

    def render(self, hidden_states: Tensor) -> Tensor:
        """Replaces what the anchors saw by the anchors' features, in every frame that is no anchor.

        Args:
            hidden_states (`torch.Tensor` of shape `(guidance * batch * frames, C, h, w)`): features of all frames,
                frames innermost.

        Returns:
            `torch.Tensor` of the same shape.
        """
        return self._rendered(hidden_states, self.warps(*hidden_states.shape[-2:]))

    def render_noise(
        self,
        noise: Tensor,  # [B, C, F, h, w]
    ) -> Tensor:
        """Replaces noise by the anchors' noise wherever the anchors saw the surface; its variance stays.

        Args:
            noise (`torch.Tensor` of shape `(batch, C, frames, h, w)`): White noise of all frames.

        Returns:
            `torch.Tensor` of the same shape.
        """
        warps = [warp.for_noise() for warp in self.warps(*noise.shape[-2:])]
        maps = self._rendered(noise.transpose(1, 2).flatten(0, 1), warps)
        return maps.unflatten(0, (len(noise), -1)).transpose(1, 2)

    def _rendered(self, maps: Tensor, warps: Sequence[FeatureWarp]) -> Tensor:
        """Maps `(guidance * batch * frames, C, h, w)`, the anchors' in the place of what the anchors saw."""
        channels, height, width = maps.shape[1:]
        features = maps.reshape(-1, len(warps), len(self.cameras), channels, height, width)
        rendered = []
        for b, warp in enumerate(warps):
            frames = features[:, b]  # [guidance, frames, C, h, w]
            source = frames.index_select(1, self._anchor_frames)  # [guidance, anchors, C, h, w]
            source = source.transpose(1, 2).flatten(2, 3)  # [guidance, C, anchors * h, w]
            rendered.append(torch.where(warp.visibility[:, None], warp.warp(source), frames))
        return torch.stack(rendered, dim=1).reshape(maps.shape)

    def _merged_warp(self, depth: Tensor, cameras: Cameras) -> FeatureWarp:
        """One warp from the anchors of one batch element: at each pixel the surface in front, by the nearest anchor."""
        discontinuity = DEFAULT_DISCONTINUITY if self.discontinuity is None else self.discontinuity
        left_out = None if self.subject is None else self._left_out(*depth.shape[-2:])
        warps = [
            FeatureWarp.from_depth(
                anchor_depth,
                cameras[anchor],
                cameras,
                discontinuity=discontinuity,
                valid=None if left_out is None else ~left_out[anchor],
            )
            for anchor, anchor_depth in zip(self.anchors, depth)
        ]
        frames = len(cameras)
        distance = torch.cdist(cameras.centers, cameras.centers[list(self.anchors)])  # [frames, anchors]
        rank = distance.argsort(dim=1).argsort(dim=1).T.reshape(len(warps), frames, 1, 1)
        surface = torch.stack([torch.where(warp.visibility, warp.depth, torch.inf) for warp in warps])
        chosen = (surface * (1 + SAME_SURFACE * rank)).argmin(dim=0)  # [frames, h, w]
        flat = chosen.flatten(1)[None, :, :, None]
        pixels = depth.shape[-2] * depth.shape[-1]
        indices = torch.stack([warp.indices + a * pixels for a, warp in enumerate(warps)])
        weights = torch.stack([warp.weights for warp in warps])
        visibility = torch.stack([warp.visibility for warp in warps]).any(dim=0)
        visibility[list(self.anchors)] = False
        if left_out is not None:
            visibility &= ~left_out
        triple = flat.expand(1, -1, -1, 3)
        return FeatureWarp(
            indices=indices.gather(0, triple)[0],
            weights=weights.gather(0, triple)[0],
            visibility=visibility,
            depth=surface.gather(0, chosen[None])[0],
            source_size=(len(warps) * depth.shape[-2], depth.shape[-1]),
        )

    def _left_out(self, height: int, width: int) -> Tensor:
        """`(frames, height, width)` bool: where the subject is that is no part of the geometry."""
        assert self.subject is not None
        shares = F.interpolate(self.subject[None].float(), size=(height, width), mode="area")[0]
        return shares > LEFT_OUT
