"""Stage 2 of the toy model: text encoder and U-Net, trained together on single views."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...training.losses import denoising_target
from ..tokenizer import toy_tokenizer
from .training_run import TrainingRun
from .view_draws import ViewDraws
from .view_store import VIEWS_PER_SCENE, ViewStore

SNR_GAMMA = 5.0
"""Below this signal-to-noise ratio all noise levels are trained alike, above it less."""
CENTRE_WEIGHT = 3.0
CENTRE_WIDTH = 0.2
"""Of the bell that weighs errors, in widths of a view."""
TEXT_WIDTH = 128


def toy_scheduler() -> DDIMScheduler:
    """DDIM on velocities. The last noise level holds no trace of the picture, so day and night are equally near."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def new_image_model(tokenizer: CLIPTokenizer, seed: int = 0) -> dict[str, torch.nn.Module]:
    """An untrained `text_encoder` and `unet`, the latter an image model to which motion modules are added later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=TEXT_WIDTH,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(64, 128, 192),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1.5's configuration
            norm_num_groups=32,
        )
    return {"text_encoder": text_encoder, "unet": unet}


class LatentStore:
    """Latents of a view store's views and of their mirror images, encoded once: the posterior's mean, scaled.

    Args:
        store ([`ViewStore`]): The views. View `i` is sample `2 i`, its mirror image sample `2 i + 1`.
        vae (`AutoencoderKL`): Encodes them.
        folder (`Path`): Where the latents lie. They are of this autoencoder as long as nobody trains its encoder further.
    """

    def __init__(self, store: ViewStore, vae: AutoencoderKL, folder: Path) -> None:
        self.store, self.vae = store, vae
        folder.mkdir(parents=True, exist_ok=True)
        path, done = folder / "latents.npy", folder / "encoded.npy"
        count, side = store.num_scenes * VIEWS_PER_SCENE * 2, store.size // 4
        if path.exists():
            self.latents = np.lib.format.open_memmap(path, mode="r+")
            self.encoded = np.lib.format.open_memmap(done, mode="r+")
        else:
            self.latents = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, 4, side, side))
            self.encoded = np.lib.format.open_memmap(done, mode="w+", dtype=np.bool_, shape=(count,))

    def __len__(self) -> int:
        return 2 * len(self.store)

    def fill(self, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter, block: int = 64) -> None:
        """Encodes what is missing so far, ahead of a training that reads the same folder."""
        for start in progress(range(0, len(self), block)):
            _ = self[list(range(start, min(start + block, len(self))))]

    @torch.no_grad()
    def __getitem__(self, samples: list[int]) -> Tensor:
        """Latents `(N, 4, h, w)` of these samples."""
        missing = [sample for sample in dict.fromkeys(samples) if not self.encoded[sample]]
        if missing:
            pixels = self.store.pixels([sample // 2 for sample in missing], self.vae.device)
            mirrored = torch.tensor([sample % 2 == 1 for sample in missing], device=pixels.device)
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
            with torch.autocast(pixels.device.type, enabled=False):
                fresh = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
            self.latents[missing] = fresh.cpu().numpy().astype(np.float16)
            self.encoded[missing] = True
        return torch.from_numpy(self.latents[samples].astype(np.float32))


def stored_image_model(model: Path) -> dict[str, torch.nn.Module]:
    """`text_encoder` and `unet` (2-D, without the motion modules) of a model folder, to train them further."""
    modules = new_image_model(toy_tokenizer())
    modules["text_encoder"] = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    weights = UNetMotionModel.from_pretrained(model / "unet", dtype=torch.float32).state_dict()
    modules["unet"].load_state_dict(
        {name: weight for name, weight in weights.items() if "motion_modules." not in name}
    )
    return modules


def image_model_run(
    folder: Path,
    *,
    max_steps: int,
    batch_size: int,
    device: str,
    seed: int,
    start_from: Path | None = None,
    text_encoder: CLIPTextModel | None = None,
    learning_rate: float = 6e-4,
    max_seconds: float | None = None,
) -> TrainingRun:
    """The stage's training, to go on from its newest checkpoint, else from the weights given, else anew.

    Args:
        folder (`Path`): Of the stage.
        start_from (`Path`, *optional*): Model folder to start from.
        text_encoder (`CLIPTextModel`, *optional*): Text encoder to start from, instead of a new or a stored one.
        learning_rate (`float`): Of small batches; large ones bear more.
    """
    modules = new_image_model(toy_tokenizer(), seed) if start_from is None else stored_image_model(start_from)
    if text_encoder is not None:
        modules["text_encoder"] = text_encoder
    return TrainingRun(
        folder,
        modules,
        learning_rate=learning_rate,
        max_steps=max_steps,
        batch_size=batch_size,
        ema_decay=0.999,
        decay_from=0.5,
        warm_up=500,
        device=device,
        seed=seed,
        save_every=500,
        max_seconds=max_seconds,
    )


def stratified_timesteps(scheduler: DDPMScheduler, count: int) -> Tensor:
    """Noise levels `(count,)`, one from each of `count` equal shares of their density, in random order.

    The density is even up to a signal-to-noise ratio of [`SNR_GAMMA`] and falls with the inverse ratio beyond it, as
    Min-SNR weights do: what little is left to learn there takes little of the training.
    """
    ratio = compute_snr(scheduler, torch.arange(scheduler.config.num_train_timesteps))
    density = ((SNR_GAMMA + 1) / (ratio + 1)).clamp(max=1).double().cumsum(0)
    places = (torch.randperm(count) + torch.rand(count)) / count
    return torch.searchsorted(density, places.double() * density[-1]).clamp(max=len(density) - 1)


def centre_weights(height: int, width: int) -> Tensor:
    """Weights `(1, 1, height, width)` of mean 1 for the errors of a view's positions: more in the middle.

    The subject is there, and half of what captions say is about it. The weights are the same for all views, so what is learnt
    is not biased by them.
    """
    y, x = (torch.linspace(-0.5 + 0.5 / size, 0.5 - 0.5 / size, size) for size in (height, width))
    weights = 1 + CENTRE_WEIGHT * torch.exp(-(x[None] ** 2 + y[:, None] ** 2) / (2 * CENTRE_WIDTH**2))
    return (weights / weights.mean())[None, None]


def train_image_model(
    run: TrainingRun, latents: LatentStore, until: int | None = None, *, compiled: bool = False, workers: int = 0
) -> None:
    """Trains to the last step, or to step `until`.

    Args:
        run ([`TrainingRun`]): From [`image_model_run`].
        latents ([`LatentStore`]): What to train on.
        until (`int`, *optional*): Stop here instead.
        compiled (`bool`): Run the U-Net through `torch.compile`: a quarter faster on a CPU, after a minute and a half.
        workers (`int`): Processes that draw views and write captions ahead: 0.2 ms a sample, too long for a GPU to wait.
    """
    scheduler = DDPMScheduler.from_config(toy_scheduler().config)
    text_encoder: CLIPTextModel = run.modules["text_encoder"]
    unet: UNet2DConditionModel = run.modules["unet"]
    if run.device.type == "cpu" and run.autocast == torch.bfloat16:
        # The fused attention's backward pass is slow there.
        unet.set_attn_processor(AttnProcessor())
        text_encoder.set_attn_implementation("eager")
    predict = torch.compile(unet) if compiled else unet
    side = unet.config.sample_size
    weights = centre_weights(side, side).to(run.device)
    draws = iter(ViewDraws(latents.store.folder, run.batch_size, run.max_steps, run.seed).ahead(run.step, workers))

    def loss(step: int, numbers: list[int]) -> dict[str, Tensor]:
        drawn = next(draws)
        clean = latents[drawn.samples].to(run.device)
        noise = torch.randn(clean.shape, device=run.device)
        timesteps = stratified_timesteps(scheduler, len(numbers)).to(run.device)
        states = text_encoder(drawn.token_ids.to(run.device))[0]
        prediction = predict(scheduler.add_noise(clean, noise, timesteps), timesteps, states).sample.float()
        error = (prediction - denoising_target(scheduler, clean, noise, timesteps)).square()
        return {"loss": (weights * error).mean(), "error": error.detach().mean()}

    run.train(loss, until)
