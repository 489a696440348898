"""`SubjectTrainer`: from posed photos to a subject's folder."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from ..errors import MVCustomError
from .checkpoints import Checkpoints, TrainingState, load_checkpoint, optimizer_state, restore_optimizer
from .interrupts import finishing_on_interrupt
from .latent_cache import LatentCache
from .optimization import make_lr_scheduler, make_optimizer
from .progress import TrainingBar
from .records import Records, plot_losses
from .sampling import SamplePlanner, derived_seed
from .subject_batches import SubjectBatches
from .subject_parts import held_out_photos, load_photos, make_subject_parts
from .subject_preparation import (
    check_distribution,
    check_output_folder,
    fingerprint,
    make_class_views,
    resolution_of,
    trackers_of,
)
from .subject_training_config import SubjectTrainingConfig
from .subject_validation import SubjectValidation
from .training_views import make_training_views

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline


class SubjectTrainer:
    """Learns a subject: LoRA, its word's embedding, FeatureNeRF and projections (MVCustom, stage 2).

    What a sample is (photo, crop, references, text, noise level, noise) follows from the seed and the sample's number
    alone, so a training that was interrupted anywhere goes on exactly as if it had not been.

    Args:
        config ([`SubjectTrainingConfig`]): Settings.
        pipe ([`MVCustomPipeline`]): The model, without a subject. It is frozen, and the subject is loaded into it.
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

    def __init__(self, config: SubjectTrainingConfig, pipe: MVCustomPipeline, *, command: str = "") -> None:
        self.config = config
        self.pipe = pipe
        self.command = command
        self.output = Path(config.output_dir)
        self.checkpoints = Checkpoints(self.output / "checkpoints", config.checkpoints_total_limit)
        check_output_folder(config, self.output, self.checkpoints)
        self.resolution = resolution_of(config, pipe)
        dataset = load_photos(config, self.resolution)
        self.dataset, self.held_out = held_out_photos(config, dataset)
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=trackers_of(config),
            project_dir=self.output / "logs",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        check_distribution(self.accelerator)
        if config.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            raise MVCustomError("mixed_precision: fp16 needs a GPU; on a CPU take bf16 or no.")
        if config.allow_tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        self.device = self.accelerator.device
        self.dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
        self.fingerprint = fingerprint(config, self.dataset, self.samples_per_step)
        self._resumed = self._read_checkpoint()

    @property
    def samples_per_step(self) -> int:
        """Samples for one update of the weights, over all processes."""
        config = self.config
        return config.train_batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    def train(self) -> Path:
        """Trains to the end (or to the step in which the user interrupts) and saves the subject.

        Returns:
            `Path`: The subject's folder, `output_dir/subject`.

        Raises:
            KeyboardInterrupt: if it was interrupted, after the checkpoint is written.
            MVCustomError: if a loss is not finite; the message names the last good checkpoint.
        """
        self._set_up()
        config, main = self.config, self.accelerator.is_main_process
        records = Records(self.output, self.step) if main else None
        bar = TrainingBar(
            config.max_train_steps,
            self.step,
            samples_per_step=self.samples_per_step,
            unit="images",
            device=self.device,
            show=main,
        )
        with finishing_on_interrupt() as interrupt:
            while self.step < config.max_train_steps:
                values = self._update()
                self.step += 1
                measured = bar.update({name: values[name] for name in ("loss", "denoising")})
                if main:
                    records.append(self.step, {**values, **measured})
                self.accelerator.log({**values, **measured}, step=self.step)
                stop = self._any(interrupt.requested)
                if stop or self.step % config.checkpointing_steps == 0:
                    self._save_checkpoint()
                if stop:
                    break
                if config.validation_steps and self.step % config.validation_steps == 0:
                    self._validate(bar)
                bar.pause()
        if self.step < config.max_train_steps:
            bar.write(f"stopped after step {self.step}; go on with --resume_from_checkpoint latest")
            bar.close()
            self.accelerator.end_training()
            raise KeyboardInterrupt
        if self.step % config.checkpointing_steps and self._resumed_step < self.step:
            self._save_checkpoint()
        folder = self._finish(bar)
        bar.close()
        return folder

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
            class_views = make_class_views(
                config, pipe, self.dataset.class_noun, latents, self.resolution, self.output
            )
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
            token=config.token,
            class_noun=self.dataset.class_noun,
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
            noun=self.dataset.class_noun,
            resolution=self.resolution,
        )
        optimizer = make_optimizer(config, self.parts.groups)
        self.lr_scheduler = make_lr_scheduler(config, optimizer)
        self.ema = EMAModel(list(self.parts.trained.values()), decay=config.ema_decay) if config.use_ema else None
        self.model, self.optimizer = self.accelerator.prepare(self.parts.model, optimizer)
        self.model.train()
        self.parts.model.text_encoder.eval()
        self.step = self._resumed_step = self._restore()
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

    def _update(self) -> dict[str, float]:
        """One update of the weights. Returns the losses, means over the step's samples."""
        config, accelerator = self.config, self.accelerator
        parameters = list(self.parts.trained.values())
        totals: dict[str, torch.Tensor] = {}
        for micro in range(config.gradient_accumulation_steps):
            last = micro + 1 == config.gradient_accumulation_steps
            with nullcontext() if last else accelerator.no_sync(self.model):
                for name, value in self._backward(micro).items():
                    totals[name] = totals.get(name, 0) + value / config.gradient_accumulation_steps
        totals = accelerator.reduce(totals, reduction="mean")
        values = {name: value.item() for name, value in totals.items()}
        norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm or math.inf)
        overflow = not math.isfinite(norm) and accelerator.scaler is None  # with a scaler the step is only skipped
        if overflow or not all(math.isfinite(value) for value in values.values()):
            raise MVCustomError(self._not_finite(values))
        values["gradient_norm"] = float(norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(parameters)
        values["learning_rate"] = self.lr_scheduler.get_last_lr()[0]
        return values

    def _backward(self, micro: int) -> dict[str, torch.Tensor]:
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

    def _not_finite(self, values: dict[str, float]) -> str:
        wrong = [name for name, value in values.items() if not math.isfinite(value)] or ["gradient"]
        newest = self.checkpoints.latest()
        kept = "there is no checkpoint yet" if newest is None else f"the last good checkpoint is {newest}"
        return (
            f"step {self.step + 1}: {', '.join(wrong)} is not finite; the weights are as after step {self.step}, {kept}. "
            "Too high a learning rate, or fp16 where the model needs bf16 or float32?"
        )

    def _any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), reduction="sum"))

    # --- validation and result ---

    @contextmanager
    def _averaged(self):
        """The averaged weights in the places of the trained ones, if there are some."""
        if self.ema is None:
            yield
            return
        parameters = list(self.parts.trained.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def _validate(self, bar: TrainingBar):
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
        folder = self.output / "subject"
        result = self._validate(bar)
        if self.accelerator.is_main_process:
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
                address = self.parts.adapter.push_to_hub(
                    self.config.hub_model_id or self.output.name,
                    private=self.config.hub_private_repo,
                    samples=result.pictures,
                )
                bar.write(f"uploaded → {address}")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return folder

    # --- checkpoints ---

    def _save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            tensors, values = optimizer_state(self.optimizer.optimizer)
            state = TrainingState(
                self.step,
                {"weights": dict(self.parts.trained), "optimizer": tensors},
                {
                    "fingerprint": self.fingerprint,
                    "optimizer": values,
                    "lr_scheduler": self.lr_scheduler.state_dict(),
                },
            )
            if self.ema is not None:
                ema = self.ema.state_dict()
                state.tensors["ema"] = {str(i): weight for i, weight in enumerate(ema.pop("shadow_params"))}
                state.values["ema"] = ema
            if self.accelerator.scaler is not None:
                state.values["scaler"] = self.accelerator.scaler.state_dict()
            self.checkpoints.save(state)
        self.accelerator.wait_for_everyone()

    def _read_checkpoint(self) -> TrainingState | None:
        """The checkpoint to go on from, whose settings are those of now."""
        if self.config.resume_from_checkpoint is None:
            return None
        folder = self.checkpoints.resolve(self.config.resume_from_checkpoint)
        if folder is None:
            return None
        state = load_checkpoint(folder)
        before = state.values["fingerprint"]
        other = sorted(
            name for name in {**before, **self.fingerprint} if before.get(name) != self.fingerprint.get(name)
        )
        if other:
            changes = ", ".join(f"{name}: {before.get(name)!r} → {self.fingerprint.get(name)!r}" for name in other)
            raise MVCustomError(
                f"resume_from_checkpoint: {folder} was made with other settings ({changes}). Give the same ones, or start "
                "anew in another output_dir."
            )
        return state

    def _restore(self) -> int:
        state = self._resumed
        if state is None:
            return 0
        trained = self.parts.trained
        stored = state.tensors["weights"]
        if stored.keys() != trained.keys():
            raise MVCustomError("resume_from_checkpoint: the checkpoint has other weights than this model's.")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(stored[name])
        restore_optimizer(self.optimizer.optimizer, state.tensors.get("optimizer", {}), state.values["optimizer"])
        self.lr_scheduler.load_state_dict(state.values["lr_scheduler"])
        if self.ema is not None:
            shadow = state.tensors["ema"]
            self.ema.load_state_dict(
                {**state.values["ema"], "shadow_params": [shadow[str(i)].to(self.device) for i in range(len(shadow))]}
            )
        if self.accelerator.scaler is not None and "scaler" in state.values:
            self.accelerator.scaler.load_state_dict(state.values["scaler"])
        self._resumed = None  # its tensors are as large as the weights
        return state.step
