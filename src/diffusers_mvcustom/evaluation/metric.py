"""What all accumulating metrics share: rows of numbers that are collected, gathered across processes and summarised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.distributed
from torch import Tensor

from ..errors import MVCustomError


class MetricUnavailable(MVCustomError):
    """A metric cannot be computed here: a package or weights are missing. The message says how to get them."""


class Metric:
    """Collects one row of numbers for each thing that is scored, in one process or many.

    A subclass names its `columns`, has an `update` that appends rows, and a `summarize` that turns all rows into named
    numbers. A thing that could not be scored has a row too, so that it counts.

    Attributes:
        columns (`tuple` of `str`): What a row holds.
        higher_is_better (`dict` of `str` to `bool`): For the numbers that are scores.
    """

    columns: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Which way each number that is a score is better."""
        raise NotImplementedError

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Scores something and appends its rows."""
        raise NotImplementedError

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Named numbers for rows `(K, len(columns))`."""
        raise NotImplementedError

    def add_rows(
        self,
        rows: Tensor,  # [K, len(columns)]
    ) -> None:
        """Appends rows, which are kept in float64 on the CPU."""
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise MVCustomError(f"rows: expected shape (K, {len(self.columns)}), got {tuple(rows.shape)}.")
        self._rows.append(rows.detach().to("cpu", torch.float64))

    def rows(self) -> Tensor:
        """This process's rows, `(K, len(columns))`."""
        return torch.cat(self._rows) if self._rows else torch.zeros(0, len(self.columns), dtype=torch.float64)

    def reset(self) -> None:
        """Forgets all rows."""
        self._rows = []

    def compute(self) -> dict[str, float]:
        """The numbers over the rows of all processes; every process has to call it, and gets the same.

        Raises:
            MVCustomError: if there are no rows in any process.
        """
        rows = gather_rows(self.rows())
        if len(rows) == 0:
            raise MVCustomError(f"{type(self).__name__}: nothing to compute; call update first.")
        return self.summarize(rows)


def gather_rows(
    rows: Tensor,  # [K, C]
) -> Tensor:
    """The rows of all processes of the default process group, in order of rank; without one, the rows themselves.

    K may differ between processes and may be 0.

    Returns:
        `torch.Tensor` of shape `(K of all processes, C)`.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    on_gpu = torch.distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    count = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(count) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(counts, count)
    most = max(int(number) for number in counts)
    padded = rows.new_zeros(most, rows.shape[1]).to(device)
    padded[: len(rows)] = rows.to(device)
    gathered = [torch.zeros_like(padded) for _ in counts]
    torch.distributed.all_gather(gathered, padded)
    return torch.cat([part[: int(number)] for part, number in zip(gathered, counts)]).to(rows.device)
