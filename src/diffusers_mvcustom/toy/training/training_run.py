"""The loop that all stages of the toy model's training share: checkpoints, resuming, averaged weights, a record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ...errors import MVCustomError
from ...training.checkpoints import Checkpoints, TrainingState, load_checkpoint, optimizer_state, restore_optimizer
from ...training.interrupts import finishing_on_interrupt
from ...training.progress import TrainingBar
from ...training.records import Records
from ...training.sampling import derived_seed


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix products in it are fast, else float32: CPUs without such instructions emulate it, slowly."""
    if device.type != "cpu":
        return torch.bfloat16
    # Not in every torch of the supported range; without it float32 is right everywhere.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


class TrainingRun:
    """Trains modules in a folder; called again it goes on from the newest checkpoint, exactly.

    Args:
        folder (`Path`): Checkpoints and `metrics.jsonl`.
        modules (`dict[str, nn.Module]`): What is trained.
        learning_rate (`float`): Of AdamW, after `warm_up` steps; from the share `decay_from` of the steps on it falls to
            a twentieth.
        max_steps (`int`): Steps in all.
        batch_size (`int`): Samples a step.
        ema_decay (`float`, *optional*): Of the averaged weights; `None` keeps none.
        device (`torch.device`): Where to train.
        seed (`int`): Of everything drawn while training.
        save_every (`int`): Steps between checkpoints.
        autocast (`torch.dtype`, *optional*): What convolutions and matrix products compute in; weights stay float32. By
            default bfloat16 where the device multiplies it; `torch.float32` for full precision.
        max_seconds (`float`, *optional*): Ends earlier, after so long in [`train`]; the learning rate falls with the time
            then, if that is the nearer end. For a machine that is there for minutes: how many steps those are need not be
            known.
    """

    def __init__(
        self,
        folder: Path,
        modules: Mapping[str, nn.Module],
        *,
        learning_rate: float,
        max_steps: int,
        batch_size: int,
        ema_decay: float | None = 0.999,
        weight_decay: float = 1e-2,
        warm_up: int = 200,
        device: torch.device | str = "cpu",
        seed: int = 0,
        save_every: int = 500,
        decay_from: float = 0.8,
        autocast: torch.dtype | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self.folder, self.modules, self.device = folder, dict(modules), torch.device(device)
        self.max_steps, self.batch_size, self.seed, self.save_every = max_steps, batch_size, seed, save_every
        self.learning_rate, self.warm_up, self.decay_from = learning_rate, warm_up, decay_from
        self.max_seconds, self._started = max_seconds, time.monotonic()
        self.autocast = fast_dtype(self.device) if autocast is None else autocast
        for module in self.modules.values():
            # torch's own annotations leave this argument out of some forms of the call.
            module.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.weights = {
            f"{part}.{name}": weight for part, module in modules.items() for name, weight in module.named_parameters()
        }
        parameters = list(self.weights.values())
        self.optimizer = torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True
        )
        self.ema = None if ema_decay is None else EMAModel(parameters, decay=ema_decay, foreach=True)
        self.checkpoints = Checkpoints(folder / "checkpoints", total_limit=2)
        self.step = 0
        newest = self.checkpoints.latest()
        if newest is not None:
            self._restore(load_checkpoint(newest))

    def train(self, loss: Callable[[int, list[int]], Mapping[str, Tensor]], until: int | None = None) -> None:
        """Trains to the last step (or to step `until`).

        Args:
            loss (`Callable`): From a step and the numbers of its samples to losses by name, `loss` among them. Called
                with the global generator seeded by the step.
            until (`int`, *optional*): Stop here instead.
        """
        last = self.max_steps if until is None else min(until, self.max_steps)
        self._started = time.monotonic()
        records = Records(self.folder, self.step)
        bar = TrainingBar(
            last, self.step, samples_per_step=self.batch_size, unit="images", device=self.device, show=True
        )
        with finishing_on_interrupt() as interrupt:
            ended = self.step >= last
            while not ended:
                torch.manual_seed(derived_seed(self.seed, "step", self.step))
                numbers = list(range(self.step * self.batch_size, (self.step + 1) * self.batch_size))
                with torch.autocast(self.device.type, self.autocast, enabled=self.autocast != torch.float32):
                    values = loss(self.step, numbers)
                values["loss"].backward()
                norm = nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
                if not torch.isfinite(norm):
                    raise MVCustomError(
                        f"step {self.step + 1}: the loss is not finite; newest checkpoint: {self.checkpoints.latest()}"
                    )
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate * self._schedule()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                if self.ema is not None:
                    self.ema.step(list(self.weights.values()))
                self.step += 1
                numbers_now = {name: value.item() for name, value in values.items()}
                measured = bar.update(numbers_now)
                if self.step % 10 == 0:
                    records.append(self.step, {**numbers_now, **measured})
                ended = self.step == last or self.progress >= 1 or interrupt.requested
                if self.step % self.save_every == 0 or ended:
                    self.save()
        bar.close()
        if interrupt.requested:
            raise KeyboardInterrupt

    @property
    def progress(self) -> float:
        """How much of the training is done, from 0 to 1: of its steps, or of its seconds if those end it first."""
        steps = self.step / self.max_steps
        if self.max_seconds is None:
            return steps
        return max(steps, (time.monotonic() - self._started) / self.max_seconds)

    def use_averaged_weights(self) -> None:
        """Puts the averaged weights in the places of the trained ones, for good."""
        if self.ema is not None:
            self.ema.copy_to(list(self.weights.values()))
        for module in self.modules.values():
            module.eval()

    def save(self) -> None:
        """Writes a checkpoint."""
        tensors, values = optimizer_state(self.optimizer)
        state = TrainingState(self.step, {"weights": dict(self.weights), "optimizer": tensors}, {"optimizer": values})
        if self.ema is not None:
            ema = self.ema.state_dict()
            state.tensors["ema"] = dict(zip(self.weights, ema.pop("shadow_params")))
            state.values["ema"] = ema
        self.checkpoints.save(state)

    def _restore(self, state: TrainingState) -> None:
        stored = state.tensors["weights"]
        if {name: weight.shape for name, weight in stored.items()} != {n: w.shape for n, w in self.weights.items()}:
            raise MVCustomError(f"{self.folder}: its checkpoint is of another model; take another folder.")
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(stored[name])
        restore_optimizer(self.optimizer, state.tensors["optimizer"], state.values["optimizer"])
        if self.ema is not None:
            ema = state.tensors["ema"]
            shadow = [torch.empty_like(weight).copy_(ema[name]) for name, weight in self.weights.items()]
            self.ema.load_state_dict({**state.values["ema"], "shadow_params": shadow})
        self.step = state.step

    def _schedule(self) -> float:
        if self.step < self.warm_up:
            return (self.step + 1) / self.warm_up
        share = min(1.0, max(0.0, (self.progress - self.decay_from) / (1 - self.decay_from)))
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share))
