"""Latents of photos, encoded once and kept by the content of photo and autoencoder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from uuid import uuid4

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class LatentCache:
    """The autoencoder's posterior of images: mean and standard deviation, scaled as the U-Net takes them.

    A file is found again by the content of image and autoencoder, so no change of either can serve an old one. Files
    are written under another name first; one that cannot be read is made anew.

    Args:
        vae (`AutoencoderKL`): The autoencoder.
        folder (`Path`, *optional*): Where to keep the latents; without it they are encoded every time.
    """

    def __init__(self, vae: AutoencoderKL, folder: Path | None = None) -> None:
        self.vae = vae
        self.folder = folder
        self.encoded = 0
        """How many images were encoded because they were not in the cache."""
        self._vae_key = "" if folder is None else content_key(vae)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the posterior, each `(N, 4, h, w)`, float32 on the CPU.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        """
        moments = [self._one(image) for image in images]
        return torch.stack([mean for mean, _ in moments]), torch.stack([std for _, std in moments])

    def _one(self, image: Tensor) -> tuple[Tensor, Tensor]:
        file = None
        if self.folder is not None:
            digest = hashlib.blake2b(self._vae_key.encode(), digest_size=20)
            digest.update(repr(tuple(image.shape)).encode())
            digest.update((image * 255).round().to(torch.uint8).cpu().numpy().tobytes())
            file = self.folder / f"{digest.hexdigest()}.safetensors"
            try:
                with safe_open(file, framework="pt") as stored:
                    return stored.get_tensor("mean"), stored.get_tensor("std")
            except (FileNotFoundError, SafetensorError, OSError):
                pass
        self.encoded += 1
        pixels = image[None].to(self.vae.device, self.vae.dtype) * 2 - 1
        posterior = self.vae.encode(pixels).latent_dist
        scale = self.vae.config.scaling_factor
        mean, std = ((value[0].float() * scale).cpu().contiguous() for value in (posterior.mean, posterior.std))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{uuid4().hex}")
            try:
                save_file({"mean": mean, "std": std}, temporary)
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
        return mean, std


def content_key(model: AutoencoderKL) -> str:
    """A digest of a model's configuration and weights, dtype included."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(json.dumps(dict(model.config), sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sampled_key(model: nn.Module, *, but: str | None = None, most: int = 64) -> str:
    """A digest of every weight's name, shape and a few of its values: tells models apart in a moment, however large.

    Args:
        model (`nn.Module`): The model.
        but (`str`, *optional*): Weights with this in their name do not count.
        most (`int`): About how many values of a weight count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        if but is not None and but in name:
            continue
        flat = weight.detach().reshape(-1)
        values = flat[:: max(1, len(flat) // most)].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + values.tobytes())
    return digest.hexdigest()
