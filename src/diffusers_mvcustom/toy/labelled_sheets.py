"""Small views made large, with readable labels: sheets and frames of an animation for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ..errors import MVCustomError

Views = Sequence[PIL.Image.Image]

LEAST_SIDE = 176
"""Views are enlarged by whole factors until both sides have at least this many pixels."""
LABEL_SIZE, HEADING_SIZE = 18, 22
"""Font sizes in pixels."""
GAP = 6
"""Pixels around and between views."""
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class LabelledViews:
    """Views that belong together.

    Args:
        label (`str`): What they are.
        views (`list[PIL.Image.Image]`): Of one size.
        heading (`str`, *optional*): A larger line above the label, where a group begins.
    """

    label: str
    views: Views
    heading: str | None = None


def enlarged(view: PIL.Image.Image) -> PIL.Image.Image:
    """The view at the least whole multiple of its size that reaches `LEAST_SIDE`, smoothly interpolated."""
    factor = max(1, -(-LEAST_SIDE // min(view.size)))
    return view.resize((view.width * factor, view.height * factor), PIL.Image.Resampling.LANCZOS)


def labelled_sheet(rows: Sequence[LabelledViews]) -> PIL.Image.Image:
    """All views on one sheet, enlarged, a row each under its label.

    Args:
        rows (`list[LabelledViews]`): From top to bottom; they may differ in length.

    Raises:
        MVCustomError: without any view, or for views of several sizes.

    Example:

        >>> from PIL import Image
        >>> from diffusers_mvcustom.toy.labelled_sheets import LabelledViews, labelled_sheet
        >>> views = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
        >>> labelled_sheet([LabelledViews("two views", views)]).width == 2 * 192 + 3 * 6
        True
    """
    _check_sizes(rows)
    strips = [beside([enlarged(view) for view in row.views]) for row in rows]
    width = max(strip.width for strip in strips)
    parts = []
    for row, strip in zip(rows, strips):
        if row.heading is not None:
            parts.append(text_block(row.heading, HEADING_SIZE, width))
        parts += [text_block(row.label, LABEL_SIZE, width), strip]
    return below(parts)


def side_by_side(sets: Sequence[LabelledViews]) -> list[PIL.Image.Image]:
    """Frames of an animation: sets of views beside each other, enlarged; frame n shows the n-th view of each.

    A heading of the first set stands above all.

    Args:
        sets (`list[LabelledViews]`): From left to right, of as many views each.

    Raises:
        MVCustomError: without any view, for views of several sizes, or sets of different length.
    """
    _check_sizes(sets)
    if len({len(one.views) for one in sets}) != 1:
        raise MVCustomError(f"sets: expected as many views in each, got {[len(one.views) for one in sets]}.")
    width = enlarged(sets[0].views[0]).width
    labels = [text_block(one.label, LABEL_SIZE, width) for one in sets]
    frames = [beside([enlarged(view) for view in views]) for views in zip(*(one.views for one in sets))]
    above = [beside(labels)]
    if sets[0].heading is not None:
        above.insert(0, text_block(sets[0].heading, HEADING_SIZE, frames[0].width))
    return [below([*above, frame]) for frame in frames]


def beside(images: Views) -> PIL.Image.Image:
    """Images in a row, tops aligned, with gaps."""
    width, height = sum(image.width + GAP for image in images) + GAP, max(image.height for image in images)
    whole = PIL.Image.new("RGB", (width, height), _PAPER)
    left = GAP
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + GAP
    return whole


def below(images: Views) -> PIL.Image.Image:
    """Images in a column, left sides aligned, with gaps."""
    width, height = max(image.width for image in images), sum(image.height + GAP for image in images) + GAP
    whole = PIL.Image.new("RGB", (width, height), _PAPER)
    top = GAP
    for image in images:
        whole.paste(image, (0, top))
        top += image.height + GAP
    return whole


def text_block(text: str, size: int, width: int) -> PIL.Image.Image:
    """A text in a block `width` pixels wide, broken between words into as many lines as it needs."""
    font = PIL.ImageFont.load_default(size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 2 * GAP:
            lines.append(word)
        else:
            lines[-1] = longer
    line_height = round(1.3 * size)
    block = PIL.Image.new("RGB", (width, line_height * len(lines)), _PAPER)
    draw = PIL.ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((GAP, number * line_height), line, _INK, font)
    return block


def _check_sizes(sets: Sequence[LabelledViews]) -> None:
    sizes = sorted({view.size for one in sets for view in one.views})
    if len(sizes) != 1:
        raise MVCustomError(f"views: expected views of one size, got {sizes or 'none'}.")
