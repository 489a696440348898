"""The pipeline's own hooks and anchor: set, saved with the pipeline and restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import MVCustomError
from ..hooks import (
    BUILT_IN_HOOKS,
    AnchorSettings,
    ConsistentAwareLatentCompletion,
    DenoisingHook,
    DepthAwareFeatureRendering,
)
from .pipeline_part import PipelinePart


class HookSettingsMixin(PipelinePart):
    """Holds `pipe.hooks` and `pipe.anchor`, and keeps their settings in the pipeline's configuration."""

    def _init_hooks(self, denoising_hooks: dict[str, Any] | None, anchor: dict[str, Any] | None) -> None:
        hooks: list[DenoisingHook]
        if denoising_hooks is None:
            has_depth = self.depth_estimator is not None and self.depth_image_processor is not None
            hooks = [DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion()] if has_depth else []
        else:
            by_name = {hook.name: hook for hook in BUILT_IN_HOOKS}
            unknown = sorted(set(denoising_hooks) - set(by_name))
            if unknown:
                raise MVCustomError(f"denoising_hooks: unknown hooks {unknown}; there are {sorted(by_name)}.")
            hooks = [by_name[name].from_dict(settings) for name, settings in denoising_hooks.items()]
        self.set_hooks(hooks, AnchorSettings.from_dict(anchor or {}))

    @property
    def hooks(self) -> tuple[DenoisingHook, ...]:
        """The hooks of a call that names none, in the order in which they act."""
        return self._hooks

    @property
    def anchor(self) -> AnchorSettings:
        """The anchor settings of a call that names none."""
        return self._anchor

    def set_hooks(self, hooks: Sequence[DenoisingHook], anchor: AnchorSettings | None = None) -> None:
        """Sets the hooks (and the anchor settings) that calls use by default.

        Built-in hooks are saved with the pipeline, in their order; hooks of your own are code, and are not.

        Args:
            hooks (sequence of [`DenoisingHook`]): In the order in which they act.
            anchor ([`AnchorSettings`], *optional*): `None` keeps the present ones.

        Raises:
            MVCustomError: for something that is no hook, or a built-in hook given twice.
        """
        hooks = tuple(listed_hooks(hooks))
        names = [hook.name for hook in hooks if hook.name is not None]
        if len(set(names)) != len(names):
            raise MVCustomError(f"hooks: expected each built-in hook at most once, got {names}.")
        self._hooks = hooks
        if anchor is not None:
            self._anchor = anchor
        self.register_to_config(
            denoising_hooks={hook.name: hook.to_dict() for hook in hooks if hook.name is not None},
            anchor=self._anchor.to_dict(),
        )


def acting_hooks(hooks: Sequence[DenoisingHook], num_views: int) -> list[DenoisingHook]:
    """The hooks that have something to do where so many views are generated together."""
    return [hook for hook in hooks if num_views > 1 or not hook.needs_several_frames]


def listed_hooks(hooks: Sequence[DenoisingHook]) -> list[DenoisingHook]:
    """The hooks as a list of their own.

    Raises:
        MVCustomError: for a single hook, and for something that is no hook.
    """
    if isinstance(hooks, DenoisingHook):
        raise MVCustomError(
            f"hooks: expected a list of hooks, got a single {type(hooks).__name__}; put it into a list."
        )
    hooks = list(hooks)
    for hook in hooks:
        if not isinstance(hook, DenoisingHook):
            raise MVCustomError(f"hooks: expected instances of DenoisingHook, got {hook!r}.")
    return hooks
