"""Accelerate's hooks, off while modules change places and on again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn


@contextmanager
def device_hooks_off(components: Iterable[Any]) -> Iterator[None]:
    """Takes the hooks of sequential offloading and of device maps off models for the length of the context.

    Such hooks stand on every layer, which they move its inputs or its weights for. A module that is exchanged under
    them would be without, and a weight that is cut or copied while it lies on `meta` would be lost. Hooks that stand on
    a whole model (`enable_model_cpu_offload`) stay, and so do those of group offloading.

    Args:
        components (iterable): Of a pipeline; what is not a module is passed over.
    """
    with ExitStack() as afterwards:
        for component in components:
            put_back = _take_off(component) if isinstance(component, nn.Module) else None
            if put_back is not None:
                afterwards.callback(put_back)
        yield


def _take_off(model: nn.Module) -> Callable[[], Any] | None:
    """Removes a model's hooks; returns what puts them back, or `None` if there are none to remove."""
    if not any(hasattr(module, "_hf_hook") for module in model.modules()):
        return None
    from accelerate import cpu_offload, dispatch_model  # is there: the hooks are its
    from accelerate.hooks import AlignDevicesHook, SequentialHook, remove_hook_from_module

    hooks: list[AlignDevicesHook] = []
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        parts = hook.hooks if isinstance(hook, SequentialHook) else [hook]
        hooks += [part for part in parts if isinstance(part, AlignDevicesHook) and part.execution_device is not None]
    if not hooks:
        return None
    device, offloaded = hooks[0].execution_device, any(hook.offload for hook in hooks)
    device_map = getattr(model, "hf_device_map", None) or {}
    places = {str(place) for place in device_map.values()}
    if "disk" in places:
        return None
    if device_map and (not offloaded or "cpu" in places):
        settings = {"main_device": device, "skip_keys": hooks[0].skip_keys, "force_hooks": True}
        put_back: Callable[[], Any] = partial(dispatch_model, model, device_map=dict(device_map), **settings)
    elif offloaded:  # as diffusers' enable_sequential_cpu_offload
        put_back = partial(cpu_offload, model, device, offload_buffers=len(model._parameters) > 0)
    else:
        return None
    remove_hook_from_module(model, recurse=True)
    return put_back
