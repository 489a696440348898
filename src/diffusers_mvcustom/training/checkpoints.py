"""Checkpoints of a training: whole or not there, in safetensors and json only, resumed exactly."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import MVCustomError

_STATE_NAME = "state.json"
_TENSORS_NAME = "state.safetensors"
_FORMAT_VERSION = 1


@dataclass
class TrainingState:
    """What a training goes on from. All else follows from settings and step.

    Args:
        step (`int`): Updates made.
        tensors (`dict[str, dict[str, torch.Tensor]]`): Tensors by part (such as `weights` or `optimizer`) and name.
        values (`dict`): Numbers and texts by part, as JSON holds them.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


class Checkpoints:
    """The folder of a training's checkpoints, `checkpoint-N` for the state after N updates.

    A checkpoint is written under another name, flushed to the disk and then renamed: one with the right name is complete.

    Args:
        folder (`Path`): Where they lie.
        total_limit (`int`, *optional*): How many of the newest to keep.
    """

    def __init__(self, folder: Path, total_limit: int | None = None) -> None:
        self.folder = folder
        self.total_limit = total_limit

    def all(self) -> list[tuple[int, Path]]:
        """Steps and folders, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            (int(match[1]), path)
            for path in self.folder.iterdir()
            if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / _STATE_NAME).is_file()
        ]
        return sorted(found)

    def latest(self) -> Path | None:
        """The newest checkpoint's folder, if there is one."""
        found = self.all()
        return found[-1][1] if found else None

    def save(self, state: TrainingState) -> Path:
        """Writes a checkpoint, then deletes those beyond the limit and remains of interrupted writing.

        Raises:
            MVCustomError: if it cannot be written (a full disk, say). Earlier checkpoints are as they were.
        """
        final = self.folder / f"checkpoint-{state.step}"
        temporary = self.folder / f".writing-{state.step}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_remains()
            temporary.mkdir()
            # Each tensor its own memory: optimisers share some, which safetensors refuses.
            tensors = {
                f"{part}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for part, group in state.tensors.items()
                for name, tensor in group.items()
            }
            save_file(tensors, temporary / _TENSORS_NAME, metadata={"format": "pt"})
            text = json.dumps({"format_version": _FORMAT_VERSION, "step": state.step, "values": state.values})
            (temporary / _STATE_NAME).write_text(text)
            for file in temporary.iterdir():
                _flush(file)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            newest = self.latest()
            kept = f"the newest checkpoint is {newest}" if newest else "there is no checkpoint yet"
            raise MVCustomError(
                f"checkpoint of step {state.step}: could not be written to {self.folder} ({error}); {kept}. "
                "Is the disk full?"
            ) from error
        if self.total_limit is not None:
            for _, path in self.all()[: -self.total_limit]:
                shutil.rmtree(path, ignore_errors=True)
        return final

    def resolve(self, name: str) -> Path | None:
        """The checkpoint that `resume_from_checkpoint` names: `latest` (`None` if there is none yet), or a folder.

        Raises:
            MVCustomError: if a named folder is no complete checkpoint; the message lists those that there are.
        """
        if name == "latest":
            return self.latest()
        for path in (Path(name), self.folder / name):
            if (path / _STATE_NAME).is_file():
                return path
        raise MVCustomError(
            f"resume_from_checkpoint: {name} is no complete checkpoint; there are {[str(path) for _, path in self.all()]}."
        )

    def _remove_remains(self) -> None:
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(folder: Path) -> TrainingState:
    """Reads a checkpoint.

    Raises:
        MVCustomError: naming the file that is missing or damaged.
    """
    try:
        stored = json.loads((folder / _STATE_NAME).read_text())
        with safe_open(folder / _TENSORS_NAME, framework="pt") as file:
            flat = {name: file.get_tensor(name) for name in list(file.keys())}
    except (OSError, ValueError, SafetensorError) as error:
        raise MVCustomError(f"{folder}: not a complete checkpoint ({error}).") from error
    if not isinstance(stored, dict) or stored.get("format_version") != _FORMAT_VERSION:
        raise MVCustomError(f"{folder / _STATE_NAME}: expected format_version {_FORMAT_VERSION}.")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        part, _, rest = name.partition("/")
        tensors.setdefault(part, {})[rest] = tensor
    return TrainingState(stored["step"], tensors, stored["values"])


def optimizer_state(optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name and JSON values; the inverse is [`restore_optimizer`]."""
    state = optimizer.state_dict()
    tensors, values = {}, {}
    for name, value in _leaves(state["state"]):
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            values[name] = value
    groups = [
        {name: _plain(value) for name, value in group.items() if name != "params"} for group in state["param_groups"]
    ]
    return tensors, {"state": values, "groups": groups}


def restore_optimizer(optimizer: Any, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Puts back what [`optimizer_state`] took.

    Raises:
        MVCustomError: if the optimiser has other groups of parameters.
    """
    current = optimizer.state_dict()
    if len(current["param_groups"]) != len(values["groups"]):
        raise MVCustomError("resume_from_checkpoint: the checkpoint has other groups of parameters.")
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **values["state"]}.items():
        index, *folders, key = name.split(".")
        place = entries.setdefault(int(index), {})
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    groups = [
        {**saved, "betas": tuple(saved["betas"]), "params": group["params"]}
        for saved, group in zip(values["groups"], current["param_groups"])
    ]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # Fused updates walk through both in memory order; files keep no memory format.
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _leaves(entries: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """What is in nested dicts, by the keys that lead there, joined by dots: 8-bit optimisers nest their tensors."""
    for key, value in entries.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _flush(path: Path) -> None:
    """Makes sure that a file's or folder's content is on the disk before the rename is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
