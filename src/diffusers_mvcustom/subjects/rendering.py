"""From reference views to the subject's features at target cameras, through all pose-conditioned blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras
from ..errors import MVCustomError
from ..models.feature_nerf import RenderedFeatures
from ..models.motion_transformer import motion_bypassed
from ..models.noise import draw_noise
from .reference_views import ReferenceViews
from .unet_blocks import feature_map_size

if TYPE_CHECKING:
    from .subject_adapter import SubjectAdapter


@dataclass
class SubjectRendering:
    """A subject as its pose-conditioned blocks see it from M target cameras, for T texts.

    Args:
        blocks (`dict[str, RenderedFeatures]`): What each block's FeatureNeRF rendered, by block name in execution order;
            the batch axis has length 1.
    """

    blocks: dict[str, RenderedFeatures]

    @property
    def features(self) -> dict[str, Tensor]:
        """X_y of each block, `(T, M, height * width, channels)`."""
        return {name: rendered.features[0] for name, rendered in self.blocks.items()}

    @property
    def opacity(self) -> Tensor:
        """The subject's opacity in the last block, the finest of the up path, `(M, h, w)`."""
        return self._last.opacity[0]

    @property
    def depth(self) -> Tensor:
        """Expected depth of the subject in the last block, in the cameras' z, `(M, h, w)`."""
        return self._last.depth[0]

    @property
    def rgb(self) -> Tensor | None:
        """The subject's rendered colours in the last block, `(M, h, w, 3)` in [0, 1], if the FeatureNeRF predicts them."""
        return None if self._last.rgb is None else self._last.rgb[0]

    @property
    def _last(self) -> RenderedFeatures:
        return list(self.blocks.values())[-1]


