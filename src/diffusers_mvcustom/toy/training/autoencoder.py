"""Stage 1 of the toy model: `AutoencoderKL`, 64 × 64 pixels to 16 × 16 latents of 4 channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from ...errors import MVCustomError
from ..averaging_autoencoder import set_averaging_weights
from .training_run import TrainingRun
from .view_store import ViewStore

KL_WEIGHT = 1e-5
EDGE_WEIGHT = 0.5
SQUARE_WEIGHT = 4.0
CROP = 32
WHOLE_VIEWS_FROM = 0.6
"""Share of the steps from which on whole views are trained on; before, four times as many crops."""


def new_autoencoder(seed: int = 0) -> AutoencoderKL:
    """An autoencoder of 1.4 million weights that keeps mean colours and nothing else before it is trained.

    It has one normalisation group: with many small ones each picture's own colours are normalised away, and small things
    come back in another colour. For the same reason it starts at mean colours, not at random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(24, 48, 96),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=1,
            sample_size=64,
            mid_block_add_attention=False,
        )
    set_averaging_weights(vae)
    with torch.no_grad():
        for norm in (vae.encoder.conv_norm_out, vae.decoder.conv_norm_out):
            norm.weight[norm.weight == 0] = 1.0  # channels that nothing reads yet can be learnt
        vae.encoder.conv_out.bias[4:] = -8.0
    return vae


def stored_autoencoder(model: Path) -> AutoencoderKL:
    """The autoencoder of a model folder."""
    return AutoencoderKL.from_pretrained(model / "vae", dtype=torch.float32)


def reconstruction_losses(vae: AutoencoderKL, pixels: Tensor) -> dict[str, Tensor]:
    """Absolute and squared error of pixels, absolute error of their differences (edges), and a little KL.

    Args:
        vae (`AutoencoderKL`): The autoencoder.
        pixels (`torch.Tensor` of shape `(N, 3, H, W)`): In [-1, 1].
    """
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.sample()).sample.float()
    error = decoded - pixels
    edges = sum(error.diff(dim=dim).abs().mean() for dim in (-1, -2))
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    absolute, square = error.abs().mean(), error.square().mean()
    return {
        "loss": absolute + SQUARE_WEIGHT * square + EDGE_WEIGHT * edges + KL_WEIGHT * kl,
        "absolute": absolute,
        "kl": kl,
        "psnr": -10 * (square.detach() / 4).log10(),
    }


def autoencoder_run(
    folder: Path,
    *,
    max_steps: int,
    batch_size: int,
    device: str,
    seed: int,
    start_from: Path | None = None,
    max_seconds: float | None = None,
) -> TrainingRun:
    """The stage's training, to go on from its newest checkpoint, else from `start_from` (a model folder), else anew."""
    return TrainingRun(
        folder,
        {"vae": new_autoencoder(seed) if start_from is None else stored_autoencoder(start_from)},
        learning_rate=1e-3,
        max_steps=max_steps,
        batch_size=batch_size,
        ema_decay=0.99,
        warm_up=50,
        decay_from=0.4,
        device=device,
        seed=seed,
        save_every=100,
        max_seconds=max_seconds,
    )


def decoder_run(
    folder: Path, vae: AutoencoderKL, *, max_steps: int, batch_size: int, device: str, seed: int
) -> TrainingRun:
    """Training of a finished autoencoder's decoder alone: latents, and all that was trained on them, stay valid.

    Args:
        folder (`Path`): Of the stage.
        vae (`AutoencoderKL`): From [`finished_autoencoder`]; its decoder takes the newest checkpoint's weights.
    """
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return TrainingRun(
        folder,
        {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv},
        learning_rate=5e-4,
        max_steps=max_steps,
        batch_size=batch_size,
        ema_decay=0.99,
        warm_up=50,
        decay_from=0.2,
        device=device,
        seed=seed,
        save_every=100,
    )


def train_autoencoder(run: TrainingRun, vae: AutoencoderKL, store: ViewStore) -> None:
    """Trains what the run trains of the autoencoder, to the end."""

    def loss(step: int, numbers: list[int]) -> dict[str, Tensor]:
        whole = run.progress >= WHOLE_VIEWS_FROM
        count = len(numbers) if whole else len(numbers) * (store.size // CROP) ** 2
        pixels = flipped(store.pixels(torch.randint(len(store), (count,)).tolist(), run.device))
        if not whole:
            # Rather from the middle, where the subject is.
            top, left = ((store.size - CROP) * torch.rand(2, 2).mean(dim=0)).round().int().tolist()
            pixels = pixels[:, :, top : top + CROP, left : left + CROP]
        return reconstruction_losses(vae, pixels)

    run.train(loss)


@torch.no_grad()
def finished_autoencoder(run: TrainingRun, store: ViewStore, views: int = 512) -> AutoencoderKL:
    """The averaged weights, with the scale that gives latents unit variance."""
    run.use_averaged_weights()
    vae: AutoencoderKL = run.modules["vae"]
    latents = torch.cat(
        [
            vae.encode(store.pixels(list(range(start, start + 32))).to(run.device)).latent_dist.mode()
            for start in range(0, min(views, len(store) - 31), 32)
        ]
    )
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


def latent_autoencoder(
    folder: Path, store: ViewStore, start_from: Path | None = None, **settings: Any
) -> AutoencoderKL:
    """The autoencoder that latents come from: of the stage in `folder`, else of the model folder `start_from`.

    Raises:
        MVCustomError: if neither is there.
    """
    if (folder / "autoencoder" / "checkpoints").is_dir():
        return finished_autoencoder(autoencoder_run(folder / "autoencoder", **settings), store)
    if start_from is None:
        raise MVCustomError(f"{folder}: there is no trained autoencoder yet; run the stage `autoencoder` first.")
    return stored_autoencoder(start_from).to(settings["device"])


def flipped(pixels: Tensor) -> Tensor:
    """Half of the views mirrored."""
    mirrored = torch.rand(len(pixels), 1, 1, 1) < 0.5
    return torch.where(mirrored.to(pixels.device), pixels.flip(-1), pixels)


def reconstruction_psnr(vae: AutoencoderKL, store: ViewStore, views: int = 256) -> float:
    """Mean PSNR in dB over the first views of a store."""
    values, views = [], min(views, len(store))
    with torch.no_grad():
        for start in range(0, views, 32):
            pixels = store.pixels(list(range(start, min(start + 32, views)))).to(vae.device)
            decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
            values.append(-10 * (F.mse_loss(decoded, pixels, reduction="none") / 4).mean(dim=(1, 2, 3)).log10())
    return torch.cat(values).mean().item()
