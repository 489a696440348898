"""Which attention window a step of backbone training has: from AnimateDiff's to the whole map, little by little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import MVCustomError
from ..models import AttentionWindows
from ..models.attention_windows import WindowSetting


class WindowSchedule:
    """Attention windows by step (MVCustom's progressive widening).

    Args:
        entries (sequence of pairs): From when on, and which window. When is a number of updates (`int`) or a share of all
            updates (`float`); the first is 0, and each is later than the one before. A window is an odd number of
            positions, `None` for the whole map, or windows by feature map size (see [`AttentionWindows`]).
        max_train_steps (`int`): All updates.

    Raises:
        MVCustomError: naming the entry that will not do.

    Example:

        >>> schedule = WindowSchedule([(0, 1), (0.25, 3), (0.5, None)], max_train_steps=1000)
        >>> [(step, windows.setting) for step, windows in schedule.stages]
        [(0, 1), (250, 3), (500, None)]
        >>> schedule.at(499).setting
        3
    """

    def __init__(self, entries: Sequence[tuple[int | float, WindowSetting]], max_train_steps: int) -> None:
        if not entries:
            raise MVCustomError("window_schedule: expected at least one entry, such as [0, 1].")
        self.stages: list[tuple[int, AttentionWindows]] = []
        for entry in entries:
            try:
                when, setting = entry
            except (TypeError, ValueError) as error:
                raise MVCustomError(
                    f"window_schedule: expected pairs of step or share and window, got {entry!r}."
                ) from error
            try:
                windows = AttentionWindows(setting)
            except MVCustomError as error:
                raise MVCustomError(f"window_schedule: {entry}: {error}") from error
            self.stages.append((_step(when, max_train_steps), windows))
        if self.stages[0][0] != 0:
            raise MVCustomError(f"window_schedule: expected the first entry at 0, got {entries[0]}.")
        for before, after in zip(self.stages, self.stages[1:]):
            if after[0] <= before[0]:
                raise MVCustomError(
                    f"window_schedule: expected each entry later than the one before; with {max_train_steps} steps they "
                    f"begin at {[step for step, _ in self.stages]}."
                )
            if _narrows(before[1].setting, after[1].setting):
                raise MVCustomError(
                    f"window_schedule: expected windows that widen, got {after[1].setting} after {before[1].setting}."
                )
        if self.stages[-1][0] >= max_train_steps:
            raise MVCustomError(
                f"window_schedule: the entry at step {self.stages[-1][0]} would never be reached; there are "
                f"{max_train_steps} steps."
            )

    def at(self, step: int) -> AttentionWindows:
        """The windows of the update after `step` updates."""
        return next(windows for first, windows in reversed(self.stages) if first <= step)

    def to_list(self) -> list[list]:
        """Steps and settings as JSON holds them."""
        return [[step, windows.setting] for step, windows in self.stages]


def _step(when: int | float, max_train_steps: int) -> int:
    if isinstance(when, bool) or not isinstance(when, (int, float)) or when < 0:
        raise MVCustomError(f"window_schedule: expected a step or a share of all steps, got {when!r}.")
    if isinstance(when, int):
        return when
    if when >= 1:
        raise MVCustomError(f"window_schedule: expected a share below 1 or a whole number of steps, got {when}.")
    return round(when * max_train_steps)


def _narrows(before: WindowSetting, after: WindowSetting) -> bool:
    """For single windows; those by map size are the user's to judge."""
    if isinstance(before, Mapping) or isinstance(after, Mapping) or after is None:
        return False
    return before is None or after < before
