"""What is trained for a subject, as one module: batch in, losses out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import SchedulerMixin, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..cameras import Cameras
from ..models.motion_transformer import motion_bypassed
from ..subjects import SubjectAdapter, SubjectRendering, collect_reference_features, render_features
from ..subjects.unet_blocks import feature_map_size
from .losses import background_loss, denoising_loss, denoising_target, min_snr_weights, opacity_loss, rgb_loss
from .sampling import SamplePlan
from .subject_training_config import SubjectTrainingConfig
from .token_embedding import TokenEmbedding

LORA_TARGETS = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)"
"""The attention projections of the spatial layers; motion modules are not among them."""
LORA_NAME = "subject"


@dataclass(eq=False)
class SubjectBatch:
    """B training samples on the device.

    Args:
        plans (list of [`SamplePlan`]): What the samples are.
        latents (`torch.Tensor` of shape `(B, 4, h, w)`): Clean latents.
        noise (`torch.Tensor` of shape `(B, 4, h, w)`): What is added to them.
        timesteps (`torch.Tensor` of shape `(B,)`): How much of it.
        texts (list of `str`): Their texts.
        cameras (list of [`Cameras`] or `None`): One camera for each sample of the subject.
        images (`torch.Tensor` of shape `(B, 3, R, R)`): The pictures.
        masks (`torch.Tensor` of shape `(B, 1, R, R)`, *optional*): Their subject masks; 1 everywhere for class images.
        reference_indices (list of `int`): The photos that any sample refers to.
        reference_latents (`torch.Tensor` of shape `(V, 4, h_r, w_r)`, *optional*): Their latents.
        reference_cameras ([`Cameras`], *optional*): Their cameras.
        reference_masks (`torch.Tensor` of shape `(V, 1, H, W)`, *optional*): Their masks.
    """

    plans: list[SamplePlan]
    latents: Tensor  # [B, 4, h, w]
    noise: Tensor  # [B, 4, h, w]
    timesteps: Tensor  # [B]
    texts: list[str]
    cameras: list[Cameras | None]
    images: Tensor  # [B, 3, R, R]
    masks: Tensor | None  # [B, 1, R, R]
    reference_indices: list[int] = field(default_factory=list)
    reference_latents: Tensor | None = None  # [V, 4, h_r, w_r]
    reference_cameras: Cameras | None = None
    reference_masks: Tensor | None = None  # [V, 1, H, W]


class SubjectTrainingModel(nn.Module):
    """U-Net with LoRA and pose-conditioned blocks, and the new word's embedding.

    Args:
        config ([`SubjectTrainingConfig`]): Settings.
        adapter ([`SubjectAdapter`]): Attached to `unet`.
        unet (`UNetMotionModel`): With LoRA, if that is trained.
        text_encoder (`CLIPTextModel`), tokenizer (`CLIPTokenizer`): Frozen.
        token ([`TokenEmbedding`]): The new word.
        scheduler (`SchedulerMixin`): Adds the noise.
    """

    def __init__(
        self,
        config: SubjectTrainingConfig,
        adapter: SubjectAdapter,
        unet: UNetMotionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        token: TokenEmbedding,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.config = config
        self.adapter = adapter
        self.unet = unet
        self.text_encoder = text_encoder
        self.token = token
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self._text_states: dict[str, Tensor] = {}

    @torch.no_grad()
    def reference_features(self, batch: SubjectBatch) -> dict[str, Tensor]:
        """Features of the batch's reference photos, `(V, C, h, w)` by block name; without gradients, once a batch."""
        if batch.reference_latents is None:
            return {}
        prompt = self.adapter.config.reference_prompt_text
        with self._without_dropout():
            return collect_reference_features(
                self.adapter,
                self.unet,
                batch.reference_latents,
                self._encode([prompt]).to(batch.reference_latents.dtype),
                scheduler=self.scheduler,
                generator=torch.Generator().manual_seed(batch.plans[0].noise_seed),
            )

    @contextmanager
    def conditioned(self) -> Iterator[None]:
        """To be held open for a forward and its backward pass, which with checkpointing runs the blocks again."""
        with ExitStack() as contexts:
            contexts.enter_context(motion_bypassed(self.unet))
            if self.config.train_feature_nerf:
                contexts.enter_context(self.adapter.conditioning.rendered({}))
            yield

    def forward(
        self,
        batch: SubjectBatch,
        reference_features: Mapping[str, Tensor],  # [V, C, h, w] by block name
    ) -> dict[str, Tensor]:
        """The weighted losses by name, and their sum as `loss`: each a mean over all B samples.

        To be called inside of [`~SubjectTrainingModel.conditioned`].

        Args:
            batch ([`SubjectBatch`]): The samples.
            reference_features (`dict[str, torch.Tensor]`): From [`~SubjectTrainingModel.reference_features`].
        """
        config, count = self.config, len(batch.plans)
        text_states = self._encode(batch.texts)
        losses: dict[str, Tensor] = {}
        if config.train_feature_nerf:
            renderings = [self._render(batch, reference_features, text_states, i) for i in range(count)]
            self.adapter.conditioning.replace_rendered(self._conditioning(batch, renderings))
            losses |= self._rendering_losses(batch, renderings)
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        prediction = self.unet(
            noisy[:, :, None],  # videos of one frame, motion modules bypassed
            batch.timesteps,
            encoder_hidden_states=text_states.to(noisy.dtype),
            return_dict=False,
        )[0][:, :, 0]
        target = denoising_target(self.scheduler, batch.latents, batch.noise, batch.timesteps)
        mask = None
        if config.masked_denoising_loss and batch.masks is not None:
            mask = nn.functional.interpolate(batch.masks, target.shape[-2:], mode="area")
        error = denoising_loss(prediction, target, mask)
        if config.snr_gamma is not None:
            error = error * min_snr_weights(self.scheduler, batch.timesteps, config.snr_gamma)
        losses["denoising"] = error.mean()
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    # --- parts ---

    def _encode(self, texts: list[str]) -> Tensor:
        """Text states `(B, L, D)`; those that nothing trained reaches are computed once."""
        states: list[Tensor] = []
        fresh: dict[str, Tensor] = {}
        for text in texts:
            trained = self.config.train_token and self.token.token in text
            store = fresh if trained else self._text_states
            if text not in store:
                with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                    store[text] = self.token.encode(self.tokenizer, self.text_encoder, [text])
            states.append(store[text])
        return torch.cat(states)

    def _render(
        self, batch: SubjectBatch, reference_features: Mapping[str, Tensor], text_states: Tensor, i: int
    ) -> SubjectRendering | None:
        plan, camera = batch.plans[i], batch.cameras[i]
        if not plan.references:
            return None
        assert camera is not None  # class images have no references
        assert batch.reference_cameras is not None
        chosen = [batch.reference_indices.index(n) for n in plan.references]
        return render_features(
            self.adapter,
            self.unet,
            {name: features[chosen] for name, features in reference_features.items()},
            batch.reference_cameras[chosen],
            text_states[i : i + 1],
            camera,
            (batch.latents.shape[-2], batch.latents.shape[-1]),
            reference_masks=None if batch.reference_masks is None else batch.reference_masks[chosen],
            stratified=True,
            importance_sampling=plan.importance_sampling,
            generator=torch.Generator().manual_seed(plan.noise_seed ^ 1),
        )

    def _conditioning(self, batch: SubjectBatch, renderings: list[SubjectRendering | None]) -> dict[str, Tensor]:
        """X_y of each block, `(B, h * w, C)`; rows of zeros where the references are dropped."""
        features = {}
        for name, channels in self.adapter.config.pose_conditioned_blocks.items():
            height, width = feature_map_size(self.unet, name, *batch.latents.shape[-2:])
            empty = batch.latents.new_zeros(1, height * width, channels)
            features[name] = torch.cat(
                [empty if r is None else r.blocks[name].features[0, 0].to(empty.dtype) for r in renderings]
            )
        return features

    def _rendering_losses(self, batch: SubjectBatch, renderings: list[SubjectRendering | None]) -> dict[str, Tensor]:
        config = self.config
        sums: dict[str, list[Tensor]] = {"rgb": [], "opacity": [], "background": []}
        for i, rendering in enumerate(renderings):
            if rendering is None:
                continue
            photo = batch.images[i : i + 1]
            mask = None if batch.masks is None else batch.masks[i : i + 1]
            for block in rendering.blocks.values():
                if block.rgb is not None:
                    sums["rgb"].append(config.rgb_loss_weight * rgb_loss(block.rgb[0], photo, mask)[0])
                if mask is not None:
                    size = (block.opacity.shape[-2], block.opacity.shape[-1])
                    sums["opacity"].append(config.opacity_loss_weight * opacity_loss(block.opacity[0], mask)[0])
                    sums["background"].append(
                        config.background_loss_weight
                        * background_loss(block.density[0], size, mask, config.background_threshold)[0]
                    )
        scale = 1 / (len(batch.plans) * len(self.adapter.block_names))
        return {name: torch.stack(values).sum() * scale for name, values in sums.items() if values}

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """LoRA's dropout does not act on the references."""
        training = self.unet.training
        self.unet.eval()
        try:
            yield
        finally:
            self.unet.train(training)
