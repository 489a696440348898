"""The protocol of denoising hooks: what a hook is, and what it may read and change while views are generated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import SchedulerMixin, UNetMotionModel
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .noise_levels import NoiseLevels

if TYPE_CHECKING:
    from .anchor_geometry import AnchorGeometry


@dataclass
class DenoisingStep:
    """One step of the denoising loop.

    Args:
        index (`int`): The step's place in the schedule, from 0.
        timestep (`torch.Tensor`): The scheduler's timestep.
        during_unet_call (`contextlib.ExitStack`): Context managers entered here by `before_step` are closed right
            after the step's U-Net call. Whatever a hook arms on a module belongs here.
        predicted_original (`torch.Tensor` of shape `(batch, channels, frames, height, width)`): x̂_0 of the step, from
            the guided prediction. `None` in `before_step`.
    """

    index: int
    timestep: Tensor
    during_unet_call: ExitStack
    predicted_original: Tensor | None = None


@dataclass
class PlainRun:
    """What the denoising loop itself goes through. Without hooks there is no more to a run.

    Args:
        latents (`torch.Tensor` of shape `(batch, channels, frames, height, width)`): x_t.
        scheduler (`diffusers.SchedulerMixin`): The run's scheduler, timesteps set.
        timesteps (`torch.Tensor` of shape `(steps,)`): The scheduler's timesteps.
    """

    latents: Tensor
    scheduler: SchedulerMixin
    timesteps: Tensor


@dataclass
class DenoisingRun(PlainRun):
    """One generation, as its hooks see it.

    Args:
        latents (`torch.Tensor` of shape `(batch, channels, frames, height, width)`): x_t. Hooks may replace it.
        scheduler (`diffusers.SchedulerMixin`): The run's scheduler, timesteps set.
        timesteps (`torch.Tensor` of shape `(steps,)`): The scheduler's timesteps.
        cameras (`Cameras`): The target cameras at the size of the views, one per frame.
        unet (`UNetMotionModel`): The motion U-Net.
        noise_levels (`NoiseLevels`): The schedule's noise levels, for x̂_0 and for noising.
        generator (`torch.Generator` or list of them, *optional*): Source of fresh noise.
        randn (`Callable`): `randn(shape) -> torch.Tensor`, fresh noise from `generator` on the run's device and dtype.
        anchor_geometry (`Callable`): `anchor_geometry() -> AnchorGeometry`, the geometry seen from the anchor
            frame(s): preview, depth, mesh and visibility. Made on the first call, then kept for the run.
    """

    cameras: Cameras
    unet: UNetMotionModel
    noise_levels: NoiseLevels
    generator: torch.Generator | list[torch.Generator] | None
    randn: Callable[[tuple[int, ...]], Tensor]
    anchor_geometry: Callable[[], AnchorGeometry]
    state: dict[int, Any] = field(default_factory=dict)

    def covers(self, hook: DenoisingHook, index: int) -> bool:
        """Whether step `index` lies within the hook's share `[start, end)` of the steps."""
        return hook.start * len(self.timesteps) <= index < hook.end * len(self.timesteps)


@dataclass
class DenoisingHook:
    """Base class of everything that acts between (or within) denoising steps.

    A hook is a small dataclass of settings. It holds no state of a run: what it prepares goes into
    `run.state[id(self)]` or comes from `run.anchor_geometry()`. Write your own by subclassing, and pass it to
    `pipe(..., hooks=[...])`:

        >>> from dataclasses import dataclass
        >>> from diffusers_mvcustom.hooks import DenoisingHook
        >>> @dataclass
        ... class KeepFirstFrame(DenoisingHook):
        ...     def before_step(self, run, step):
        ...         if run.covers(self, step.index):
        ...             run.latents = run.latents[:, :, :1].expand_as(run.latents).clone()
        >>> KeepFirstFrame(end=0.1).to_dict()
        {'start': 0.0, 'end': 0.1}

    Args:
        start (`float`, defaults to 0.0): Share of the steps after which the hook begins to act.
        end (`float`, defaults to 1.0): Share of the steps after which it ends.
    """

    start: float = 0.0
    end: float = 1.0

    name: ClassVar[str | None] = None
    """Name under which the settings are saved in a pipeline; `None`: the hook is not saved."""
    needs_several_frames: ClassVar[bool] = False
    """Whether a run with a single camera leaves the hook out."""
    needs_geometry: ClassVar[bool] = False
    """Whether the hook asks for `run.anchor_geometry()`, so that depth must be had."""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise MVCustomError(
                    f"{type(self).__name__}.{name}: expected a share of the steps in [0, 1], got {value!r}."
                )
        if self.start > self.end:
            raise MVCustomError(f"{type(self).__name__}: expected start <= end, got {self.start} > {self.end}.")

    def prepare(self, run: DenoisingRun) -> None:
        """Called once before the first step: everything that does not depend on the timestep."""

    def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Called before the U-Net. May replace `run.latents` and arm modules through `step.during_unet_call`."""

    def after_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Called after the scheduler, with `run.latents` its output and `step.predicted_original` set."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> DenoisingHook:
        """The hook with these settings; unknown ones are errors."""
        return settings_from_dict(cls, settings)


def settings_from_dict(cls: type, settings: dict[str, Any]) -> Any:
    """An instance of the dataclass `cls` from plain values; unknown names are errors that list the known ones."""
    known = [setting.name for setting in fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise MVCustomError(f"{cls.__name__}: unknown settings {unknown}; it has {known}.")
    return cls(**settings)
