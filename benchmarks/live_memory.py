"""Counting the memory of tensors, also of tensors that have a shape and a type but no memory behind them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512
"""CUDA's caching allocator hands out multiples of this many bytes."""


class LiveBytes(TorchDispatchMode):
    """While it is open, counts the bytes of all tensors that are alive; views share theirs.

    Tensors from before are counted once they are given to [`~LiveBytes.add`]. What an operation holds only inside of its
    kernel is not seen.

    Example:

        with LiveBytes() as live:
            loss = model(batch).sum()
            live.peak  # so far
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def add(self, tensors: Iterable[Any]) -> None:
        """Counts tensors (other things are passed over) until they die."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = id(storage)  # the same object for as long as the storage lives
            if key in self._alive:
                continue
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._remove(key, size))
            self.now += size
        self.peak = max(self.peak, self.now)

    def reset_peak(self) -> None:
        """Forgets the peak so far."""
        self.peak = self.now

    def _remove(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result


class AllocatedBytes:
    """The same figures as [`LiveBytes`] has them, of the tensors that are on the GPU."""

    @property
    def now(self) -> int:
        return torch.cuda.memory_allocated()

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    def reset_peak(self) -> None:
        """Forgets the peak so far."""
        torch.cuda.reset_peak_memory_stats()


class ChecksPass(TorchDispatchMode):
    """Answers questions about the values of tensors that have none: `all()` is true, `any()` is not, a number is 1.

    So code that checks its input, or reads a step count, runs on shapes alone, as if the input were right. Tensors that have
    values answer for themselves.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return getattr(args[0], "_answer", 1)
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, FakeTensor):
            return result
        if func is torch.ops.aten.all.default:
            result._answer = True
        elif func is torch.ops.aten.any.default:
            result._answer = False
        return result


def allocator_peak(profile: torch.profiler.profile) -> int:
    """Most bytes that PyTorch's CPU allocator had handed out at a time, beyond those from before the profile began.

    Args:
        profile (`torch.profiler.profile`): Finished, made with `profile_memory=True`.
    """
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
