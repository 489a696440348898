"""`SubjectTrainer`: from posed photos to a subject's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm

from .latent_cache import LatentCache
from .optimization import make_lr_scheduler, make_optimizer
from .progress import TrainingBar
from .records import plot_losses
from .sampling import SamplePlanner, derived_seed
from .subject_batches import SubjectBatches
from .subject_parts import held_out_photos, load_photos, make_subject_parts, take_out_training
from .subject_preparation import fingerprint, make_class_views, resolution_of
from .subject_training_config import SubjectTrainingConfig
from .subject_validation import SubjectValidation, ValidationResult
from .trainer import Trainer
from .training_views import make_training_views

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline


class SubjectTrainer(Trainer[SubjectTrainingConfig]):
    """Learns a subject: LoRA, its word's embedding, FeatureNeRF and projections (MVCustom, stage 2).

    What a sample is (photo, crop, references, text, noise level, noise) follows from the seed and the sample's number
    alone, so a training that was interrupted anywhere goes on exactly as if it had not been.

    Args:
        config ([`SubjectTrainingConfig`]): Settings.
        pipe ([`MVCustomPipeline`]): The model, without a subject. It is frozen and moved to the device of the training. After
            it the result is loaded in it; after one that was interrupted or failed there is no subject in it.
        command (`str`, *optional*): The command line, for the model card.

    Raises:
        MVCustomError: before any computation, for settings, photos or an output folder that will not do.

    Examples:
        ```py
        >>> from diffusers_mvcustom import MVCustomPipeline
        >>> from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig

        >>> config = SubjectTrainingConfig("you/base", "my-mug/", "out/", "<my-mug>")  # doctest: +SKIP
        >>> SubjectTrainer(config, MVCustomPipeline.from_pretrained("you/base")).train()  # doctest: +SKIP
        PosixPath('out/subject')
        ```
    """

    result_name = "subject"
    unit = "images"
    shown = ("loss", "denoising")
    uses_every_weight = False  # class images do not reach FeatureNeRF

    def __init__(self, config: SubjectTrainingConfig, pipe: MVCustomPipeline, *, command: str = "") -> None:
        super().__init__(config, pipe, command)
        self.resolution = resolution_of(config, pipe)
        self.dataset, self.held_out = held_out_photos(config, load_photos(config, self.resolution))
        assert self.dataset.class_noun is not None  # load_photos sees to both
        assert self.dataset.token is not None
        self.class_noun, self.token = self.dataset.class_noun, self.dataset.token
        config = self.config = replace(config, token=self.token)
        self._finished: Path | None = None
        self._resumed = self._read_checkpoint(fingerprint(config, self.dataset, pipe, self.samples_per_step))

    # --- once ---

    def _set_up(self) -> None:
        config, pipe = self.config, self.pipe
        set_seed(config.seed)
        pipe.vae.to(self.device)
        # Processes wait for the first, which fills the caches on the disk that they then read.
        with self.accelerator.main_process_first():
            cache = None
            if config.cache_latents:
                cache = Path(config.cache_dir) if config.cache_dir else self.output / "cache"
            latents = LatentCache(pipe.vae.requires_grad_(False).eval(), cache)
            class_views = make_class_views(config, pipe, self.class_noun, latents, self.resolution, self.output)
            factor = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
            show = self.accelerator.is_main_process
            views = make_training_views(
                self.dataset.views,
                latents,
                resolution=self.resolution,
                multiple=factor,
                crops_per_photo=config.crops_per_photo,
                min_crop=config.min_crop,
                seed=config.seed,
                progress=lambda photos: tqdm(photos, desc="photos", disable=not show),
            )
        self.parts = make_subject_parts(config, pipe, self.dataset, device=self.device, dtype=self.dtype)
        planner = SamplePlanner(
            config,
            num_photos=len(views),
            num_crops=views.crops_per_photo,
            num_class_images=0 if class_views is None else len(class_views),
            num_timesteps=self.parts.model.scheduler.config.num_train_timesteps,
            captions=views.captions if config.use_captions else None,
        )
        self.batches = SubjectBatches(
            planner,
            views,
            class_views,
            token=self.token,
            class_noun=self.class_noun,
            device=self.device,
            dtype=self.dtype,
        )
        self.validation = SubjectValidation(
            config,
            pipe,
            self.parts.model,
            views,
            self.held_out.views if self.held_out else None,
            latents,
            token=self.token,
            noun=self.class_noun,
            resolution=self.resolution,
        )
        optimizer = make_optimizer(config, self.parts.groups)
        self.lr_scheduler = make_lr_scheduler(config, optimizer)
        self.trained = self.parts.trained
        self.ema = EMAModel(list(self.trained.values()), decay=config.ema_decay) if config.use_ema else None
        self.model, self.optimizer = self.accelerator.prepare(self.parts.model, optimizer)
        self.model.train()
        self.parts.model.text_encoder.eval()
        self.step = self._restore(self._resumed)
        self._resumed = None  # its tensors are as large as the weights
        if self.accelerator.is_main_process:
            self.accelerator.print(self._summary(views.crops_per_photo, class_views))
        self.accelerator.init_trackers(config.tracker_project, config={"command": self.command, "seed": config.seed})

    def _summary(self, crops: int, class_views: Any) -> str:
        counts = {
            "LoRA": sum(w.numel() for name, w in self.parts.trained.items() if "lora_" in name),
            "token": self.parts.model.token.embeddings.numel() if self.config.train_token else 0,
            "FeatureNeRF": sum(w.numel() for w in self.parts.adapter.parameters() if w.requires_grad),
        }
        trained = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        return (
            f"{len(self.dataset)} photos × {crops} crops of {self.resolution} × {self.resolution}, "
            f"{0 if self.held_out is None else len(self.held_out)} held out, "
            f"{0 if class_views is None else len(class_views)} class images; "
            f"{len(self.parts.adapter.block_names)} pose-conditioned blocks; trained weights: {trained}; "
            f"{self.samples_per_step} samples a step"
        )

    # --- each step ---

    def _backward(self, micro: int) -> dict[str, Tensor]:
        config, accelerator = self.config, self.accelerator
        size, processes = config.train_batch_size, accelerator.num_processes
        first = self.step * self.samples_per_step + micro * size * processes + accelerator.process_index * size
        torch.manual_seed(derived_seed(config.seed, "dropout", first))
        batch = self.batches(range(first, first + size))
        with accelerator.autocast():
            references = self.parts.model.reference_features(batch)
        with self.parts.model.conditioned():
            losses = self.model(batch, references)
            accelerator.backward(losses["loss"] / config.gradient_accumulation_steps)
        zero = losses["loss"].new_zeros(())  # every process names every loss, or their means would not fit
        names = ["loss", "denoising"]
        if config.train_feature_nerf:
            names += ["rgb", *(["opacity", "background"] if self.dataset.views.masks is not None else [])]
        return {name: losses.get(name, zero).detach().float() for name in names}

    # --- validation and result ---

    def _validate(self, bar: TrainingBar) -> ValidationResult | None:
        result = None
        if self.accelerator.is_main_process:
            with self._averaged(), self.accelerator.autocast():
                result = self.validation(self.step)
            result.save(self.output / "validation")
            self.accelerator.log(result.values, step=self.step)
            for tracker in self.accelerator.trackers:
                if hasattr(tracker, "log_images"):
                    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                    tracker.log_images(result.arrays(), step=self.step, **layout)
            bar.write(f"step {self.step}: {result.summary}")
        self.accelerator.wait_for_everyone()
        return result

    def _finish(self, bar: TrainingBar) -> Path:
        folder = self.output / self.result_name
        result = self._validate(bar)
        if result is not None:  # on the main process
            plot_losses(self.output, self.output / "losses.png")
            record = {
                "command": self.command,
                "steps": self.step,
                "samples_per_step": self.samples_per_step,
                "settings": dict(vars(self.config)),
                "validation": result.values,
            }
            with self._averaged():
                self.parts.finished_subject(record).save_pretrained(folder, samples=result.pictures)
            bar.write(f"subject → {folder}; losses → {self.output / 'losses.png'}")
            if self.config.push_to_hub:
                adapter, private = self.parts.adapter, self.config.hub_private_repo
                self._upload(lambda name: adapter.push_to_hub(name, private=private, samples=result.pictures), bar)
            self._finished = folder
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return folder

    def _release(self) -> None:
        take_out_training(self.pipe)
        if self._finished is not None:
            self.pipe.load_subject(self._finished)