@torch.no_grad()
def collect_reference_features(
    adapter: SubjectAdapter,
    unet: nn.Module,
    reference_latents: Tensor,  # [V, 4, h, w]
    reference_prompt_embeds: Tensor,  # [1, L, D] or [V, L, D]
    *,
    scheduler: Any = None,
    generator: torch.Generator | None = None,
    added_cond_kwargs: dict[str, Any] | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """What the pose-conditioned blocks see in the reference views: one U-Net call, without gradients.

    The views run as single images: motion modules are bypassed.

    Args:
        adapter ([`SubjectAdapter`]): A subject that is attached to `unet`.
        unet (`UNetMotionModel`): The U-Net.
        reference_latents (`torch.Tensor` of shape `(V, 4, h, w)`): Clean latents, scaled as the U-Net takes them.
        reference_prompt_embeds (`torch.Tensor` of shape `(1, L, D)` or `(V, L, D)`): Text states of the reference prompt.
        scheduler (*optional*): Adds the noise of `config.reference_timestep`; needed only if that is above 0.
        generator (`torch.Generator`, *optional*): For that noise.
        added_cond_kwargs, cross_attention_kwargs (`dict`, *optional*): Passed to the U-Net (for IP-Adapter's image states
            with one row a view, and LoRA's scale).

    Returns:
        `dict[str, torch.Tensor]`: Features `(V, channels, height, width)` by block name.
    """
    if not adapter.is_attached:
        raise MVCustomError(f"subject {adapter.config.token!r} is not attached to a U-Net; call attach(unet) first.")
    count = len(reference_latents)
    if reference_latents.ndim != 4 or len(reference_prompt_embeds) not in (1, count):
        raise MVCustomError(
            "reference_latents, reference_prompt_embeds: expected shapes (V, C, h, w) and (1, L, D) or (V, L, D), got "
            f"{tuple(reference_latents.shape)} and {tuple(reference_prompt_embeds.shape)}."
        )
    timestep = torch.full((count,), adapter.config.reference_timestep, device=reference_latents.device)
    if adapter.config.reference_timestep > 0:
        if scheduler is None:
            raise MVCustomError("scheduler: needed to add the noise of the subject's reference_timestep.")
        if adapter.config.reference_timestep >= scheduler.config.num_train_timesteps:
            raise MVCustomError(
                f"reference_timestep: expected one of the scheduler's {scheduler.config.num_train_timesteps}, got "
                f"{adapter.config.reference_timestep}."
            )
        noise = draw_noise(
            reference_latents.shape,
            generator=generator,
            device=reference_latents.device,
            dtype=reference_latents.dtype,
        )
        reference_latents = scheduler.add_noise(reference_latents, noise, timestep)
    with adapter.conditioning.collecting() as collected, motion_bypassed(unet):
        unet(
            reference_latents[:, :, None],  # V videos of one frame
            timestep,
            encoder_hidden_states=reference_prompt_embeds.expand(count, -1, -1),
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )
    features = {}
    for name in adapter.block_names:
        states = collected[name]
        height, width = feature_map_size(unet, name, *reference_latents.shape[-2:])
        if states.shape[1] != height * width:
            raise MVCustomError(
                f"block {name!r}: expected a feature map of {height} × {width} for latents of "
                f"{tuple(reference_latents.shape[-2:])}, got {states.shape[1]} positions."
            )
        features[name] = states.transpose(1, 2).unflatten(2, (height, width))
    return features


def render_features(
    adapter: SubjectAdapter,
    unet: nn.Module,
    reference_features: Mapping[str, Tensor],  # [V, C, h_r, w_r] by block name
    references: ReferenceViews | Cameras,
    prompt_embeds: Tensor | None,  # [T, L, D]
    cameras: Cameras,
    latent_size: tuple[int, int],
    *,
    reference_masks: Tensor | None = None,  # [V, 1, H, W]
    stratified: bool = False,
    importance_sampling: bool = True,
    generator: torch.Generator | None = None,
    rays_per_chunk: int | None = None,
) -> SubjectRendering:
    """Renders the subject at target cameras, block by block in the order in which the U-Net runs them.

    Each block's FeatureNeRF samples its rays where the block before it found the subject. With gradients enabled they
    reach the FeatureNeRFs, the prompt embeddings, and whatever of the blocks' text attention is trained.

    Args:
        adapter ([`SubjectAdapter`]): A subject that is attached to `unet`.
        unet (`UNetMotionModel`): The U-Net.
        reference_features (`dict[str, torch.Tensor]`): From [`collect_reference_features`].
        references ([`ReferenceViews`] or [`Cameras`]): The V reference views (their masks are used), or only their
            cameras, of any pixel size that has the reference latents' field of view.
        prompt_embeds (`torch.Tensor` of shape `(T, L, D)`, *optional*): Text states. T texts share one geometry. Without
            them T is 1 and there is no text in the features.
        cameras ([`Cameras`]): The M target cameras, of any pixel size that has the target latents' field of view.
        latent_size (`tuple[int, int]`): Height and width of the target latents.
        reference_masks (`torch.Tensor` of shape `(V, 1, H, W)`, *optional*): Replaces the masks of `references`; 0 where a
            reference has nothing to say.
        stratified (`bool`, *optional*, defaults to `False`): Whether to jitter the samples on the rays (for training).
        importance_sampling (`bool`, *optional*, defaults to `True`): Whether a block samples where the last one found
            the subject.
        generator (`torch.Generator`, *optional*): For the jitter.
        rays_per_chunk (`int`, *optional*): Bounds the memory.
    """
    if not adapter.is_attached:
        raise MVCustomError(f"subject {adapter.config.token!r} is not attached to a U-Net; call attach(unet) first.")
    if isinstance(references, ReferenceViews):
        reference_masks = references.masks if reference_masks is None else reference_masks
        references = references.cameras
    blocks: dict[str, RenderedFeatures] = {}
    previous = None
    for name in adapter.block_names:
        features = reference_features[name]
        if len(features) != len(references):
            raise MVCustomError(
                f"reference_features[{name!r}]: expected {len(references)} views as the reference cameras, got "
                f"{len(features)}."
            )
        height, width = feature_map_size(unet, name, *latent_size)
        source = _on(references.resize(*features.shape[-2:]), features)
        target = _on(cameras.resize(height, width), features)
        masks = None
        if reference_masks is not None:
            masks = F.interpolate(reference_masks.to(features), features.shape[-2:], mode="area")[:, 0][None]
        rendered = adapter.conditioner(name).feature_nerf(
            features[None],
            source.camera_to_world[None],
            source.intrinsics[None],
            target.camera_to_world[None],
            target.intrinsics[None],
            height,
            width,
            reference_masks=masks,
            encoder_hidden_states=None if prompt_embeds is None else prompt_embeds[None],
            attend_text=None if prompt_embeds is None else unet.get_submodule(name).attend_text,
            previous=previous if importance_sampling else None,
            stratified=stratified,
            generator=generator,
            rays_per_chunk=rays_per_chunk,
        )
        blocks[name] = rendered
        previous = rendered.ray_distribution
    return SubjectRendering(blocks)


def render_subject_features(
    adapter: SubjectAdapter,
    unet: nn.Module,
    *,
    reference_latents: Tensor,  # [V, 4, h_r, w_r]
    references: ReferenceViews | Cameras,
    reference_prompt_embeds: Tensor,  # [1, L, D]
    prompt_embeds: Tensor | None,  # [T, L, D]
    cameras: Cameras,
    latent_size: tuple[int, int],
    scheduler: Any = None,
    added_cond_kwargs: dict[str, Any] | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> SubjectRendering:
    """[`collect_reference_features`] and [`render_features`] in one call; see there for the arguments.

    The result depends on the references, the texts and the cameras, but not on noise or timestep, so one call serves a
    whole generation. `options` go to [`render_features`].
    """
    features = collect_reference_features(
        adapter,
        unet,
        reference_latents,
        reference_prompt_embeds,
        scheduler=scheduler,
        generator=generator,
        added_cond_kwargs=added_cond_kwargs,
        cross_attention_kwargs=cross_attention_kwargs,
    )
    return render_features(
        adapter, unet, features, references, prompt_embeds, cameras, latent_size, generator=generator, **options
    )


def _on(cameras: Cameras, features: Tensor) -> Cameras:
    """Cameras stay in float32: half precision loses whole pixels."""
    return replace(
        cameras,
        camera_to_world=cameras.camera_to_world.to(features.device, torch.float32),
        intrinsics=cameras.intrinsics.to(features.device, torch.float32),
    )
