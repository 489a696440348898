"""FeatureNeRF: subject features at target cameras, rendered from the features of posed reference views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import MVCustomError
from ..geometry.rays import (
    camera_rays,
    pixel_centers,
    plucker_coordinates,
    project,
    transform_directions,
    transform_points,
)
from .feature_nerf_config import FeatureNeRFConfig
from .feature_nerf_inputs import AttendText, check_feature_nerf_inputs
from .feature_sampling import BilinearSampler
from .positional_encoding import encoding_size, positional_encoding
from .ray_sampling import RayDistribution, RaySamples, even_distribution, sample_rays, spread_weights
from .volume_rendering import expected_distance, rendering_weights, truncated_exp

__all__ = ["FeatureNeRF", "FeatureNeRFConfig", "RenderedFeatures"]

_CHUNK_BYTES = 256 * 2**20
"""Memory that the chunk of rays in work may take, where `rays_per_chunk` does not say otherwise."""


@dataclass
class RenderedFeatures:
    """What a [`FeatureNeRF`] renders: B scenes, seen from M cameras, for T texts.

    Args:
        features (`torch.Tensor` of shape `(B, T, M, h * w, C)`): X_y. Zero where nothing is seen.
        opacity (`torch.Tensor` of shape `(B, M, h, w)`): In [0, 1], float32.
        rgb (`torch.Tensor` of shape `(B, M, h, w, 3)`, *optional*): Colours in [0, 1] before black, so already
            multiplied by the opacity; float32.
        depth (`torch.Tensor` of shape `(B, M, h, w)`): Expected z-depth in the target camera of what is seen, not
            multiplied by the opacity; float32. Where the opacity is 0, the z-depth at the far end of the ray.
        density (`torch.Tensor` of shape `(B, M, h * w, S)`): Of the samples, per unit of length; float32.
        ray_distribution ([`RayDistribution`]): For the next block's `previous`. Carries no gradient.
    """

    features: Tensor  # [B, T, M, h * w, C]
    opacity: Tensor  # [B, M, h, w]
    rgb: Tensor | None  # [B, M, h, w, 3]
    depth: Tensor  # [B, M, h, w]
    density: Tensor  # [B, M, h * w, S]
    ray_distribution: RayDistribution


class FeatureNeRF(nn.Module):
    """Renders the features of posed reference views into target cameras, along epipolar lines.

    Points on the rays of the target pixels are projected into every reference. What is found there goes through an MLP a
    view, is blended over the views, attends to the text, and is volume-rendered.

    - A view has a say in the blend as far as the point lies in its image. One that does not see the point knows
      nothing of it; one that sees masked background there does know, and that is how empty space is carved. Where no
      view sees the point the density is 0: there is no evidence of a subject.
    - Density and colour come from the features before text attention, so T texts share one geometry.
    - The blend is a softmax of a linear score. A term of that score that is the same for all views, such as the point
      in the target's frame, cancels out and is left out.
    - Geometry (projection, encodings, volume rendering) is computed in float32 under any autocast or weight dtype.

    A linear layer commutes with bilinear interpolation, and with the blend over views, whose weights sum to 1. So the
    reference maps go through the first layer before they are sampled, and the second layer runs once a point, not once
    a view.

    Source: FeatureNeRF of CustomDiffusion360 (arXiv 2404.12333), as used by MVCustom (arXiv 2510.13702).

    Args:
        channels (`int`): C, of the features.
        config ([`FeatureNeRFConfig`], *optional*): Settings.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models import FeatureNeRF
        >>> pose = torch.eye(4).view(1, 1, 4, 4).clone()
        >>> pose[..., 2, 3] = -1.0  # looks at the origin from distance 1
        >>> intrinsics = torch.tensor([[8.0, 0.0, 4.0], [0.0, 8.0, 3.0], [0.0, 0.0, 1.0]]).view(1, 1, 3, 3)
        >>> nerf = FeatureNeRF(16)
        >>> rendered = nerf(torch.randn(1, 1, 16, 6, 8), pose, intrinsics, pose, intrinsics, 6, 8)
        >>> rendered.features.shape, rendered.depth.shape
        (torch.Size([1, 1, 1, 48, 16]), torch.Size([1, 1, 6, 8]))
    """

    def __init__(self, channels: int, config: FeatureNeRFConfig | None = None) -> None:
        super().__init__()
        config = FeatureNeRFConfig() if config is None else config
        self.channels = channels
        self.config = config
        self.gradient_checkpointing = False  # diffusers' enable_gradient_checkpointing sets it on all submodules
        hidden = config.hidden_channels or channels
        point_size = encoding_size(3, config.point_frequencies)
        plucker_size = encoding_size(6, config.ray_frequencies)  # holds the ray's direction
        direction_size = encoding_size(3, config.ray_frequencies)
        # The first layer of the MLP and the score, in parts that act at different stages.
        self.feature_projection = nn.Linear(channels, hidden, bias=False)
        self.point_projection = nn.Linear(point_size, hidden, bias=False)
        self.ray_projection = nn.Linear(plucker_size, hidden)
        self.output_projection = nn.Linear(hidden, channels)
        self.feature_score = nn.Linear(channels, 1, bias=False)
        self.direction_score = nn.Linear(direction_size, 1, bias=False)
        self.density_and_rgb = nn.Linear(channels, 4 if config.predict_rgb else 1)
        _initialize_as_one(self.feature_projection, self.point_projection, self.ray_projection)
        _initialize_as_one(self.feature_score, self.direction_score)
        nn.init.zeros_(self.density_and_rgb.weight)
        nn.init.zeros_(self.density_and_rgb.bias)
        self._log_initial_density = math.log(-math.log1p(-config.initial_opacity) / (config.far - config.near))

    def forward(
        self,
        reference_features: Tensor,  # [B, V, C, h_r, w_r]
        reference_camera_to_world: Tensor,  # [B, V, 4, 4]
        reference_intrinsics: Tensor,  # [B, V, 3, 3]
        target_camera_to_world: Tensor,  # [B, M, 4, 4]
        target_intrinsics: Tensor,  # [B, M, 3, 3]
        height: int,
        width: int,
        *,
        reference_masks: Tensor | None = None,  # [B, V, h_r, w_r]
        encoder_hidden_states: Tensor | None = None,  # [B, T, L, D]
        attend_text: AttendText | None = None,
        previous: RayDistribution | None = None,
        stratified: bool = False,
        generator: torch.Generator | None = None,
        rays_per_chunk: int | None = None,
    ) -> RenderedFeatures:
        """Renders the features of V reference views into M target cameras, for each of B scenes.

        Args:
            reference_features (`torch.Tensor` of shape `(B, V, C, h_r, w_r)`): Feature maps.
            reference_camera_to_world (`torch.Tensor` of shape `(B, V, 4, 4)`): Poses in the subject frame, OpenCV axes.
            reference_intrinsics (`torch.Tensor` of shape `(B, V, 3, 3)`): In pixels of the `h_r` × `w_r` maps.
            target_camera_to_world (`torch.Tensor` of shape `(B, M, 4, 4)`): Poses of the target cameras.
            target_intrinsics (`torch.Tensor` of shape `(B, M, 3, 3)`): In pixels of the `height` × `width` maps.
            height, width (`int`): Size of the target feature maps.
            reference_masks (`torch.Tensor` of shape `(B, V, h_r, w_r)`, *optional*): Multiplies the reference features;
                0 where a reference has nothing to say.
            encoder_hidden_states (`torch.Tensor` of shape `(B, T, L, D)`, *optional*): T texts over one geometry. Without
                it T is 1 and no text is attended to.
            attend_text (`Callable`, *optional*): The block's text attention with its residual, from `(N, P, C)` points
                and `(N, L, D)` texts to `(N, P, C)`. Goes with `encoder_hidden_states`.
            previous ([`RayDistribution`], *optional*): What an earlier block found for the same cameras, at any map size.
                By default rays are sampled evenly.
            stratified (`bool`, *optional*, defaults to `False`): Whether samples lie at random in their bins (for
                training). Otherwise the result is deterministic.
            generator (`torch.Generator`, *optional*): For that.
            rays_per_chunk (`int`, *optional*): Rays in work at a time; bounds the memory and does not change the result.
                By default as many as take about 256 MiB. With gradients the memory is bounded only if
                `gradient_checkpointing` is on, too.

        Raises:
            MVCustomError: naming the argument whose shape does not fit.
        """
        check_feature_nerf_inputs(
            self.channels, reference_features, reference_camera_to_world, reference_intrinsics, target_camera_to_world,
            target_intrinsics, height, width, reference_masks, encoder_hidden_states, attend_text, rays_per_chunk,
        )  # fmt: skip
        geometry_dtype = torch.promote_types(self.density_and_rgb.weight.dtype, torch.float32)
        reference_camera_to_world, reference_intrinsics, target_camera_to_world, target_intrinsics = (
            x.to(reference_features.device, geometry_dtype)
            for x in (reference_camera_to_world, reference_intrinsics, target_camera_to_world, target_intrinsics)
        )
        batch, targets = target_camera_to_world.shape[:2]
        pixels = pixel_centers(height, width, device=reference_features.device, dtype=geometry_dtype).flatten(0, 1)
        origins, directions = camera_rays(target_camera_to_world, target_intrinsics, pixels, normalize=False)
        z_scale = 1 / directions.norm(dim=-1, keepdim=True)  # z-depth of a point at distance 1
        samples = self._sample_rays(previous, (batch, targets, height, width), z_scale, stratified, generator)

        texts = 1 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if rays_per_chunk is None:
            rays_per_chunk = self._default_rays_per_chunk(texts, reference_features.shape[1])
        parts = []
        for b in range(batch):
            views = _Views(
                *self._project_features(
                    reference_features[b], None if reference_masks is None else reference_masks[b]
                ),
                (reference_features.shape[-2], reference_features.shape[-1]),
                reference_camera_to_world[b],
                _inverse_poses(reference_camera_to_world[b]),
                reference_intrinsics[b],
            )
            text = None if encoder_hidden_states is None else encoder_hidden_states[b]
            rotation = target_camera_to_world[b, :, None, :3, :3].expand(-1, height * width, 3, 3)
            rays = (
                origins[b].flatten(0, 1),
                (directions[b] * z_scale[b]).flatten(0, 1),
                rotation.flatten(0, 1),
                samples.edges[b].flatten(0, 2),
                samples.positions[b].flatten(0, 2),
            )
            for chunk in zip(*(x.split(rays_per_chunk) for x in rays)):
                parts.append(self._render_chunk_with_or_without_checkpoint(views, _Rays(*chunk), text, attend_text))
        features = torch.cat([part[0] for part in parts], dim=1)
        density, weights = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
        rgb = torch.cat([part[3] for part in parts if part[3] is not None]) if self.config.predict_rgb else None

        maps = (batch, targets, height, width)
        density, weights = density.view(*maps, -1), weights.view(*maps, -1)
        distance = expected_distance(density, samples.edges, weights)
        features = features.unflatten(1, (batch, targets, height * width)).transpose(0, 1)
        return RenderedFeatures(
            features=features.to(reference_features.dtype),
            opacity=weights.sum(-1),
            rgb=None if rgb is None else rgb.view(*maps, 3),
            depth=distance * z_scale.view(maps),
            density=density.flatten(2, 3),
            ray_distribution=RayDistribution(samples.edges, weights.detach()),
        )

    # --- where to look ---

    def _sample_rays(
        self,
        previous: RayDistribution | None,
        maps: tuple[int, int, int, int],
        like: Tensor,
        stratified: bool,
        generator: torch.Generator | None,
    ) -> RaySamples:
        config, shape = self.config, (*maps, self.config.num_samples)
        if previous is None:
            edges, weights = even_distribution(config.near, config.far, like)
        else:
            if previous.weights.shape[:2] != maps[:2]:
                raise MVCustomError(
                    f"previous: expected the rays of (batch, target cameras) = {maps[:2]}, got "
                    f"{tuple(previous.weights.shape[:2])}. Rendered for other cameras?"
                )
            previous = previous.resize(*maps[2:])
            edges, weights = spread_weights(previous.edges.to(like), previous.weights.to(like))
        jitter = None
        if stratified:
            # Drawn for all rays at once, where the generator is: chunks do not matter, and a CPU generator serves a GPU.
            device = like.device if generator is None else generator.device
            jitter = torch.rand(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
        samples = sample_rays(
            edges, weights, config.num_samples, importance_share=config.importance_share, jitter=jitter
        )
        return RaySamples(samples.edges.expand(*maps, -1), samples.positions.expand(*maps, -1))

    def _default_rays_per_chunk(self, texts: int, views: int) -> int:
        hidden = self.output_projection.in_features
        per_view = 3 * hidden + 2 * self.point_projection.in_features
        per_text = 6 * self.channels
        if self.gradient_checkpointing and torch.is_grad_enabled():  # a chunk's backward pass holds every step
            per_view, per_text = views * per_view, 2 * per_text
        numbers = per_view + texts * per_text + 2 * self.channels
        return max(1, _CHUNK_BYTES // (4 * numbers * self.config.num_samples))

    # --- what is there ---

    def _project_features(
        self, features: Tensor, masks: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The parts of the first layer and of the score that act on features, as maps `(h_r * w_r, ...)` of each view."""
        features = features.flatten(2).transpose(1, 2).to(self.feature_projection.weight.dtype)
        if masks is not None:
            features = features * masks.flatten(1)[..., None].to(features.dtype)
        projected, score = self.feature_projection(features), self.feature_score(features)
        # Interpolated in float32: its weights have more digits than half precision holds.
        wide = torch.promote_types(projected.dtype, torch.float32)
        # One tensor a view: the gradient of an index into one tensor of all views would be as large as that.
        return projected.to(wide).unbind(0), score.to(wide).unbind(0)

    def _render_chunk_with_or_without_checkpoint(self, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._render_chunk, *args, use_reentrant=False)
        return self._render_chunk(*args)

    def _render_chunk(
        self, views: _Views, rays: _Rays, text: Tensor | None, attend_text: AttendText | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Features `(T, R, C)`, densities and rendering weights `(R, S)`, and colours `(R, 3)` of R rays."""
        points = (rays.origins[:, None] + rays.positions[..., None] * rays.directions[:, None]).flatten(0, 1)
        pixels, _ = project(points[None], views.world_to_camera, views.intrinsics)
        sampler = BilinearSampler.at(pixels, *views.size)
        blend, seen = self._blend_weights(views, rays, points, sampler)
        point_features = self._blended_features(views, rays, points, sampler, blend)  # [R * S, C]

        shape = rays.positions.shape
        raw = self.density_and_rgb(point_features).to(points.dtype)
        density = (truncated_exp(raw[:, 0] + self._log_initial_density) * seen).view(shape)
        weights = rendering_weights(density, rays.edges)
        rgb = None
        if self.config.predict_rgb:
            rgb = (weights[..., None] * raw[:, 1:].sigmoid().view(*shape, 3)).sum(-2)

        point_features = point_features[None]
        if attend_text is not None and text is not None:
            point_features = point_features.to(text.dtype).expand(text.shape[0], -1, -1)
            point_features = attend_text(point_features, text)
        with torch.autocast(points.device.type, enabled=False):
            point_features = point_features.to(points.dtype).unflatten(1, shape)  # [T, R, S, C]
            features = torch.einsum("rs,trsc->trc", weights, point_features)
        return features, density, weights, rgb

    def _blend_weights(
        self, views: _Views, rays: _Rays, points: Tensor, sampler: BilinearSampler
    ) -> tuple[Tensor, Tensor]:
        """The views' shares in each point `(V, R * S)`, and how far any view sees it at all `(R * S)`."""
        to_target = rays.rotation.repeat_interleave(rays.positions.shape[1], dim=0).transpose(-1, -2)
        scores = []
        for v in range(len(views.world_to_camera)):
            toward = F.normalize(points - views.camera_to_world[v, :3, 3], dim=-1)
            toward = transform_directions(toward[:, None], to_target)[:, 0]
            encoded = self._encode(toward, self.config.ray_frequencies)
            scores.append((sampler.sample(v, views.scores[v]) + self.direction_score(encoded).to(points.dtype))[:, 0])
        coverage = sampler.coverage
        seen = coverage.amax(dim=0)
        # Where no view sees the point any finite weights will do: its density is 0.
        coverage = torch.where(seen > 0, coverage, torch.ones_like(coverage))
        logits = (torch.stack(scores) + coverage.log()).softmax(dim=0)
        return logits, seen

    def _blended_features(
        self, views: _Views, rays: _Rays, points: Tensor, sampler: BilinearSampler, blend: Tensor
    ) -> Tensor:
        """The per-view MLP's outputs, blended over the views, `(R * S, C)`."""
        origins = transform_points(rays.origins, views.world_to_camera)  # [V, R, 3]
        directions = transform_directions(rays.directions, views.world_to_camera)
        encoded_rays = self._encode(plucker_coordinates(origins, directions), self.config.ray_frequencies)
        per_ray = self.ray_projection(encoded_rays)[:, :, None]  # [V, R, 1, H]
        blended = None
        for v in range(len(per_ray)):
            in_view = transform_points(points, views.world_to_camera[v])
            encoded = self._encode(in_view, self.config.point_frequencies)
            # Through the layer and not its weight, which offloading loads for the layer's forward only.
            hidden = self.point_projection(encoded).add_(sampler.sample(v, views.features[v]))
            hidden = hidden.view(*rays.positions.shape, -1).add_(per_ray[v]).flatten(0, 1)
            hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
            share = blend[v, :, None].to(hidden.dtype)
            # In place: only the summands are needed for gradients.
            blended = hidden * share if blended is None else blended.addcmul_(hidden, share)
        return self.output_projection(blended)

    def _encode(self, values: Tensor, num_frequencies: int) -> Tensor:
        encoded = positional_encoding(values, num_frequencies, self.config.encoding_octaves)
        return encoded.to(self.ray_projection.weight.dtype)


@dataclass(frozen=True, eq=False)
class _Views:
    """The reference views of one scene."""

    features: tuple[Tensor, ...]  # V of [h_r * w_r, H], after the first layer
    scores: tuple[Tensor, ...]  # V of [h_r * w_r, 1]
    size: tuple[int, int]  # h_r, w_r
    camera_to_world: Tensor  # [V, 4, 4]
    world_to_camera: Tensor  # [V, 4, 4]
    intrinsics: Tensor  # [V, 3, 3]


@dataclass(frozen=True, eq=False)
class _Rays:
    """R rays of one scene, of any target cameras."""

    origins: Tensor  # [R, 3]
    directions: Tensor  # [R, 3] of unit length
    rotation: Tensor  # [R, 3, 3] of the target camera
    edges: Tensor  # [R, S + 1]
    positions: Tensor  # [R, S]


def _inverse_poses(camera_to_world: Tensor) -> Tensor:
    inverse = torch.zeros_like(camera_to_world)
    rotation = camera_to_world[..., :3, :3].transpose(-1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation * camera_to_world[..., None, :3, 3]).sum(-1)
    inverse[..., 3, 3] = 1.0
    return inverse


def _initialize_as_one(*parts: nn.Linear) -> None:
    """Initialises linear layers whose outputs are summed as `nn.Linear` would one layer on all of their inputs."""
    bound = 1 / math.sqrt(sum(part.in_features for part in parts))
    for part in parts:
        nn.init.uniform_(part.weight, -bound, bound)
        if part.bias is not None:
            nn.init.uniform_(part.bias, -bound, bound)
