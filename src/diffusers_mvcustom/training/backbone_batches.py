"""From clips to what the U-Net sees: latents, noise, noise levels, text states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .backbone_model import ClipBatch
from .latent_cache import LatentCache
from .sampling import derived_seed
from .video_clips import ClipSample

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline


class ClipBatches:
    """Makes batches of clips. What is random in a sample follows from the seed and the sample's number.

    Args:
        pipe ([`MVCustomPipeline`]): Its autoencoder, text encoder and tokenizer, on the device.
        num_timesteps (`int`): Noise levels of the scheduler.
        seed (`int`): Of noise and noise levels.
        noise_offset (`float`): Size of the noise that all frames and positions of a channel share.
        carried_noise (`float`): Share of the clips with a geometry whose noise moves with what is seen: that of the
            middle frame is carried into the others, as depth-aware feature rendering does.
        device (`torch.device`), dtype (`torch.dtype`): Of the batches.
        vae_batch_size (`int`): Frames that are encoded at a time.
        cache ([`LatentCache`], *optional*): Encodes frames instead, and remembers them.
    """

    def __init__(
        self,
        pipe: MVCustomPipeline,
        *,
        num_timesteps: int,
        seed: int,
        noise_offset: float,
        carried_noise: float = 0.0,
        device: torch.device,
        dtype: torch.dtype,
        vae_batch_size: int,
        cache: LatentCache | None = None,
    ) -> None:
        self.pipe = pipe
        self.num_timesteps = num_timesteps
        self.seed = seed
        self.noise_offset = noise_offset
        self.carried_noise = carried_noise
        self.device = device
        self.dtype = dtype
        self.vae_batch_size = vae_batch_size
        self.cache = cache

    @torch.no_grad()
    def __call__(self, samples: Sequence[ClipSample], timesteps: Sequence[int] | None = None) -> list[ClipBatch]:
        """A batch for each length among the samples, longest first.

        Args:
            samples (sequence of [`ClipSample`]): Clips and single images.
            timesteps (sequence of `int`, *optional*): Their noise levels, instead of random ones.
        """
        lengths = sorted({len(sample.frames) for sample in samples}, reverse=True)
        if timesteps is None:
            timesteps = [self._timestep(sample.number) for sample in samples]
        return [
            self._batch([(sample, t) for sample, t in zip(samples, timesteps) if len(sample.frames) == length])
            for length in lengths
        ]

    def _batch(self, samples: list[tuple[ClipSample, int]]) -> ClipBatch:
        means, stds = self._encode(torch.stack([sample.frames for sample, _ in samples]))
        latents, noises = [], []
        for (sample, _), mean, std in zip(samples, means, stds):
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "noise", sample.number))
            latents.append(mean + std * torch.randn(mean.shape, generator=generator))
            noise = self._carried(sample, torch.randn(mean.shape, generator=generator))
            shared = torch.randn((len(mean), 1, 1, 1), generator=generator)
            noises.append(noise + self.noise_offset * shared)
        return ClipBatch(
            latents=torch.stack(latents).to(self.device, self.dtype),
            noise=torch.stack(noises).to(self.device, self.dtype),
            timesteps=torch.tensor([timestep for _, timestep in samples], device=self.device),
            text_states=self._encode_texts([sample.text for sample, _ in samples]),
        )

    def _carried(
        self,
        sample: ClipSample,
        noise: Tensor,  # [C, F, h, w]
    ) -> Tensor:
        """The noise of a sample, carried from its middle frame if its number says so."""
        if sample.geometry is None:
            return noise
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "carried noise", sample.number))
        if torch.rand((), generator=generator) >= self.carried_noise:
            return noise
        return sample.geometry.carried(noise, anchor=noise.shape[1] // 2)

    def _timestep(self, number: int) -> int:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "timestep", number))
        return int(torch.randint(self.num_timesteps, (), generator=generator))

    def _encode(
        self,
        clips: Tensor,  # [B, F, 3, H, W] of 8 bits
    ) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the latents, each `(B, C, F, h, w)`, float32 on the CPU."""
        images = clips.flatten(0, 1)
        if self.cache is not None:
            means, stds = self.cache.encode(images.float() / 255)
        else:
            vae = self.pipe.vae
            encoded = [
                vae.encode(part.to(vae.device, vae.dtype) / 127.5 - 1).latent_dist
                for part in images.split(self.vae_batch_size)
            ]
            scale = vae.config.scaling_factor
            means = torch.cat([posterior.mean for posterior in encoded]).float().cpu() * scale
            stds = torch.cat([posterior.std for posterior in encoded]).float().cpu() * scale
        return tuple(values.unflatten(0, clips.shape[:2]).transpose(1, 2) for values in (means, stds))

    def _encode_texts(self, texts: list[str]) -> Tensor:
        """Text states `(B, L, D)`, cut off at the text encoder's length."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        tokens = tokenizer(
            texts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return encoder(tokens.to(encoder.device))[0].to(self.device, self.dtype)
