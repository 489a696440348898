"""`BackboneTrainer`: from videos to motion modules with dense spatio-temporal attention."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from ..errors import MVCustomError
from ..models.motion_transformer import check_temporal_heads
from .backbone_batches import ClipBatches
from .backbone_files import save_motion_adapter, upload_motion_adapter
from .backbone_model import BackboneTrainingModel
from .backbone_parts import clip_size, extract_motion_adapter, fresh_motion_adapter, motion_parameters
from .backbone_training_config import BackboneTrainingConfig
from .backbone_validation import BackboneValidation, generate_clips, held_out_loss
from .clip_geometry import GEOMETRY_SUFFIX
from .latent_cache import LatentCache, sampled_key
from .optimization import make_lr_scheduler, make_optimizer
from .progress import TrainingBar
from .records import plot_losses
from .sampling import derived_seed
from .trainer import Trainer
from .video_clips import ClipLoader, ClipNumbers, ClipSettings, VideoClips
from .video_sources import VideoSource, find_videos

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline

_FREE_TO_CHANGE = (
    *("model", "data", "output_dir", "motion_adapter", "revision", "variant", "offline"),  # contents count, not places
    *("cache_latents", "cache_dir", "vae_batch_size", "num_workers", "resume_from_checkpoint"),
    *("checkpointing_steps", "checkpoints_total_limit", "gradient_checkpointing", "allow_tf32"),
    *("report_to", "tracker_project", "push_to_hub", "hub_model_id", "hub_private_repo"),
    *("train_batch_size", "gradient_accumulation_steps"),  # their product counts
    "window_schedule",  # its steps count
)
"""Settings that do not change the weights a training ends with, and may be others when it is resumed."""


class BackboneTrainer(Trainer[BackboneTrainingConfig]):
    """Trains the motion modules of a U-Net on videos while their attention window widens (MVCustom, stage 1).

    All else is frozen. What a sample is (video, place, crop, text, noise level, noise) follows from the seed and the sample's
    number alone, so a training that was interrupted anywhere goes on exactly as if it had not been.

    Args:
        config ([`BackboneTrainingConfig`]): Settings.
        pipe ([`MVCustomPipeline`]): The model. Its motion modules are trained in place; afterwards its attention window is
            the one they were trained with last.
        command (`str`, *optional*): The command line, for the model card.

    Raises:
        MVCustomError: before any computation, for settings, videos or an output folder that will not do.

    Examples:
        ```py
        >>> from diffusers_mvcustom import MVCustomPipeline
        >>> from diffusers_mvcustom.training import BackboneTrainer, BackboneTrainingConfig

        >>> config = BackboneTrainingConfig("you/base", "videos/", "out/")  # doctest: +SKIP
        >>> BackboneTrainer(config, MVCustomPipeline.from_pretrained("you/base")).train()  # doctest: +SKIP
        PosixPath('out/motion_adapter')
        ```
    """

    result_name = "motion_adapter"
    unit = "clips"

    def __init__(self, config: BackboneTrainingConfig, pipe: MVCustomPipeline, *, command: str = "") -> None:
        _check_model(config, pipe)
        super().__init__(config, pipe, command)
        self.size = clip_size(config.resolution, pipe.unet.config, pipe.vae_scale_factor)
        self.windows = config.windows()
        sources, self.held_out = _split(find_videos(config.places, config.caption_column), config.holdout)
        settings = ClipSettings(
            num_frames=config.num_frames,
            frame_stride=config.frame_stride,
            height=self.size[0],
            width=self.size[1],
            min_crop=config.min_crop,
            random_crop=config.random_crop,
            horizontal_flip=config.horizontal_flip,
            image_share=config.image_share,
            text_dropout=config.text_dropout,
            default_caption=config.default_caption,
            caption_column=config.caption_column,
            skip_unreadable=config.unreadable == "skip",
            geometry=config.carried_noise > 0,
            seed=config.seed,
        )
        self.clips = VideoClips(sources, settings)
        self.with_geometry = sum(source.geometry is not None for source in sources)
        if config.carried_noise and not self.with_geometry:
            raise MVCustomError(
                f"carried_noise: none of the {len(sources)} videos has a geometry; expected NAME{GEOMETRY_SUFFIX} beside "
                "NAME.mp4 or the folder of frames NAME, with depth, camera_to_world and intrinsics."
            )
        self._resumed = self._read_checkpoint(
            {
                **_fingerprint(config, sources, pipe.unet),
                "windows": self.windows.to_list(),
                "samples_per_step": self.samples_per_step,
            }
        )
        self._unreadable: set[str] = set()

    def train(self) -> Path:
        """Trains to the end (or to the step in which the user interrupts) and saves `output_dir/motion_adapter`.

        Returns:
            `Path`: The folder, for `MotionAdapter.from_pretrained`.

        Raises:
            KeyboardInterrupt: if it was interrupted, after the checkpoint is written.
            MVCustomError: if a loss is not finite; the message names the last good checkpoint.
        """
        unet = self.pipe.unet
        checkpointed = unet.is_gradient_checkpointing
        self.loader: ClipLoader | None = None
        try:
            return super().train()
        finally:
            if self.loader is not None:
                self.loader.close()
            unet.requires_grad_(False).eval()
            if not checkpointed:
                unet.disable_gradient_checkpointing()

    # --- once ---

    def _set_up(self) -> None:
        config, pipe = self.config, self.pipe
        set_seed(config.seed)
        for part in (pipe.unet, pipe.text_encoder, pipe.vae):
            part.requires_grad_(False).eval()
        if config.fresh_motion:
            torch.manual_seed(derived_seed(config.seed, "initial weights", 0))
            pipe.unet.load_motion_modules(fresh_motion_adapter(pipe.unet.config))
        for part in (pipe.unet, pipe.text_encoder, pipe.vae):
            part.to(self.device)
            if part is not pipe.vae and part.dtype != self.dtype:  # half-precision autoencoders overflow
                part.to(self.dtype)
        self.trained = motion_parameters(pipe.unet)
        for weight in self.trained.values():
            weight.data = weight.data.float()
            weight.requires_grad_(True)
        if config.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.training_model = BackboneTrainingModel(pipe.unet, scheduler, config.snr_gamma)
        cache = None
        if config.cache_latents:
            cache = LatentCache(pipe.vae, Path(config.cache_dir) if config.cache_dir else self.output / "cache")
        self.batches = ClipBatches(
            pipe,
            num_timesteps=scheduler.config.num_train_timesteps,
            seed=config.seed,
            noise_offset=config.noise_offset,
            carried_noise=config.carried_noise,
            device=self.device,
            dtype=self.dtype,
            vae_batch_size=config.vae_batch_size,
            cache=cache,
        )
        held_out = self._held_out_clips()
        for number in range(len(self.held_out)):  # what cannot be read is to stop nothing later
            self._tell_unreadable(held_out[number].unreadable)
        parameters = list(self.trained.values())
        optimizer = make_optimizer(config, [{"params": parameters, "lr": config.learning_rate}])
        self.lr_scheduler = make_lr_scheduler(config, optimizer)
        self.ema = EMAModel(parameters, decay=config.ema_decay) if config.use_ema else None
        self.model, self.optimizer = self.accelerator.prepare(self.training_model, optimizer)
        self.model.train()
        self.step = self._restore(self._resumed)
        self._resumed = None  # its tensors are as large as the weights
        pipe.set_attention_window(self.windows.at(self.step).setting, config.temporal_heads)
        self.loader = ClipLoader(
            self.clips,
            ClipNumbers(
                self.step,
                config.max_train_steps,
                batch_size=config.train_batch_size,
                accumulation=config.gradient_accumulation_steps,
                process=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
            ),
            config.num_workers,
        )
        self.accelerator.print(self._summary())
        self.accelerator.init_trackers(config.tracker_project, config={"command": self.command, "seed": config.seed})

    def _summary(self) -> str:
        config = self.config
        stages = ", ".join(
            f"{'whole map' if windows.setting is None else windows.setting} from step {step}"
            for step, windows in self.windows.stages
        )
        extras = f", {config.temporal_heads} heads along time alone" if config.temporal_heads else ""
        if config.carried_noise:
            extras += f"; noise of {config.carried_noise:.0%} of {self.with_geometry} videos carried by their geometry"
        return (
            f"{len(self.clips.sources)} videos, {len(self.held_out)} held out; clips of {config.num_frames} × "
            f"{self.size[0]} × {self.size[1]}; attention window {stages}{extras}; trained weights: "
            f"{sum(weight.numel() for weight in self.trained.values()):,}; {self.samples_per_step} clips a step"
        )

    # --- each step ---

    def _update(self) -> dict[str, float]:
        windows = self.windows.at(self.step)
        if windows.setting != self.pipe.config.attention_window:
            self.pipe.set_attention_window(windows.setting)
        return super()._update()

    def _backward(self, micro: int) -> dict[str, Tensor]:
        config = self.config
        assert self.loader is not None  # set up before the first step
        samples = next(self.loader)
        self._tell_unreadable(reason for sample in samples for reason in sample.unreadable)
        torch.manual_seed(derived_seed(config.seed, "dropout", samples[0].number))
        losses = self.model(self.batches(samples))
        self.accelerator.backward(losses["loss"] / config.gradient_accumulation_steps)
        shown = ("loss", "image") if config.image_share else ("loss",)
        return {name: losses[name].detach().float() for name in shown}

    def _tell_unreadable(self, reasons: Iterable[str]) -> None:
        for reason in reasons:
            if reason not in self._unreadable:
                self._unreadable.add(reason)
                print(f"skipped ({len(self._unreadable)} so far): {reason}", file=sys.stderr)

    # --- validation and result ---

    def _validate(self, bar: TrainingBar) -> BackboneValidation | None:
        result, config = None, self.config
        if self.accelerator.is_main_process:
            loss, clips = None, []
            random_state = torch.get_rng_state()
            self.training_model.eval()
            try:
                with self._averaged(), self.accelerator.autocast():
                    if self.held_out:
                        loss = held_out_loss(self.training_model, self.batches, self._held_out_clips())
                    if config.validation_prompts:
                        clips = generate_clips(
                            self.pipe,
                            config.validation_prompts,
                            num_frames=config.num_frames,
                            size=self.size,
                            steps=config.validation_inference_steps,
                            guidance=config.validation_guidance_scale,
                            seed=config.validation_seed,
                        )
            finally:
                self.training_model.train()
                torch.set_rng_state(random_state)
            result = BackboneValidation(self.step, loss, clips)
            result.save(self.output / "validation")
            self.accelerator.log(result.values, step=self.step)
            for tracker in self.accelerator.trackers:
                if hasattr(tracker, "log_images") and clips:
                    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                    tracker.log_images(result.arrays(), step=self.step, **layout)
            if result.summary:
                bar.write(f"step {self.step}: {result.summary}")
        self.accelerator.wait_for_everyone()
        return result

    def _held_out_clips(self) -> VideoClips:
        settings = dict(vars(self.clips.settings))
        settings |= {"seed": self.config.validation_seed, "image_share": 0.0, "text_dropout": 0.0}
        return VideoClips(self.held_out, ClipSettings(**settings))

    def _finish(self, bar: TrainingBar) -> Path:
        folder, config = self.output / self.result_name, self.config
        result = self._validate(bar)
        skipped = self._sum(len(self._unreadable))
        if result is not None:  # on the main process
            plot_losses(self.output, self.output / "losses.png")
            windows = self.windows.at(self.step - 1)
            with self._averaged():
                adapter = extract_motion_adapter(self.pipe.unet, windows, config.temporal_heads)
            record = {
                "command": self.command,
                "steps": self.step,
                "samples_per_step": self.samples_per_step,
                "videos": len(self.clips.sources),
                "skipped": int(skipped),
                "settings": asdict(config),
                **result.values,
            }
            save_motion_adapter(
                adapter,
                folder,
                base_model=config.model,
                num_frames=config.num_frames,
                record=record,
                validation=result,
            )
            if skipped:
                bar.write(f"{int(skipped)} videos could not be read and were skipped")
            bar.write(f"motion adapter → {folder}; losses → {self.output / 'losses.png'}")
            if config.push_to_hub:
                self._upload(lambda name: upload_motion_adapter(folder, name, private=config.hub_private_repo), bar)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return folder


def _check_model(config: BackboneTrainingConfig, pipe: MVCustomPipeline) -> None:
    if pipe.vae is None or pipe.unet is None or pipe.text_encoder is None or pipe.tokenizer is None:
        raise MVCustomError("model: expected one with unet, vae, text_encoder and tokenizer.")
    if not isinstance(pipe.vae, AutoencoderKL):
        raise MVCustomError(f"model: expected an AutoencoderKL, got {type(pipe.vae).__name__}.")
    check_temporal_heads(pipe.unet, config.temporal_heads)
    if pipe.subject is not None:
        raise MVCustomError("model: expected one without a subject; call pipe.unload_subject() first.")
    longest = pipe.unet.config.motion_max_seq_length
    if config.num_frames > longest:
        raise MVCustomError(
            f"num_frames: expected at most {longest} (the motion modules' positions), got {config.num_frames}."
        )


def _split(sources: list[VideoSource], holdout: int) -> tuple[list[VideoSource], list[VideoSource]]:
    """Videos to train on, and those held out, evenly spread."""
    if holdout >= len(sources):
        raise MVCustomError(f"holdout: expected fewer than the {len(sources)} videos that there are, got {holdout}.")
    chosen = {(2 * n + 1) * len(sources) // (2 * holdout) for n in range(holdout)}
    return (
        [source for n, source in enumerate(sources) if n not in chosen],
        [source for n, source in enumerate(sources) if n in chosen],
    )


def _fingerprint(config: BackboneTrainingConfig, sources: list[VideoSource], unet: torch.nn.Module) -> dict[str, Any]:
    """What a checkpoint and the training that goes on from it must have in common.

    With a constant learning rate more steps are only more of the same, so their number may change.
    """
    values = {name: value for name, value in asdict(config).items() if name not in _FREE_TO_CHANGE}
    values = {name: value for name, value in values.items() if not name.startswith("validation_")}
    if config.lr_scheduler in ("constant", "constant_with_warmup"):
        del values["max_train_steps"]
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        digest.update(
            repr((source.name, source.size, source.captions, source.sidecar and source.sidecar.size)).encode()
        )
        if config.carried_noise:
            digest.update(repr(source.geometry and source.geometry.size).encode())
    key = sampled_key(unet, but="motion_modules" if config.fresh_motion else None)
    return {**values, "videos": digest.hexdigest(), "unet weights": key}
