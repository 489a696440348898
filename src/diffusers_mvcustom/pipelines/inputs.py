"""What users give a call, checked and brought into one form before anything expensive happens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor

from ..cameras import Cameras, cameras_from_convention, load_cameras
from ..cameras.checks import as_float_tensor, check_kind
from ..errors import CamerasError, MVCustomError

CamerasInput = Cameras | str | PathLike[str] | Tensor


def resolve_cameras(
    cameras: CamerasInput | None,
    *,
    convention: str | None = None,
    intrinsics: Tensor | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Cameras:
    """The target cameras at the size of the views, from any accepted form.

    Args:
        cameras (`Cameras`, path or `torch.Tensor` of shape `(N, 4, 4)`):
            Cameras; a camera file of any supported format; or poses in the named `convention`.
        convention (`str`, *optional*): For poses given as a tensor, see [`cameras_from_convention`]; or of a JSON file that
            was written with other axes than its format's, see [`load_cameras`].
        intrinsics (`torch.Tensor` of shape `(3, 3)` or `(N, 3, 3)`, *optional*):
            Pixel intrinsics, for poses given as a tensor.
        height (`int`, *optional*), width (`int`, *optional*):
            Size of the views. Cameras of another size are resized evenly to cover it and cropped at the centre.

    Raises:
        CamerasError: naming what is missing or does not fit.
    """
    if cameras is None:
        raise CamerasError("cameras: expected target cameras, for example Cameras.orbit(16), got None.")
    if isinstance(cameras, Cameras):
        if convention is not None or intrinsics is not None:
            raise CamerasError(
                "camera_convention, camera_intrinsics: only for poses given as a tensor; `Cameras` know their own."
            )
    elif isinstance(cameras, (str, PathLike)):
        if intrinsics is not None:
            raise CamerasError("camera_intrinsics: only for poses given as a tensor; a file holds its own.")
        cameras = load_cameras(cameras, convention=convention)
    else:
        if not isinstance(cameras, Tensor) and not hasattr(cameras, "__array__"):
            check_kind("cameras", cameras, Cameras)  # a list of Cameras, a number: says what to do
        poses = as_float_tensor("cameras", cameras)
        if convention is None or intrinsics is None or height is None or width is None:
            needed = {
                "camera_convention": convention,
                "camera_intrinsics": intrinsics,
                "height": height,
                "width": width,
            }
            missing = [name for name, value in needed.items() if value is None]
            raise CamerasError(
                f"cameras: poses given as a tensor also need {', '.join(missing)}; which axes and pixels they mean "
                "cannot be seen from the numbers."
            )
        cameras = cameras_from_convention(poses, intrinsics, height, width, convention=convention)
    height = cameras.height if height is None else height
    width = cameras.width if width is None else width
    if (cameras.height, cameras.width) != (height, width):
        cameras = cameras.cover(height, width)
    return cameras


def check_generator(generator: torch.Generator | list[torch.Generator] | None, batch_size: int) -> None:
    """Raises unless there is one generator, or one for each set of views."""
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    for one in generators:
        if not isinstance(one, torch.Generator):
            raise MVCustomError(
                f"generator: expected a torch.Generator, such as torch.Generator().manual_seed(0), got {one!r}."
            )
    if isinstance(generator, list) and len(generator) != batch_size:
        raise MVCustomError(
            f"generator: expected one, or {batch_size} of them (prompts × num_images_per_prompt), got {len(generator)}."
        )


def check_latents(latents: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises unless initial noise is a tensor of finite numbers of this shape, or not given."""
    if latents is None:
        return
    if not isinstance(latents, Tensor):
        raise MVCustomError(f"latents: expected a tensor of shape {shape}, got {type(latents).__name__}.")
    if tuple(latents.shape) != shape:
        raise MVCustomError(f"latents: expected shape {shape}, got {tuple(latents.shape)}.")
    if not latents.is_floating_point() or not latents.isfinite().all():
        raise MVCustomError(
            f"latents: expected finite numbers, got {latents.dtype} with NaN, infinity or whole numbers."
        )


