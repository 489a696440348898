"""How a long camera path is cut into windows of views that go through the U-Net together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..cameras import Cameras
from ..errors import MVCustomError
from ..hooks import AnchorSettings


@dataclass(frozen=True)
class ViewWindow:
    """Views that are generated together, and the known views that they go on from.

    Args:
        frames (`tuple` of `int`): Indices among all cameras of what goes through the U-Net, in the path's order.
        known (`tuple` of `int`): Those of them that are known before: handed over by earlier windows, or given as images.
        anchors (`tuple` of `int`): Those that anchor the geometry.
    """

    frames: tuple[int, ...]
    known: tuple[int, ...]
    anchors: tuple[int, ...]

    @property
    def new(self) -> tuple[int, ...]:
        """The frames that this window generates."""
        return tuple(frame for frame in self.frames if frame not in self.known)


@dataclass(frozen=True)
class ViewPlan:
    """What a call generates, in which order.

    Args:
        windows (`tuple` of [`ViewWindow`]): In the order in which they are generated.
        anchors (`tuple` of `int`): The call's anchor frames, in the order in which they were named; none where nothing
            asks for them.
    """

    windows: tuple[ViewWindow, ...]
    anchors: tuple[int, ...]


def plan_windows(
    cameras: Cameras,
    views_at_a_time: int | None,
    longest: int,
    settings: AnchorSettings,
    *,
    anchors_wanted: bool = True,
    anchors_are_given: bool = False,
    keep_first: bool = False,
) -> ViewPlan:
    """Cuts a call into windows. With one window it is a plain call.

    The path is cut into pieces of even length. The one with the anchor comes first (by default the middle one), then
    its neighbours, outwards. Every later window also holds the known view that is nearest to its cameras, in position
    and direction, as its anchor.

    Args:
        cameras ([`Cameras`]): All target cameras, in the path's order.
        views_at_a_time (`int`, *optional*): New views in a window; `None` is all of them.
        longest (`int`): Most frames that the motion modules know, known views included.
        settings ([`AnchorSettings`]): The anchor frames, if named.
        anchors_wanted (`bool`): Whether a single window has any use for anchors.
        anchors_are_given (`bool`): Whether the anchors' images are known from the start, wherever on the path they are.
        keep_first (`bool`): Whether the call's first anchor is a second known view of every later window.

    Raises:
        MVCustomError: for anchors that do not exist or do not lie in one window, or windows that are too long.

    Example:

        >>> from diffusers_mvcustom import AnchorSettings, Cameras
        >>> from diffusers_mvcustom.pipelines.view_windows import plan_windows
        >>> plan = plan_windows(Cameras.orbit(6, azimuth=(0, 50)), 2, 32, AnchorSettings())
        >>> [(window.frames, window.known) for window in plan.windows]
        [((2, 3), ()), ((0, 1, 2), (2,)), ((3, 4, 5), (3,))]
    """
    count = len(cameras)
    if views_at_a_time is None or count <= views_at_a_time:
        anchors = settings.resolve(count) if anchors_wanted or settings.frames is None else ()
        window = ViewWindow(tuple(range(count)), anchors if anchors_are_given else (), anchors)
        return ViewPlan((window,), anchors)
    size = min(views_at_a_time, longest - 1 - keep_first)
    if size < 1:
        raise MVCustomError(
            f"views_at_a_time: expected a motion adapter that knows more than {longest} frames (motion_max_seq_length), so "
            "that new views fit beside the known ones."
        )
    pieces = _even_pieces(count, -(-count // size))
    if settings.frames is None:
        middle = pieces[len(pieces) // 2]
        anchors = (middle[len(middle) // 2],)
    else:
        anchors = settings.resolve(count)
    first = next(i for i, piece in enumerate(pieces) if anchors[0] in piece)
    outside = sorted(set(anchors) - set(pieces[first]))
    if outside and not anchors_are_given:
        raise MVCustomError(
            f"anchor: expected all anchor frames among views {pieces[first][0]} to {pieces[first][-1]}, which are "
            f"generated first (views_at_a_time), got also {outside}. Give their images (anchor_image), or one anchor."
        )

    windows = []
    known = set(anchors) if anchors_are_given else set()
    for i in sorted(range(len(pieces)), key=lambda i: (abs(i - first), i)):
        piece = set(pieces[i])
        handed_over = {nearest_view(cameras, known - piece, pieces[i])} if known - piece else set()
        if keep_first and known:
            handed_over |= {anchors[0]} - piece
        of_window = tuple(sorted((known & piece) | handed_over))
        windows.append(ViewWindow(tuple(sorted(piece | handed_over)), of_window, of_window or anchors))
        known |= piece
    return ViewPlan(tuple(windows), anchors)


def nearest_view(cameras: Cameras, candidates: Collection[int], targets: Sequence[int]) -> int:
    """The candidate whose camera is nearest to the targets' on average; of equal ones the one that is next to them.

    The distance of two cameras is that of their centres, in units of the cameras' mean distance from the origin, plus
    the angle between their optical axes in radians.
    """
    order = sorted(candidates, key=lambda frame: min(abs(frame - target) for target in targets))
    centers, axes = cameras.centers.double(), cameras.optical_axes.double()
    here, there = torch.tensor(order), torch.tensor(list(targets))
    unit = centers.norm(dim=-1).mean().clamp(min=1e-6)
    distance = torch.cdist(centers[here], centers[there]) / unit
    angle = torch.acos((axes[here] @ axes[there].T).clamp(-1, 1))
    score = (distance + angle).mean(dim=1)
    return order[int((score <= score.min() + 1e-6).nonzero()[0])]


def _even_pieces(count: int, pieces: int) -> list[range]:
    bounds = [round(i * count / pieces) for i in range(pieces + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]
