"""Every setting of the backbone trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import MVCustomError
from .backbone_windows import WindowSchedule


@dataclass
class BackboneTrainingConfig:
    """Settings of [`BackboneTrainer`]. Steps count updates of the weights.

    Args:
        model: Model folder or Hub id: a pipeline with motion modules, or Stable Diffusion 1.5, which is given some.
        data: Folders of videos or of folders of frames, webdataset shards (uncompressed .tar), or patterns of shards such
            as `shards/clips-{0000..0041}.tar`; one or several.
        output_dir: Folder to write to: `motion_adapter/` (the result), `checkpoints/`, `validation/`, `logs/`.
        motion_adapter: Motion adapter to start from; the model's own motion modules if not given.
        fresh_motion: Start from new motion modules, whose output is zero at first. A model without any is given those.
        revision: Branch, tag or commit of the model on the Hub.
        variant: Variant of the model's files, such as fp16.
        resolution: Side of the square frames in pixels, or height and width; the model's own if not given.
        num_frames: Frames of a clip (AnimateDiff: 16).
        frame_stride: Frames of the video from one frame of the clip to the next (AnimateDiff: 4); smaller where a video is
            too short for it.
        min_crop: Smallest crop, as the share of the largest one of its shape; 1 cuts off no more than the shape needs.
        random_crop: Crops lie anywhere; otherwise in the middle.
        horizontal_flip: Share of clips that are mirrored. Captions that say left and right then lie.
        image_share: Share of samples that are single frames, for the quality of each view.
        caption_column: Column or key of the captions; caption, text, prompt or description if not given.
        default_caption: Text of videos that have none.
        text_dropout: Share of samples without text (10 %).
        holdout: Videos kept out of training for the validation loss, evenly spread.
        unreadable: skip (another video takes its place, and it is named) or refuse.
        num_workers: Processes that decode videos ahead of time; 0 decodes in the training process.
        cache_latents: Keep latents of frames on the disk, keyed by content. It pays with `--random_crop false
            --frame_stride 1` and few videos, where frames come again.
        cache_dir: Folder of cached latents; `output_dir/cache` if not given.
        vae_batch_size: Frames that the autoencoder encodes at a time.
        window_schedule: When which attention window begins: pairs of a step (whole number) or a share of all steps and a
            window (odd number of positions, null for the whole map, or windows by feature map size).
        noise_offset: Noise that a clip's channels share, added to its noise: helps with very dark and bright videos.
        snr_gamma: Min-SNR weighting of the denoising error, 5 is usual; none if not given.
        max_train_steps: Updates of the weights.
        train_batch_size: Clips at a time on each process.
        gradient_accumulation_steps: Batches for an update.
        gradient_checkpointing: Compute activations again in the backward pass: less memory, slower.
        mixed_precision: no, fp16 or bf16.
        learning_rate: Learning rate (AnimateDiff: 1e-4).
        optimizer: adamw, adamw8bit (bitsandbytes) or prodigy (prodigyopt; a learning rate of 1 is usual).
        adam_beta1: First moment's decay.
        adam_beta2: Second moment's decay.
        adam_weight_decay: Weight decay.
        adam_epsilon: Epsilon of Adam.
        max_grad_norm: Gradients are clipped to this norm; 0 turns it off.
        lr_scheduler: linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup.
        lr_warmup_steps: Steps of warm-up.
        lr_num_cycles: Cycles of cosine_with_restarts.
        lr_power: Power of polynomial.
        use_ema: Keep and save an exponential moving average of the weights.
        ema_decay: Its decay.
        seed: Seed of all that is random: the same seed, data and settings give the same weights.
        checkpointing_steps: Steps between checkpoints.
        checkpoints_total_limit: Newest checkpoints to keep; all if not given.
        resume_from_checkpoint: latest, or a checkpoint's folder. `latest` starts anew where there is none.
        validation_steps: Steps between validations; 0 turns them off, but for one at the end.
        validation_prompts: Texts of the clips generated at each validation, always from the same noise.
        validation_inference_steps: Denoising steps of a validation clip.
        validation_guidance_scale: Text guidance of a validation clip.
        validation_seed: Seed of the validation's noise.
        report_to: tensorboard, wandb, comet_ml, all or none.
        tracker_project: Name of the run in the tracker.
        allow_tf32: TF32 on Ampere GPUs and newer.
        push_to_hub: Upload the motion adapter when done.
        hub_model_id: Repository to upload to; the output folder's name if not given.
        hub_private_repo: Make the repository private.
        offline: Read models from the local cache only.
    """

    model: str
    data: str | list[str]
    output_dir: str
    motion_adapter: str | None = None
    fresh_motion: bool = False
    revision: str | None = None
    variant: str | None = None
    # --- data ---
    resolution: int | tuple[int, int] | None = None
    num_frames: int = 16
    frame_stride: int = 4
    min_crop: float = 1.0
    random_crop: bool = True
    horizontal_flip: float = 0.0
    image_share: float = 0.0
    caption_column: str | None = None
    default_caption: str = ""
    text_dropout: float = 0.1
    holdout: int = 0
    unreadable: Literal["skip", "refuse"] = "skip"
    num_workers: int = 2
    cache_latents: bool = False
    cache_dir: str | None = None
    vae_batch_size: int = 16
    # --- windows ---
    window_schedule: list[tuple[int | float, int | dict[str, int | None] | None]] = field(
        default_factory=lambda: [(0, 1), (0.2, 3), (0.4, 5), (0.6, 7), (0.8, None)]
    )
    # --- losses ---
    noise_offset: float = 0.0
    snr_gamma: float | None = None
    # --- optimisation ---
    max_train_steps: int = 50000
    train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    learning_rate: float = 1e-4
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    ] = "constant"
    lr_warmup_steps: int = 0
    lr_num_cycles: int = 1
    lr_power: float = 1.0
    use_ema: bool = False
    ema_decay: float = 0.9999
    seed: int = 0
    # --- along the way ---
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = None
    validation_steps: int = 0
    validation_prompts: list[str] = field(default_factory=list)
    validation_inference_steps: int = 25
    validation_guidance_scale: float = 7.5
    validation_seed: int = 0
    report_to: str = "tensorboard"
    tracker_project: str = "mvcustom-backbone"
    allow_tf32: bool = False
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "output_dir"):
            if not getattr(self, name).strip():
                raise MVCustomError(f"{name}: expected a text that is not empty.")
        if not self.data or not all(place.strip() for place in self.places):
            raise MVCustomError(f"data: expected a folder, shards, or a list of them, got {self.data!r}.")
        for name, least in (
            ("num_frames", 2),
            ("frame_stride", 1),
            ("holdout", 0),
            ("num_workers", 0),
            ("vae_batch_size", 1),
            ("max_train_steps", 1),
            ("train_batch_size", 1),
            ("gradient_accumulation_steps", 1),
            ("lr_warmup_steps", 0),
            ("lr_num_cycles", 1),
            ("checkpointing_steps", 1),
            ("validation_steps", 0),
            ("validation_inference_steps", 1),
        ):
            if getattr(self, name) < least:
                raise MVCustomError(f"{name}: expected at least {least}, got {getattr(self, name)}.")
        for name in ("horizontal_flip", "image_share", "text_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise MVCustomError(f"{name}: expected a share in [0, 1], got {getattr(self, name)}.")
        if not 0 < self.min_crop <= 1:
            raise MVCustomError(f"min_crop: expected a share in (0, 1], got {self.min_crop}.")
        if self.min_crop < 1 and not self.random_crop:
            raise MVCustomError("min_crop: crops in the middle (random_crop: false) are as large as can be.")
        for name in ("learning_rate", "snr_gamma", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise MVCustomError(f"{name}: expected a number above 0, got {value}.")
        for name in ("noise_offset", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise MVCustomError(f"{name}: expected 0 or more, got {getattr(self, name)}.")
        if self.checkpoints_total_limit is not None and self.checkpoints_total_limit < 1:
            raise MVCustomError(f"checkpoints_total_limit: expected at least 1, got {self.checkpoints_total_limit}.")
        if self.fresh_motion and self.motion_adapter is not None:
            raise MVCustomError("fresh_motion: motion_adapter names what to start from; give one of the two.")
        self.windows()  # raises if they will not do

    @property
    def places(self) -> list[str]:
        """`data` as a list."""
        return [self.data] if isinstance(self.data, str) else list(self.data)

    def windows(self) -> WindowSchedule:
        """The attention windows by step."""
        return WindowSchedule(self.window_schedule, self.max_train_steps)
