"""What every trainer does: steps, records, checkpoints, interruption, averaged weights."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import MVCustomError
from ..launched_processes import meet_on_cpu
from .checkpoints import Checkpoints, TrainingState, load_checkpoint, optimizer_state, restore_optimizer
from .environment_checks import check_environment, trackers_of
from .interrupts import finishing_on_interrupt
from .progress import TrainingBar
from .records import Records

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer
    from diffusers.training_utils import EMAModel
    from torch.optim.lr_scheduler import LRScheduler

    from ..pipelines import MVCustomPipeline
    from .training_config import TrainingConfig

Config = TypeVar("Config", bound="TrainingConfig")


class Trainer(ABC, Generic[Config]):
    """Steps of a training that can be interrupted anywhere and goes on exactly as if it had not been.

    A subclass's samples are to follow from the seed and their numbers alone: sample n of a step is the same on one process
    with a large batch and on many with small ones, and after resuming.

    Args:
        config: The subclass's settings.
        pipe ([`MVCustomPipeline`]): The model.
        command (`str`): The command line, for the model card.

    Raises:
        MVCustomError: for an output folder with another training's work, or settings that this machine cannot follow.
    """

    result_name: ClassVar[str]
    """Folder of the result inside `output_dir`."""
    unit: ClassVar[str]
    """What samples are called."""
    shown: ClassVar[tuple[str, ...]] = ("loss",)
    """Losses in the progress bar."""
    uses_every_weight: ClassVar[bool] = True
    """Whether every sample reaches every trained weight (DDP need not look for those it does not)."""

    model: nn.Module
    optimizer: AcceleratedOptimizer
    lr_scheduler: LRScheduler

    def __init__(self, config: Config, pipe: MVCustomPipeline, command: str = "") -> None:
        check_environment(config)
        if pipe.subjects:
            raise MVCustomError(
                f"pipe: expected a model without a subject, got one with {', '.join(map(repr, pipe.subjects))}; call "
                "unload_subject first."
            )
        self.config = config
        self.pipe = pipe
        self.command = command
        self.output = Path(config.output_dir)
        self.checkpoints = Checkpoints(self.output / "checkpoints", config.checkpoints_total_limit)
        self._check_output_folder()
        kept = AcceleratorState().mixed_precision if AcceleratorState._shared_state else config.mixed_precision
        if kept != config.mixed_precision:
            raise MVCustomError(
                f"mixed_precision: this process has trained with {kept!r} before, and accelerate keeps one precision for a "
                f"process; train with {config.mixed_precision!r} in a new one."
            )
        self.accelerator = Accelerator(
            cpu=meet_on_cpu(),
            mixed_precision=config.mixed_precision,
            log_with=trackers_of(config.report_to),
            project_dir=self.output / "logs",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not self.uses_every_weight)],
        )
        self.device = self.accelerator.device
        if config.mixed_precision == "fp16" and self.device.type == "cpu":
            raise MVCustomError("mixed_precision: fp16 needs a GPU; on a CPU take bf16 or no.")
        if config.allow_tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        self.dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
        self.step = 0
        self.trained: dict[str, nn.Parameter] = {}
        self.ema: EMAModel | None = None

    # --- what a subclass does ---

    @abstractmethod
    def _set_up(self) -> None:
        """Sets `trained`, `model`, `optimizer` (both prepared), `lr_scheduler`, `ema`, and `step` by `_restore`."""

    @abstractmethod
    def _backward(self, micro: int) -> dict[str, Tensor]:
        """One batch of a step: adds gradients of its loss over `gradient_accumulation_steps`; returns all losses."""

    @abstractmethod
    def _validate(self, bar: TrainingBar) -> Any:
        """Shows how far the training is."""

    @abstractmethod
    def _finish(self, bar: TrainingBar) -> Path:
        """Saves the result and returns its folder."""

    def _release(self) -> None:
        """Takes out of the pipeline what was put in to train it; called however the training ends."""

    # --- steps ---

    @property
    def samples_per_step(self) -> int:
        """Samples for one update of the weights, over all processes."""
        config = self.config
        return config.train_batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    def train(self) -> Path:
        """Trains to the end (or to the step in which the user interrupts) and saves the result.

        Returns:
            `Path`: The result's folder.

        Raises:
            KeyboardInterrupt: if it was interrupted, after the checkpoint is written.
            MVCustomError: if a loss is not finite; the message names the last good checkpoint.
        """
        try:
            self._set_up()
            return self._train()
        finally:
            self._release()

    def _train(self) -> Path:
        config, main = self.config, self.accelerator.is_main_process
        start = self.step
        records = Records(self.output, self.step) if main else None
        bar = TrainingBar(
            config.max_train_steps,
            self.step,
            samples_per_step=self.samples_per_step,
            unit=self.unit,
            device=self.device,
            show=main,
        )
        with finishing_on_interrupt() as interrupt:
            stop = False
            while self.step < config.max_train_steps and not stop:
                values = self._update()
                self.step += 1
                measured = bar.update({name: values[name] for name in self.shown})
                if records is not None:
                    records.append(self.step, {**values, **measured})
                self.accelerator.log({**values, **measured}, step=self.step)
                stop = self._any(interrupt.requested)
                if stop or self.step % config.checkpointing_steps == 0:
                    self._save_checkpoint()
                if not stop and config.validation_steps and self.step % config.validation_steps == 0:
                    self._validate(bar)
                bar.pause()
        if self.step < config.max_train_steps:
            bar.write(f"stopped after step {self.step}; go on with --resume_from_checkpoint latest")
            bar.close()
            self.accelerator.end_training()
            raise KeyboardInterrupt
        if self.step % config.checkpointing_steps and self.step > start:
            self._save_checkpoint()
        try:
            folder = self._finish(bar)
        except (OSError, SafetensorError) as error:
            raise MVCustomError(
                f"{self.output / self.result_name}: could not be written ({error}). Nothing is lost: the training's last "
                f"state is {self.checkpoints.latest()}; make room and go on with --resume_from_checkpoint latest."
            ) from error
        bar.close()
        return folder

    def _update(self) -> dict[str, float]:
        """One update of the weights. Returns the losses, means over the step's samples."""
        config, accelerator = self.config, self.accelerator
        parameters = list(self.trained.values())
        totals: dict[str, Tensor] = {}
        for micro in range(config.gradient_accumulation_steps):
            last = micro + 1 == config.gradient_accumulation_steps
            with nullcontext() if last else accelerator.no_sync(self.model):
                for name, value in self._backward(micro).items():
                    totals[name] = totals.get(name, 0) + value / config.gradient_accumulation_steps
        totals = accelerator.reduce(totals, reduction="mean")
        values: dict[str, float] = {name: value.item() for name, value in totals.items()}
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
        values["learning_rate"] = float(self.lr_scheduler.get_last_lr()[0])
        return values

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
        return flag if self.accelerator.num_processes == 1 else self._sum(flag) > 0

    def _sum(self, number: float) -> float:
        """A number summed over the processes."""
        if self.accelerator.num_processes == 1:
            return float(number)
        return float(self.accelerator.reduce(torch.tensor(float(number), device=self.device), reduction="sum"))

    def _upload(self, upload: Callable[[str], str], bar: TrainingBar) -> None:
        """Uploads the result, which is saved already, with a function of the repository's name."""
        try:
            address = upload(self.config.hub_model_id or self.output.name)
        except Exception as error:  # whatever a network and its libraries raise
            raise MVCustomError(
                f"push_to_hub: {error}. The result is whole in {self.output / self.result_name}; upload it with "
                "--resume_from_checkpoint latest, which trains no further."
            ) from error
        bar.write(f"uploaded → {address}")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the places of the trained ones, if there are some."""
        if self.ema is None:
            yield
            return
        parameters = list(self.trained.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    # --- checkpoints ---

    def _save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            tensors, values = optimizer_state(self.optimizer.optimizer)
            state = TrainingState(
                self.step,
                {"weights": dict(self.trained), "optimizer": tensors},
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

    def _read_checkpoint(self, fingerprint: dict[str, Any]) -> TrainingState | None:
        """The checkpoint to go on from. Its settings have to be those of now, `fingerprint`, which is kept."""
        self.fingerprint = json.loads(json.dumps(fingerprint))  # as it will be read
        if self.config.resume_from_checkpoint is None:
            return None
        folder = self.checkpoints.resolve(self.config.resume_from_checkpoint)
        if folder is None:
            return None
        state = load_checkpoint(folder)
        before, now = state.values["fingerprint"], self.fingerprint
        other = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
        if other:
            changes = ", ".join(f"{name}: {before.get(name)!r} → {now.get(name)!r}" for name in other)
            why = ""
            if other == ["max_train_steps"]:
                why = f" With lr_scheduler {self.config.lr_scheduler} the learning rate follows the number of steps;"
                why += " only a training with a constant one can be made longer."
            raise MVCustomError(
                f"resume_from_checkpoint: {folder} was made with other settings ({changes}). Give the same ones, or start "
                f"anew in another output_dir.{why}"
            )
        return state

    def _restore(self, state: TrainingState | None) -> int:
        """Puts a checkpoint's state in place. Returns its step."""
        if state is None:
            return 0
        stored = state.tensors["weights"]
        if stored.keys() != self.trained.keys():
            raise MVCustomError("resume_from_checkpoint: the checkpoint has other weights than this model's.")
        with torch.no_grad():
            for name, weight in self.trained.items():
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
        return state.step

    def _check_output_folder(self) -> None:
        """Raises if this training would write over another one's work."""
        output = self.output
        if output.exists() and not output.is_dir():
            raise MVCustomError(f"output_dir: expected a folder, {output} is a file.")
        if isinstance(self.config.data, str) and Path(self.config.data).resolve() == output.resolve():
            raise MVCustomError(f"output_dir: expected a folder of its own, got {output}, which holds the data.")
        if self.config.resume_from_checkpoint is not None:
            return
        for found in (self.checkpoints.latest(), output / self.result_name):
            if found is not None and found.exists():
                raise MVCustomError(
                    f"output_dir: {output} holds a training already ({found.name}); go on with "
                    "--resume_from_checkpoint latest, or take another folder."
                )