def check_attention_kwargs(kwargs: dict | None) -> None:
    """Raises unless what is for the attention processors is a dict, with a number for LoRA's scale if with any."""
    if kwargs is None:
        return
    if not isinstance(kwargs, dict):
        raise MVCustomError(f"cross_attention_kwargs: expected a dict, got {type(kwargs).__name__}.")
    check_scale("cross_attention_kwargs['scale']", kwargs.get("scale"))


def check_view_size(height: int, width: int, multiple: int) -> None:
    """Raises if a side of the views is not divisible by the VAE's factor."""
    if height % multiple or width % multiple or min(height, width) < multiple:
        near = [max(multiple, round(size / multiple) * multiple) for size in (height, width)]
        raise MVCustomError(
            f"height, width: expected multiples of {multiple}, got {height} × {width} (from `cameras` where not given). "
            f"Pass height={near[0]}, width={near[1]}; the cameras are adapted."
        )


def check_num_frames(num_frames: int, max_seq_length: int, views_at_a_time: int | None = None) -> None:
    """Raises if more views are to go through the U-Net together than the motion modules have temporal positions for."""
    if min(num_frames, views_at_a_time or num_frames) <= max_seq_length:
        return
    if views_at_a_time is None:
        raise MVCustomError(
            f"cameras: expected at most {max_seq_length} cameras (the motion adapter's motion_max_seq_length), got "
            f"{num_frames}. Pass views_at_a_time=16 to generate a longer path window by window."
        )
    raise MVCustomError(
        f"views_at_a_time: expected at most {max_seq_length} (the motion adapter's motion_max_seq_length), got "
        f"{views_at_a_time}."
    )


def check_prompts(
    prompt: str | Sequence[str] | None, negative_prompt: str | Sequence[str] | None, token: str | None
) -> None:
    """Raises for an empty list of prompts, a prompt that is no text, one that lacks the loaded subject's token, or
    negative prompts that do not go with the prompts."""
    if prompt is None:
        return
    prompts = _prompt_texts("prompt", prompt)
    for i, text in enumerate(prompts):
        if token is not None and token not in text:
            raise MVCustomError(
                f"prompt: expected the loaded subject's token {token!r} in every prompt, got {text!r} at index {i}. "
                "Name the subject, or take it out with unload_subject()."
            )
    if negative_prompt is None:
        return
    negative_prompts = _prompt_texts("negative_prompt", negative_prompt)
    if isinstance(negative_prompt, str) != isinstance(prompt, str) or len(negative_prompts) != len(prompts):
        kinds = ["one text" if isinstance(one, str) else f"a list of {len(one)}" for one in (prompt, negative_prompt)]
        raise MVCustomError(
            f"negative_prompt: expected one for each prompt ({kinds[0]}), in the same form, got {kinds[1]}."
        )


def _prompt_texts(name: str, given: str | Sequence[str]) -> list[str]:
    if not isinstance(given, (str, list)):
        raise MVCustomError(f"{name}: expected a text or a list of texts, got {type(given).__name__}.")
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise MVCustomError(f"{name}: expected at least one text, got an empty list.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise MVCustomError(f"{name}: expected text, got {type(text).__name__} at index {i}.")
    return texts


def check_share(name: str, start: float, end: float) -> None:
    """Raises unless `0 <= start <= end <= 1`."""
    if not all(isinstance(share, (int, float)) for share in (start, end)) or not (0 <= start <= end <= 1):
        raise MVCustomError(
            f"{name}_start, {name}_end: expected shares of the steps with 0 <= start <= end <= 1, got {start}, {end}."
        )


def check_scale(name: str, value: float | None) -> None:
    """Raises for a scale that is not a finite number."""
    if value is not None and not (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    ):
        raise MVCustomError(f"{name}: expected a finite number, got {value!r}.")


def check_count(name: str, value: int | None) -> None:
    """Raises unless `value` is a whole number above 0, or not given."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MVCustomError(f"{name}: expected a whole number above 0, got {value!r}.")
