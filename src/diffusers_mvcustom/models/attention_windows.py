"""How far the motion modules' attention reaches, per size of the feature map."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import MVCustomError

WindowSetting = int | None | Mapping[str, int | None]


class AttentionWindows:
    """The spatial window of dense spatio-temporal attention at every feature map size.

    A window of odd size k lets a token attend to the k × k positions around its own, in all frames. 1 is AnimateDiff's
    attention along time, `None` the whole map.

    Args:
        setting (`int`, `None` or mapping): One window for all feature maps, or windows by size such as
            `{"64": 7, "32": None}`: a map takes the entry of the smallest size that its longer side does not exceed, and
            a map larger than all of them that of the largest.

    Raises:
        MVCustomError: for even or negative windows, sizes that are no numbers, or an empty mapping.

    Example:

        >>> windows = AttentionWindows({"64": 7, "32": None})
        >>> windows.at(64, 48), windows.at(32, 32), windows.at(8, 8), windows.at(96, 96)
        (7, None, None, 7)
        >>> windows.setting
        {'32': None, '64': 7}
    """

    def __init__(self, setting: WindowSetting | AttentionWindows) -> None:
        if isinstance(setting, AttentionWindows):
            setting = setting.setting
        if isinstance(setting, Mapping):
            if not setting:
                raise MVCustomError("attention_window: expected at least one feature map size, got an empty mapping.")
            by_size = {_checked_size(size): _checked_window(window) for size, window in setting.items()}
            self._by_size = dict(sorted(by_size.items()))
            self.setting: WindowSetting = {str(size): window for size, window in self._by_size.items()}
        else:
            self.setting = _checked_window(setting)
            self._by_size = {0: self.setting}

    def at(self, height: int, width: int) -> int | None:
        """The window on a feature map of `height` × `width`."""
        longer = max(height, width)
        # No next() with a default: torch 2.6 cannot compile that.
        sizes = [size for size in self._by_size if size >= longer]
        return self._by_size[min(sizes) if sizes else max(self._by_size)]

    @property
    def temporal_only(self) -> bool:
        """Whether the window is 1 everywhere, which is AnimateDiff."""
        return all(window == 1 for window in self._by_size.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttentionWindows) and self.setting == other.setting

    def __hash__(self) -> int:
        return hash(tuple(self._by_size.items()))

    def __repr__(self) -> str:
        return f"AttentionWindows({self.setting!r})"


def _checked_window(window: int | None) -> int | None:
    if window is None:
        return None
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise MVCustomError(
            f"attention_window: expected an odd number of positions, or None for the whole map, got {window!r}."
        )
    return window


def _checked_size(size: str | int) -> int:
    try:
        number = int(size)
    except (TypeError, ValueError):
        number = 0
    if isinstance(size, bool) or str(number) != str(size) or number < 1:
        raise MVCustomError(f"attention_window: expected feature map sizes such as '64', got {size!r}.")
    return number
