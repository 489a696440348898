"""Images that the user gives for the anchor frames, in any accepted form, as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, TypeGuard

import numpy as np
import PIL.Image
import torch
from PIL import ImageOps
from torch import Tensor

from ..errors import MVCustomError
from ..files.pictures import opened_picture

AnchorImage = PIL.Image.Image | str | PathLike[str] | Tensor
AnchorImages = AnchorImage | Sequence[AnchorImage] | Sequence[Sequence[AnchorImage]]


def resolve_anchor_images(
    given: AnchorImages,
    *,
    num_prompts: int,
    num_images_per_prompt: int,
    num_anchors: int,
    height: int,
    width: int,
) -> Tensor:
    """The images of the anchor frames as `(prompts * num_images_per_prompt, num_anchors, 3, height, width)` in [0, 1].

    Args:
        given (`PIL.Image.Image`, path, `torch.Tensor`, or a list): One image; a list of one per anchor frame, for all
            prompts; a list of one per prompt, if there is one anchor; or a list per prompt of lists per anchor. As a
            tensor in [0, 1], of shape `(3, H, W)`, `(anchors, 3, H, W)` (or `(prompts, 3, H, W)` with one anchor), or
            `(prompts, anchors, 3, H, W)`.
        num_prompts (`int`), num_images_per_prompt (`int`), num_anchors (`int`): What the call is about.
        height (`int`), width (`int`): The views' size in pixels. Images of another size are refused, as resizing or
            cropping one would change what its camera sees.

    Raises:
        MVCustomError: for another number of images, another size, something that is no image, or values outside
            [0, 1].
    """
    if isinstance(given, Tensor):
        if given.ndim not in (3, 4, 5):
            raise MVCustomError(
                "anchor_image: expected a tensor of shape (3, H, W), (anchors, 3, H, W) or (prompts, anchors, 3, H, W), "
                f"got {tuple(given.shape)}."
            )
        listed: object = [list(row) for row in given] if given.ndim == 5 else list(given) if given.ndim == 4 else given
    else:
        listed = given
    rows = _rows(listed, num_prompts, num_anchors)
    images = [torch.stack([_image_tensor(image, height, width) for image in row]) for row in rows]
    repeats = num_images_per_prompt if len(images) == num_prompts else num_prompts * num_images_per_prompt
    return torch.stack(images).repeat_interleave(repeats, dim=0)


def _rows(given: object, num_prompts: int, num_anchors: int) -> list[list[AnchorImage]]:
    """Lists of one image per anchor: one list for all prompts, or one per prompt."""
    rows: Sequence[Any] = given if _is_list(given) else [given]
    if not all(_is_list(row) for row in rows):
        one_per_prompt = num_anchors == 1 and len(rows) == num_prompts
        rows = [[image] for image in rows] if one_per_prompt else [rows]
    if len(rows) not in (1, num_prompts) or any(not _is_list(row) or len(row) != num_anchors for row in rows):
        what = f"a list of {len(given)}" if _is_list(given) else "a single image"
        per_prompt = f", or {num_prompts} of them, one per prompt" if num_anchors == 1 and num_prompts > 1 else ""
        raise MVCustomError(
            f"anchor_image: expected one image per anchor frame ({num_anchors}){per_prompt} (or such lists, one per prompt: "
            f"{num_prompts}), got {what}."
        )
    return [list(row) for row in rows]


def _is_list(given: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _image_tensor(given: AnchorImage, height: int, width: int) -> Tensor:
    """One image as `(3, height, width)` in [0, 1]."""
    if isinstance(given, (str, PathLike)):
        try:
            with opened_picture(given) as opened:
                size = opened.size
                # A picture of another size is refused before it takes its memory.
                read = (
                    ImageOps.exif_transpose(opened).convert("RGB") if sorted(size) == sorted((width, height)) else None
                )
        except MVCustomError as error:
            reason = str(error).removeprefix(f"{given}: ")
            raise MVCustomError(f"anchor_image: {str(given)!r} cannot be read: {reason}") from error
        if read is None:
            raise _other_view_size(width, height, f"{size[0]} × {size[1]}")
        given = read
    if isinstance(given, PIL.Image.Image):
        image = torch.from_numpy(np.array(given.convert("RGB"))).permute(2, 0, 1).float() / 255
    elif isinstance(given, Tensor) and given.is_floating_point():
        image = given.float()
        if not (image.isfinite().all() and image.min() >= 0 and image.max() <= 1):
            raise MVCustomError(
                f"anchor_image: expected values in [0, 1], got {image.min().item():.3g} to {image.max().item():.3g}."
            )
    else:
        kind = f"a tensor of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
        raise MVCustomError(
            f"anchor_image: expected a PIL image, a path, or a tensor of floating dtype in [0, 1], got {kind}."
        )
    if image.shape != (3, height, width):
        got = f"{image.shape[-1]} × {image.shape[-2]}" if image.ndim == 3 else f"shape {tuple(image.shape)}"
        raise _other_view_size(width, height, got)
    return image


def _other_view_size(width: int, height: int, got: str) -> MVCustomError:
    return MVCustomError(
        f"anchor_image: expected RGB of the views' size, {width} × {height} (width × height), got {got}. Resize the "
        "image and its camera together, for example by Cameras.cover, or pass height= and width=."
    )
