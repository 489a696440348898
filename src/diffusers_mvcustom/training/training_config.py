"""The settings that every trainer has."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from ..errors import MVCustomError
from ..files.text_files import is_finite_number


@dataclass
class TrainingConfig:
    """Settings of a [`Trainer`]. Steps count updates of the weights.

    Args:
        model: Model folder or Hub id.
        data: What to learn from.
        output_dir: Folder to write to.
        motion_adapter: Motion adapter to take instead of the model's own.
        revision: Branch, tag or commit of the model on the Hub.
        variant: Variant of the model's files, such as fp16.
        text_dropout: Share of samples without text (10 %).
        snr_gamma: Min-SNR weighting of the denoising error, 5 is usual; none if not given.
        max_train_steps: Updates of the weights.
        train_batch_size: Samples at a time on each process.
        gradient_accumulation_steps: Batches for an update.
        gradient_checkpointing: Compute activations again in the backward pass: less memory, slower.
        mixed_precision: no, fp16 or bf16.
        learning_rate: Learning rate (1e-4).
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
        validation_inference_steps: Denoising steps of what is generated at a validation.
        validation_guidance_scale: Text guidance of what is generated at a validation.
        validation_seed: Seed of the validation's noise.
        report_to: tensorboard, wandb, comet_ml, all or none.
        tracker_project: Name of the run in the tracker.
        cache_latents: Keep latents on the disk, keyed by content.
        cache_dir: Folder of cached latents; `output_dir/cache` if not given.
        allow_tf32: TF32 on Ampere GPUs and newer.
        push_to_hub: Upload the result when done.
        hub_model_id: Repository to upload to; the output folder's name if not given.
        hub_private_repo: Make the repository private.
        offline: Read models from the local cache only.
    """

    model: str
    data: str | list[str]
    output_dir: str
    _: KW_ONLY
    motion_adapter: str | None = None
    revision: str | None = None
    variant: str | None = None
    # --- losses ---
    text_dropout: float = 0.1
    snr_gamma: float | None = None
    # --- optimisation ---
    max_train_steps: int
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
    ema_decay: float
    seed: int = 0
    # --- along the way ---
    checkpointing_steps: int
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = None
    validation_steps: int = 0
    validation_inference_steps: int = 25
    validation_guidance_scale: float
    validation_seed: int = 0
    report_to: str = "tensorboard"
    tracker_project: str
    cache_latents: bool
    cache_dir: str | None = None
    allow_tf32: bool = False
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "output_dir"):
            self._check_text(name)
        self._check_choices()
        if not 0 <= self.seed < 2**32:
            raise MVCustomError(f"seed: expected a whole number from 0 to 2³² - 1, got {self.seed}.")
        self._check_least(
            max_train_steps=1,
            train_batch_size=1,
            gradient_accumulation_steps=1,
            lr_warmup_steps=0,
            lr_num_cycles=1,
            checkpointing_steps=1,
            checkpoints_total_limit=1,
            validation_steps=0,
            validation_inference_steps=1,
        )
        self._check_shares("text_dropout", "ema_decay")
        self._check_positive("learning_rate", "snr_gamma", "adam_epsilon")
        self._check_not_negative("max_grad_norm")

    # --- checks; a setting that may be left out is not checked where it is ---

    def _check_text(self, name: str) -> None:
        if not getattr(self, name).strip():
            raise MVCustomError(f"{name}: expected a text that is not empty.")

    def _check_choices(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise MVCustomError(
                    f"{name}: expected one of {', '.join(get_args(hint))}, got {getattr(self, name)!r}."
                )

    def _check_least(self, **least: int) -> None:
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise MVCustomError(f"{name}: expected at least {bound}, got {value}.")

    def _check_shares(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise MVCustomError(f"{name}: expected a share in [0, 1], got {getattr(self, name)}.")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not (is_finite_number(value) and value > 0):
                raise MVCustomError(f"{name}: expected a number above 0, and a finite one, got {value}.")

    def _check_not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not (is_finite_number(value) and value >= 0):
                raise MVCustomError(f"{name}: expected 0 or more, and a finite number, got {value}.")
