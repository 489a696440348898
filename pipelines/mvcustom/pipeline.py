# Generated from diffusers-mvcustom by pipelines/build.py. Do not edit: change src/ and build again.
#
# Licensed under the Apache License, Version 2.0; see https://www.apache.org/licenses/LICENSE-2.0.
"""MVCustomPipeline in one file, for `DiffusionPipeline.from_pretrained(..., custom_pipeline=..., trust_remote_code=True)`."""

from __future__ import annotations


import PIL.Image
import copy
import gzip
import json
import math
import numpy as np
import os
import re
import shutil
import string
import struct
import sys
import tempfile
import torch
import torch.nn.functional as F
import warnings
import zlib
from PIL import Image, ImageOps
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from diffusers import AnimateDiffPipeline, AutoencoderKL, ModelMixin, MotionAdapter, SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.configuration_utils import FrozenDict
from diffusers.image_processor import PipelineImageInput
from diffusers.models.attention import BasicTransformerBlock, _chunked_feed_forward
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import is_compiled_module, randn_tensor
from functools import cache, lru_cache, partial
from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HFValidationError, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from os import PathLike
from pathlib import Path, PurePosixPath
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BaseImageProcessor, CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection, PreTrainedModel
from typing import Any, ClassVar, Literal, NamedTuple, TYPE_CHECKING, TypeAlias, TypeGuard, TypedDict, cast, overload
from typing_extensions import Self, Unpack
from uuid import uuid4


# --- errors.py: The errors that this package raises on purpose, and lists in their messages.


class MVCustomError(ValueError):
    """Something that the user gave cannot be used. The message names the argument, what was expected and what came."""


class CamerasError(MVCustomError):
    """Cameras are malformed, or given in a convention that contradicts their use."""


def enumerated(names: Iterable[str], most: int = 8) -> str:
    """The names in a line, only so many of them."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


# --- cameras/checks.py: What users give as poses, sizes and lengths, checked and in one form.


_LARGEST_SIZE = 2**20


def as_float_tensor(name: str, value: object) -> Tensor:
    """A float32 or float64 tensor of anything that holds real numbers; `name` is the argument's in messages."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CamerasError(f"{name}: expected a tensor or an array of numbers, got {type(value).__name__}.") from error
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_quantized:
        raise CamerasError(f"{name}: expected real numbers, got {tensor.dtype}.")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise CamerasError(f"{name}: expected a dense tensor with values, got {tensor.layout} on {tensor.device}.")
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def as_size(name: str, value: Any) -> int:
    """A side of an image in pixels as `int`; whatever holds a whole number will do."""
    try:
        size = int(value)
        fits = not isinstance(value, (bool, str)) and size == value and 1 <= size <= _LARGEST_SIZE
    except (TypeError, ValueError, OverflowError, RuntimeError):
        fits = False
    if not fits:
        raise CamerasError(
            f"{name}: expected a positive whole number of pixels, at most {_LARGEST_SIZE:,}, got {value!r}."
        )
    return size


def is_real(value: Any) -> bool:
    """Whether it is one finite number, of Python's, numpy's or torch's kind."""
    if isinstance(value, (bool, str, bytes)):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def as_number(name: str, value: Any) -> float:
    """One finite number, of whatever kind, as `float`."""
    if not is_real(value):
        raise CamerasError(f"{name}: expected one finite number, got {_shown(value)}.")
    return float(value)


def as_pair(name: str, value: Any, meaning: str) -> tuple[float, float]:
    """Two finite numbers; `meaning` says what they are."""
    if is_real(value):
        raise CamerasError(
            f"{name}: expected {meaning}, got {value!r}. Give it twice, ({value}, {value}), to stay there."
        )
    try:
        first, last = value
    except (TypeError, ValueError, RuntimeError):
        first = last = None
    if not (is_real(first) and is_real(last)) or isinstance(value, (str, bytes)):
        raise CamerasError(f"{name}: expected {meaning}, two finite numbers, got {_shown(value)}.")
    return float(first), float(last)


def check_kind(name: str, value: object, cameras: type) -> None:
    """Raises unless `value` is of the class `cameras`, [`Cameras`], with the way to there from what came."""
    if isinstance(value, cameras):
        return
    hint = ""
    if isinstance(value, (str, PathLike)):
        hint = " load_cameras(path) reads a file."
    elif type(value).__name__ == "Cameras":
        hint = f" It is of another class of that name, of {type(value).__module__}; take all from one package or file."
    elif isinstance(value, (list, tuple)) and value and all(isinstance(one, cameras) for one in value):
        hint = " Cameras.cat(list) joins them."
    elif isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        hint = " Poses become Cameras with intrinsics and an image size: Cameras(camera_to_world, intrinsics, height, width)."
    raise CamerasError(f"{name}: expected Cameras, got {_shown(value)}.{hint}")


def _shown(value: object) -> str:
    """What came: short values as they are, others by their class."""
    if value is None or (isinstance(value, (bool, int, float, str, bytes, tuple)) and len(repr(value)) <= 60):
        return repr(value)
    return f"a {type(value).__name__}"


# --- cameras/rotations.py: Rotations from vectors, and rotations between rotations.


def rotation_matrices(vectors: Tensor) -> Tensor:
    """Rotation matrices `(N, 3, 3)` of rotation vectors `(N, 3)`, whose length is the angle in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=-1) for row in ([zero, -z, y], [z, zero, -x], [-y, x, zero])]
    return torch.linalg.matrix_exp(torch.stack(rows, dim=-2))


def slerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Rotations `(N, 3, 3)` at `share` of the way from `first` to `second`, on the shortest way."""
    turn = first.transpose(1, 2) @ second
    skew = torch.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], dim=-1
    )  # 2 sin(angle) along the axis
    sine, cosine = skew.norm(dim=-1), turn.diagonal(dim1=1, dim2=2).sum(-1) - 1  # twice of each
    angle = torch.atan2(sine, cosine)  # the arc cosine would make 5e-4 of a rounding error
    # Beyond a quarter turn the axis is the eigenvector of 1 of the symmetric part: well defined at half turns too.
    axis = torch.linalg.eigh((turn + turn.transpose(1, 2)) / 2).eigenvectors[..., -1]
    axis = torch.where((skew * axis).sum(-1, keepdim=True) < 0, -axis, axis)
    small = skew / sine.clamp(min=torch.finfo(skew.dtype).tiny)[:, None]
    axis = torch.where((cosine > 0)[:, None], small, axis)
    return first @ rotation_matrices(axis * (angle * share)[:, None])


# --- cameras/trajectories.py: Camera paths around and through the subject frame.


Point = Sequence[float] | Tensor
Range = float | tuple[float, float]


class ViewOptions(TypedDict, total=False):
    """What all trajectories take, see [`TrajectoryConstructors`]."""

    radius: float | None
    target: Point
    field_of_view: float | None
    like: Cameras | None
    height: int | None
    width: int | None


class ArcOptions(ViewOptions, total=False):
    """What an arc takes besides its azimuths."""

    elevation: Range


DEFAULT_FIELD_OF_VIEW = 50.0
DEFAULT_SIZE = 512


def look_at(
    centers: Tensor,  # [N, 3]
    target: Point = (0.0, 0.0, 0.0),
    up: Point = (0.0, 1.0, 0.0),
) -> Tensor:
    """Poses of cameras at `centers` that look at `target`, upright with respect to `up`.

    A camera that looks along `up` has no upright; its image top is turned to where -Z (or +Z, looking up) lies.

    Args:
        centers (`torch.Tensor` of shape `(N, 3)`): Camera centres.
        target (point or `torch.Tensor` of shape `(N, 3)`): What they look at.
        up (vector): World up.

    Returns:
        `torch.Tensor` of shape `(N, 4, 4)`: camera-to-world, OpenCV axes.

    Raises:
        CamerasError: if a centre is the target itself.
    """
    target = torch.as_tensor(target, dtype=centers.dtype, device=centers.device).expand_as(centers)
    up = torch.as_tensor(up, dtype=centers.dtype, device=centers.device).expand_as(centers)
    forward = target - centers
    distance = forward.norm(dim=-1, keepdim=True)
    if not (distance > 1e-9).all():
        raise CamerasError(f"centers: expected cameras away from their target, got one at {target[0].tolist()}.")
    forward = forward / distance
    right = torch.linalg.cross(forward, up, dim=-1)
    looks_along_up = right.norm(dim=-1, keepdim=True) < 1e-6
    top = torch.zeros_like(up)
    top[:, 2] = torch.where((forward * up).sum(dim=-1) < 0, -1.0, 1.0)
    right = torch.where(looks_along_up, torch.linalg.cross(forward, top, dim=-1), right)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right, dim=-1)
    poses = torch.eye(4, dtype=centers.dtype, device=centers.device).repeat(len(centers), 1, 1)
    poses[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
    poses[:, :3, 3] = centers
    return poses


class TrajectoryConstructors:
    """Class methods of [`Cameras`] that build camera paths.

    All take, as keywords, `radius` (distance to `target`, by default 1, the farthest training camera's), `target` (the
    origin), `field_of_view` (vertical, degrees, 50), `height` and `width` (512). `like`, such as
    `pipe.subject.references.cameras`, sets what is not given: radius and focal length to the median of those cameras,
    and their image size.

    Angles are in degrees. Azimuth 0 stands on the +Z side of the target and looks along -Z; seen from above (+Y) azimuth
    grows counter-clockwise, towards +X:

            -Z (180°)
              |
     -90° ----o---- +X (90°)
              |
            +Z (0°)
    """

    @classmethod
    def orbit(
        cls,
        count: int,
        *,
        azimuth: tuple[float, float] = (0.0, 360.0),
        elevation: Range = 20.0,
        radius: float | None = None,
        target: Point = (0.0, 0.0, 0.0),
        field_of_view: float | None = None,
        like: Cameras | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Cameras:
        """Cameras on a circle (or an arc of it) around the target. A full circle does not repeat its first camera.

        Args:
            count (`int`): Number of cameras.
            azimuth (`tuple[float, float]`): First and last azimuth; both are reached unless they span 360°.
            elevation (`float` or `tuple[float, float]`, defaults to 20): Elevation, or its first and last value.

        Example:

            >>> from diffusers_mvcustom.cameras import Cameras
            >>> Cameras.orbit(4, elevation=0.0).centers.round(decimals=3).abs().tolist()
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        """
        _check_count(count)
        first, last = as_pair("azimuth", azimuth, "the first and the last azimuth in degrees")
        closed = math.isclose(abs(last - first), 360.0)
        share = _shares(count, closed)
        low, high = _elevations(elevation)
        view = _View(like, radius, target, field_of_view, height, width)
        return view.cameras(cls, view.around(first + (last - first) * share, low + (high - low) * share))

    @classmethod
    def arc(
        cls, count: int, *, azimuth: tuple[float, float] = (-45.0, 45.0), **options: Unpack[ArcOptions]
    ) -> Cameras:
        """An orbit over a range of azimuths, -45° to 45° by default; see [`orbit`]."""
        return cls.orbit(count, azimuth=azimuth, **options)

    @classmethod
    def spiral(
        cls,
        count: int,
        *,
        turns: float = 1.0,
        elevation: tuple[float, float] = (0.0, 50.0),
        azimuth: float = 0.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """An orbit of `turns` turns from `azimuth` on, rising from the first to the last elevation."""
        first, turns = as_number("azimuth", azimuth), as_number("turns", turns)
        return cls.orbit(count, azimuth=(first, first + 360.0 * turns * (1 - 1e-6)), elevation=elevation, **options)

    @classmethod
    def lemniscate(
        cls,
        count: int,
        *,
        degrees: float = 30.0,
        azimuth: float = 0.0,
        elevation: float = 15.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """A closed figure of eight on the sphere: `degrees` to either side in azimuth, a quarter of it in elevation."""
        _check_count(count)
        azimuth, elevation = as_number("azimuth", azimuth), as_number("elevation", elevation)
        degrees = as_number("degrees", degrees)
        angle = 2 * math.pi * _shares(count, closed=True)
        elevations = elevation + degrees / 4 * torch.sin(2 * angle)
        _check_elevation(elevations.min().item(), elevations.max().item())
        view = _View(**options)
        return view.cameras(cls, view.around(azimuth + degrees * torch.sin(angle), elevations))

    @classmethod
    def dolly(
        cls,
        count: int,
        *,
        distance: tuple[float, float] = (1.3, 0.8),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """From the first to the last distance (in radii) to the target, straight."""
        _check_count(count)
        first, last = _positive_pair("distance", distance, "the first and the last distance in radii")
        azimuth, elevation = as_number("azimuth", azimuth), as_number("elevation", elevation)
        _check_elevation(elevation, elevation)
        view = _View(**options)
        share = _shares(count)
        scale = first + (last - first) * share
        centers = view.around(torch.full_like(share, azimuth), torch.full_like(share, elevation), scale)
        return view.cameras(cls, centers)

    @classmethod
    def zoom(
        cls,
        count: int,
        *,
        factor: tuple[float, float] = (1.0, 2.0),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """One pose, the focal length multiplied from the first to the last factor."""
        first, last = _positive_pair("factor", factor, "the first and the last factor of the focal length")
        cameras = cls.dolly(count, distance=(1.0, 1.0), azimuth=azimuth, elevation=elevation, **options)
        return _with_focal(cls, cameras, first + (last - first) * _shares(count))

    @classmethod
    def dolly_zoom(
        cls,
        count: int,
        *,
        distance: tuple[float, float] = (1.3, 0.8),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """A dolly whose focal length changes with the distance, so that the target keeps its size in the image."""
        first, last = _positive_pair("distance", distance, "the first and the last distance in radii")
        cameras = cls.dolly(count, distance=(first, last), azimuth=azimuth, elevation=elevation, **options)
        return _with_focal(cls, cameras, first + (last - first) * _shares(count))

    @classmethod
    def translate(
        cls,
        count: int,
        *,
        offset: Point = (0.4, 0.0, 0.0),
        azimuth: float = 0.0,
        elevation: float = 20.0,
        **options: Unpack[ViewOptions],
    ) -> Cameras:
        """A straight move without turning, by ± half of `offset` (x right, y up, z back, in the first camera's axes)."""
        cameras = cls.dolly(count, distance=(1.0, 1.0), azimuth=azimuth, elevation=elevation, **options)
        offset = as_float_tensor("offset", offset).to(cameras.camera_to_world)
        if offset.shape != (3,) or not offset.isfinite().all():
            raise CamerasError(f"offset: expected 3 finite numbers (right, up, back), got {offset.tolist()}.")
        moved = cameras.camera_to_world.clone()
        axes = moved[0, :3, :3] @ (offset * torch.tensor([1.0, -1.0, -1.0]))  # OpenCV: down, forward
        moved[:, :3, 3] += (_shares(count) - 0.5)[:, None] * axes
        return _cameras(cls)(moved, cameras.intrinsics, cameras.height, cameras.width)

    @classmethod
    def interpolate(cls, keys: Cameras, count: int) -> Cameras:
        """Cameras through key cameras: rotations by slerp, centres and intrinsics linearly, at even steps.

        Args:
            keys ([`Cameras`]): At least two key cameras; the first and the last are reached.
            count (`int`): Number of cameras.
        """
        _check_count(count)
        check_kind("keys", keys, TrajectoryConstructors)
        if len(keys) < 2:
            raise CamerasError(f"keys: expected at least 2 key cameras, got {len(keys)}.")
        at = _shares(count).to(keys.camera_to_world) * (len(keys) - 1)
        first = at.floor().long().clamp(max=len(keys) - 2)
        share = at - first
        mix = share[:, None, None]
        poses = keys.camera_to_world[first] * (1 - mix) + keys.camera_to_world[first + 1] * mix
        poses[:, :3, :3] = slerp(keys.camera_to_world[first, :3, :3], keys.camera_to_world[first + 1, :3, :3], share)
        intrinsics = keys.intrinsics[first] * (1 - mix) + keys.intrinsics[first + 1] * mix
        return _cameras(cls)(poses, intrinsics, keys.height, keys.width)

    @classmethod
    def jitter(
        cls,
        cameras: Cameras,
        *,
        degrees: float = 2.0,
        distance: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> Cameras:
        """The cameras with normally distributed errors: turned by `degrees`, moved by `distance` (standard deviations)."""
        check_kind("cameras", cameras, TrajectoryConstructors)
        degrees, distance = as_number("degrees", degrees), as_number("distance", distance)
        count = len(cameras)
        noise = torch.randn(2, count, 3, generator=generator, dtype=torch.float64).to(cameras.camera_to_world)
        poses = cameras.camera_to_world.clone()
        poses[:, :3, :3] = poses[:, :3, :3] @ rotation_matrices(noise[0] * math.radians(degrees) / math.sqrt(3))
        poses[:, :3, 3] += noise[1] * distance / math.sqrt(3)
        return _cameras(cls)(poses, cameras.intrinsics, cameras.height, cameras.width)


class _View:
    """What all trajectories share: where they look at, from how far, with which lens and image size."""

    def __init__(
        self,
        like: Cameras | None = None,
        radius: float | None = None,
        target: Point = (0.0, 0.0, 0.0),
        field_of_view: float | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        if field_of_view is not None and not (is_real(field_of_view) and 0 < field_of_view < 180):
            raise CamerasError(f"field_of_view: expected degrees between 0 and 180, got {field_of_view!r}.")
        self.target = as_float_tensor("target", target).to(torch.float32)
        if self.target.shape != (3,):
            raise CamerasError(f"target: expected a point of 3 numbers, got {self.target.tolist()}.")
        if like is not None:
            check_kind("like", like, TrajectoryConstructors)
            height = like.height if height is None else height
            width = like.width if width is None else width
            like = like.cover(height, width) if (like.height, like.width) != (height, width) else like
        self.height = DEFAULT_SIZE if height is None else as_size("height", height)
        self.width = DEFAULT_SIZE if width is None else as_size("width", width)
        if radius is None:
            radius = 1.0 if like is None else (like.centers.float() - self.target).norm(dim=-1).median().item()
        _check_positive("radius", radius)
        self.radius = radius
        if field_of_view is None and like is not None:
            fx, fy = like.focal.median(dim=0).values.tolist()
            self.focal: float | tuple[float, float] = (fx, fy)
        else:
            self.focal = self.height / 2 / math.tan(math.radians(field_of_view or DEFAULT_FIELD_OF_VIEW) / 2)

    def around(self, azimuth: Tensor, elevation: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Points `(N, 3)` around the target, at `scale` radii."""
        if not azimuth.isfinite().all():
            raise CamerasError("azimuth: expected finite degrees, got NaN or infinity.")
        azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        direction = torch.stack(
            [azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], dim=-1
        )
        distance = self.radius * scale
        return self.target + direction * (distance[:, None] if isinstance(distance, Tensor) else distance)

    def cameras(self, cls: type[TrajectoryConstructors], centers: Tensor) -> Cameras:
        """Cameras at `centers` that look at the target."""
        return _cameras(cls).from_focal(look_at(centers, self.target), self.focal, self.height, self.width)


def _cameras(cls: type[TrajectoryConstructors]) -> type[Cameras]:
    """The class that a constructor was called on: [`Cameras`], which alone mixes them in."""
    return cast("type[Cameras]", cls)


def _shares(count: int, closed: bool = False) -> Tensor:
    """`count` even shares from 0 to 1, 1 left out if the path is closed; a single one is 0 (or the middle)."""
    if count == 1 and not closed:
        return torch.full((1,), 0.5)
    return torch.arange(count, dtype=torch.float32) / (count if closed else count - 1)


def _with_focal(cls: type[TrajectoryConstructors], cameras: Cameras, factors: Tensor) -> Cameras:
    scale = torch.ones(len(cameras), 3, 3)
    scale[:, 0, 0] = scale[:, 1, 1] = factors
    return _cameras(cls)(cameras.camera_to_world, cameras.intrinsics * scale, cameras.height, cameras.width)


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise CamerasError(f"count: expected a whole number of cameras of at least 1, got {count!r}.")


def _positive_pair(name: str, value: tuple[float, float], meaning: str) -> tuple[float, float]:
    pair = as_pair(name, value, meaning)
    _check_positive(name, *pair)
    return pair


def _elevations(elevation: Range) -> tuple[float, float]:
    """The first and the last elevation, of two or of one that stays."""
    both = (elevation, elevation) if is_real(elevation) else elevation
    low, high = as_pair("elevation", both, "one elevation, or the first and the last, in degrees")
    _check_elevation(low, high)
    return low, high


def _check_positive(name: str, *values: float) -> None:
    if not all(is_real(value) and value > 0 for value in values):
        raise CamerasError(f"{name}: expected numbers above 0, got {values}.")


def _check_elevation(low: float, high: float) -> None:
    if not (is_real(low) and is_real(high) and min(low, high) >= -90 and max(low, high) <= 90):
        raise CamerasError(f"elevation: expected degrees from -90 to 90, got {low} to {high}.")


# --- cameras/cameras.py: `Cameras`: a batch of pinhole cameras in the one convention that is used inside this package.


_ORTHONORMALITY_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Cameras(TrajectoryConstructors):
    """A batch of N pinhole cameras that share one image size.

    Convention: OpenCV axes (x right, y down, z forward); intrinsics in pixels of a `height` × `width` image; the
    centre of the first pixel is (0.5, 0.5). Every other convention is converted at the border, see
    [`cameras.conventions`] and [`load_cameras`].

    Args:
        camera_to_world (`torch.Tensor` of shape `(N, 4, 4)`):
            Rigid transforms from camera to world coordinates.
        intrinsics (`torch.Tensor` of shape `(N, 3, 3)`):
            `[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]` in pixels. A single `(3, 3)` matrix is shared by all cameras.
        height (`int`): Image height in pixels.
        width (`int`): Image width in pixels.

    Raises:
        CamerasError: naming the argument, if shapes do not fit, a value is not finite, a rotation is not a rotation,
            or a focal length is not positive.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> cameras = Cameras.orbit(4, elevation=20.0, height=64, width=96)
        >>> len(cameras), cameras.height, cameras.width
        (4, 64, 96)
        >>> cameras.centers.norm(dim=-1).round(decimals=6).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    camera_to_world: Tensor  # [N, 4, 4]
    intrinsics: Tensor  # [N, 3, 3]
    height: int
    width: int

    def __post_init__(self) -> None:
        camera_to_world = as_float_tensor("camera_to_world", self.camera_to_world)
        intrinsics = as_float_tensor("intrinsics", self.intrinsics)
        if camera_to_world.ndim != 3 or camera_to_world.shape[1:] != (4, 4) or camera_to_world.shape[0] == 0:
            raise CamerasError(
                f"camera_to_world: expected shape (N, 4, 4) with N >= 1, got {tuple(camera_to_world.shape)}."
            )
        if intrinsics.shape == (3, 3):
            intrinsics = intrinsics.expand(camera_to_world.shape[0], 3, 3)
        if intrinsics.shape != (camera_to_world.shape[0], 3, 3):
            raise CamerasError(
                f"intrinsics: expected shape (3, 3) or ({camera_to_world.shape[0]}, 3, 3) to match camera_to_world, "
                f"got {tuple(intrinsics.shape)}."
            )
        for name in ("height", "width"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        intrinsics = intrinsics.to(device=camera_to_world.device, dtype=camera_to_world.dtype)
        _check_poses(camera_to_world)
        _check_intrinsics(intrinsics)
        object.__setattr__(self, "camera_to_world", camera_to_world)
        object.__setattr__(self, "intrinsics", intrinsics)

    # --- construction ---

    @classmethod
    def from_focal(
        cls,
        camera_to_world: Tensor,  # [N, 4, 4]
        focal: float | tuple[float, float],
        height: int,
        width: int,
    ) -> Cameras:
        """Cameras with the given focal length(s) in pixels and the principal point at the image centre."""
        camera_to_world = as_float_tensor("camera_to_world", camera_to_world)
        height, width = as_size("height", height), as_size("width", width)
        fx, fy = focal if isinstance(focal, tuple) and len(focal) == 2 else (focal, focal)
        if not (is_real(fx) and is_real(fy)):
            raise CamerasError(f"focal: expected a number of pixels or two (fx, fy), got {focal!r}.")
        intrinsics = torch.tensor(
            [[fx, 0.0, width / 2], [0.0, fy, height / 2], [0.0, 0.0, 1.0]], dtype=camera_to_world.dtype
        )
        return cls(camera_to_world, intrinsics, height, width)

    @classmethod
    def cat(cls, batches: Sequence[Cameras]) -> Cameras:
        """Joins batches of one image size, in order.

        Raises:
            CamerasError: for no batch, something else among them, or several image sizes.
        """
        batches = list(batches) if isinstance(batches, Iterable) else [batches]
        if not batches:
            raise CamerasError("batches: expected at least one Cameras, got none.")
        for i, cameras in enumerate(batches):
            check_kind(f"batches[{i}]", cameras, Cameras)
        sizes = sorted({(cameras.height, cameras.width) for cameras in batches})
        if len(sizes) != 1:
            raise CamerasError(f"cameras: expected one image size (height, width) for all, got {sizes}.")
        height, width = sizes[0]
        return cls(
            torch.cat([cameras.camera_to_world for cameras in batches]),
            torch.cat([cameras.intrinsics for cameras in batches]),
            height,
            width,
        )

    # --- as a batch ---

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """Cameras selected by `index`. Always a batch: `cameras[3]` holds one camera."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):  # also ends iteration by index
                raise IndexError(f"camera {index} of {len(self)}")
            index = [index]
        elif not isinstance(index, (slice, Tensor)):
            index = list(index)
        return replace(self, camera_to_world=self.camera_to_world[index], intrinsics=self.intrinsics[index])

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras on another device or in another floating dtype."""
        return replace(
            self,
            camera_to_world=self.camera_to_world.to(device=device, dtype=dtype),
            intrinsics=self.intrinsics.to(device=device, dtype=dtype),
        )

    @property
    def device(self) -> torch.device:
        """Device of the cameras."""
        return self.camera_to_world.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the cameras."""
        return self.camera_to_world.dtype

    def allclose(self, other: Cameras, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
        """Whether both hold the same cameras of the same image size, up to tolerances."""
        return (
            (len(self), self.height, self.width) == (len(other), other.height, other.width)
            and torch.allclose(self.camera_to_world, other.camera_to_world.to(self.camera_to_world), rtol, atol)
            and torch.allclose(self.intrinsics, other.intrinsics.to(self.intrinsics), rtol, atol)
        )

    # --- views of the pose ---

    @property
    def world_to_camera(self) -> Tensor:
        """Inverse poses, `(N, 4, 4)`."""
        rotation = self.camera_to_world[:, :3, :3].transpose(1, 2)
        world_to_camera = torch.zeros_like(self.camera_to_world)
        world_to_camera[:, :3, :3] = rotation
        world_to_camera[:, :3, 3] = -(rotation * self.camera_to_world[:, None, :3, 3]).sum(dim=-1)  # no autocast in it
        world_to_camera[:, 3, 3] = 1.0
        return world_to_camera

    @property
    def centers(self) -> Tensor:
        """Camera centres in the world, `(N, 3)`."""
        return self.camera_to_world[:, :3, 3]

    @property
    def optical_axes(self) -> Tensor:
        """Unit viewing directions (+z of the camera) in the world, `(N, 3)`."""
        return self.camera_to_world[:, :3, 2]

    @property
    def focal(self) -> Tensor:
        """`(fx, fy)` in pixels, `(N, 2)`."""
        return torch.stack([self.intrinsics[:, 0, 0], self.intrinsics[:, 1, 1]], dim=-1)

    @property
    def field_of_view(self) -> Tensor:
        """Horizontal and vertical field of view in degrees, `(N, 2)`, for a centred principal point."""
        size = self.camera_to_world.new_tensor([self.width, self.height])
        return torch.rad2deg(2 * torch.atan(size / (2 * self.focal)))

    # --- another image of the same cameras ---

    def resize(self, height: int, width: int) -> Cameras:
        """The cameras of the same image resampled to `height` × `width`; each axis scales on its own.

        With pixel centres at +0.5 the intrinsics scale by the plain ratio of sizes, principal point included.
        """
        height, width = as_size("height", height), as_size("width", width)
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, intrinsics=self.intrinsics * scale[:, None], height=height, width=width)

    def crop(self, top: int, left: int, height: int, width: int) -> Cameras:
        """The cameras of the image's part that starts at pixel (`top`, `left`). It may reach beyond the image."""
        if not (is_real(top) and is_real(left)):
            raise CamerasError(f"top, left: expected numbers of pixels, got {top!r} and {left!r}.")
        shift = torch.zeros_like(self.intrinsics)
        shift[:, 0, 2], shift[:, 1, 2] = left, top
        return replace(self, intrinsics=self.intrinsics - shift, height=height, width=width)

    def cover(self, height: int, width: int) -> Cameras:
        """Resizes evenly until the image covers `height` × `width`, then crops the centre.

        What [`MVCustomPipeline`] does with cameras whose image has another aspect ratio than the views asked for.
        """
        height, width = as_size("height", height), as_size("width", width)
        scale = max(height / self.height, width / self.width)
        scaled = self.resize(
            *(max(round(size * scale), least) for size, least in ((self.height, height), (self.width, width)))
        )
        return scaled.crop((scaled.height - height) // 2, (scaled.width - width) // 2, height, width)


def _bad_indices(bad: Tensor) -> str:
    indices = bad.nonzero().flatten().tolist()
    return f"{len(indices)} of {bad.numel()} cameras (first: index {indices[0]})"


def _check_poses(camera_to_world: Tensor) -> None:
    finite = camera_to_world.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise CamerasError(
            f"camera_to_world: expected finite numbers, got NaN or infinity in {_bad_indices(~finite)}."
        )
    bottom = camera_to_world.new_tensor([0.0, 0.0, 0.0, 1.0])
    affine = ((camera_to_world[:, 3] - bottom).abs() < 1e-6).all(dim=1)
    if not affine.all():
        raise CamerasError(
            f"camera_to_world: expected the bottom row [0, 0, 0, 1], got {camera_to_world[~affine][0, 3].tolist()} in "
            f"{_bad_indices(~affine)}. Transposed matrices (row vectors)?"
        )
    rotation = camera_to_world[:, :3, :3].detach().cpu().double()  # autocast leaves float64 alone
    error = (rotation @ rotation.transpose(1, 2) - torch.eye(3).to(rotation)).abs().amax(dim=(1, 2))
    singular = torch.linalg.det(rotation).abs() < 1e-8
    if singular.any():
        raise CamerasError(f"camera_to_world: expected rotations, got singular matrices in {_bad_indices(singular)}.")
    scaled = ~(error <= _ORTHONORMALITY_TOLERANCE)  # NaN of an overflow too
    if scaled.any():
        raise CamerasError(
            f"camera_to_world: expected orthonormal rotations, got an error of {error.max().item():.3g} in "
            f"{_bad_indices(scaled)}. Poses with a scale or shear? Divide the rotation by its scale first."
        )
    mirrored = torch.linalg.det(rotation) < 0
    if mirrored.any():
        raise CamerasError(
            f"camera_to_world: expected right-handed rotations (determinant +1), got -1 in {_bad_indices(mirrored)}. "
            "An odd number of axes flipped on conversion?"
        )


def _check_intrinsics(intrinsics: Tensor) -> None:
    finite = intrinsics.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise CamerasError(f"intrinsics: expected finite numbers, got NaN or infinity in {_bad_indices(~finite)}.")
    nonpositive = (intrinsics[:, 0, 0] <= 0) | (intrinsics[:, 1, 1] <= 0)
    if nonpositive.any():
        focal = intrinsics[nonpositive][0].diagonal()[:2].tolist()
        raise CamerasError(
            f"intrinsics: expected focal lengths in pixels above 0, got {focal} in {_bad_indices(nonpositive)}."
        )
    expected = torch.zeros_like(intrinsics)
    expected[:, 0, 0], expected[:, 1, 1] = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    expected[:, :2, 2] = intrinsics[:, :2, 2]
    expected[:, 2, 2] = 1.0
    other = ((intrinsics - expected).abs() > 1e-6).flatten(1).any(dim=1)
    if other.any():
        raise CamerasError(
            f"intrinsics: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {intrinsics[other][0].tolist()} in "
            f"{_bad_indices(other)}. Skew is not supported; a transposed matrix?"
        )


# --- geometry/rays.py: Rays and projections of pinhole cameras, in the package's one camera convention.


OUTSIDE_EVERY_IMAGE = -1e4
"""Both pixel coordinates that [`project`] gives a point which the camera cannot see because it is not in front."""


def pixel_centers(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Centres (x, y) of all pixels of a `height` × `width` image.

    Returns:
        `torch.Tensor` of shape `(height, width, 2)`.

    Example:

        >>> from diffusers_mvcustom.geometry import pixel_centers
        >>> pixel_centers(1, 3).tolist()
        [[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]]]
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype) + 0.5,
        torch.arange(width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def transform_directions(
    directions: Tensor,  # [..., P, 3]
    matrix: Tensor,  # [..., 4, 4] or [..., 3, 3]
) -> Tensor:
    """Rotates directions: the linear part of `matrix` applied to each of P vectors, leading dimensions broadcast.

    Returns:
        `torch.Tensor` of shape `(..., P, 3)`.
    """
    _check_shape("directions", directions, (None, 3))
    columns = matrix[..., None, :3, :3]  # [..., 1, 3, 3]
    x, y, z = directions.split(1, dim=-1)
    return x * columns[..., 0] + y * columns[..., 1] + z * columns[..., 2]


def transform_points(
    points: Tensor,  # [..., P, 3]
    matrix: Tensor,  # [..., 4, 4]
) -> Tensor:
    """Maps points by an affine `matrix`: `R p + t` for each of P points, leading dimensions broadcast.

    Returns:
        `torch.Tensor` of shape `(..., P, 3)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import transform_points
        >>> shift = torch.eye(4)
        >>> shift[0, 3] = 2.0
        >>> transform_points(torch.tensor([[1.0, 1.0, 1.0]]), shift).tolist()
        [[3.0, 1.0, 1.0]]
    """
    _check_shape("points", points, (None, 3))
    _check_shape("matrix", matrix, (4, 4))
    return transform_directions(points, matrix) + matrix[..., None, :3, 3]


def camera_rays(
    camera_to_world: Tensor,  # [..., 4, 4]
    intrinsics: Tensor,  # [..., 3, 3]
    pixels: Tensor,  # [..., P, 2]
    *,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """World rays through the given pixel positions.

    Args:
        camera_to_world (`torch.Tensor` of shape `(..., 4, 4)`): Camera poses, OpenCV axes.
        intrinsics (`torch.Tensor` of shape `(..., 3, 3)`): In the pixels that `pixels` counts.
        pixels (`torch.Tensor` of shape `(..., P, 2)`): Positions (x, y), see [`pixel_centers`].
        normalize (`bool`, *optional*, defaults to `True`):
            Whether directions have unit length. Otherwise their z in the camera is 1, so that
            `origin + z_depth * direction` is the point at that z-depth.

    Returns:
        `tuple` of `origins` and `directions`, each `(..., P, 3)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import camera_rays
        >>> intrinsics = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
        >>> origins, directions = camera_rays(torch.eye(4), intrinsics, torch.tensor([[2.0, 1.0]]), normalize=False)
        >>> directions.tolist()
        [[0.5, 0.0, 1.0]]
    """
    _check_shape("camera_to_world", camera_to_world, (4, 4))
    _check_shape("intrinsics", intrinsics, (3, 3))
    _check_shape("pixels", pixels, (None, 2))
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    xy = (pixels - intrinsics[..., None, :2, 2]) / focal
    directions = transform_directions(torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1), camera_to_world)
    if normalize:
        directions = directions / directions.norm(dim=-1, keepdim=True)
    origins = camera_to_world[..., None, :3, 3].expand_as(directions)
    return origins, directions


def project(
    points: Tensor,  # [..., P, 3]
    world_to_camera: Tensor,  # [..., 4, 4]
    intrinsics: Tensor,  # [..., 3, 3]
    *,
    near: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Projects world points to pixel positions, leading dimensions broadcast.

    A point whose z-depth is not above `near` has no image. Its pixel is the constant
    `OUTSIDE_EVERY_IMAGE` in x and y, with zero gradient: sampling with zeros outside
    gives zeros, and no infinity reaches a loss. Its depth is returned as it is (zero or negative), with its gradient.

    Args:
        points (`torch.Tensor` of shape `(..., P, 3)`): World points.
        world_to_camera (`torch.Tensor` of shape `(..., 4, 4)`): Inverse camera poses, OpenCV axes.
        intrinsics (`torch.Tensor` of shape `(..., 3, 3)`): In pixels.
        near (`float`, *optional*, defaults to 1e-4): Smallest z-depth that has an image, in world units.

    Returns:
        `tuple` of `pixels` `(..., P, 2)` and z-`depth` `(..., P)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import project
        >>> intrinsics = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
        >>> pixels, depth = project(torch.tensor([[1.0, 0.0, 4.0], [0.0, 0.0, -4.0]]), torch.eye(4), intrinsics)
        >>> pixels.tolist(), depth.tolist()
        ([[1.5, 1.0], [-10000.0, -10000.0]], [4.0, -4.0])
    """
    _check_shape("points", points, (None, 3))
    _check_shape("world_to_camera", world_to_camera, (4, 4))
    _check_shape("intrinsics", intrinsics, (3, 3))
    in_camera = transform_points(points, world_to_camera)
    depth = in_camera[..., 2]
    in_front = depth > near
    # A safe divisor *before* dividing: a `where` after it would still pass NaN gradients back.
    divisor = torch.where(in_front, depth, torch.ones_like(depth))[..., None]
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    pixels = focal * in_camera[..., :2] / divisor + intrinsics[..., None, :2, 2]
    pixels = torch.where(in_front[..., None], pixels, torch.full_like(pixels, OUTSIDE_EVERY_IMAGE))
    return pixels, depth.expand(pixels.shape[:-1])


def plucker_coordinates(
    origins: Tensor,  # [..., 3]
    directions: Tensor,  # [..., 3]
) -> Tensor:
    """Plücker coordinates of rays, ordered (direction, origin × direction); leading dimensions broadcast.

    They are the same for every origin on the ray, and scale with the direction's length.

    Returns:
        `torch.Tensor` of shape `(..., 6)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import plucker_coordinates
        >>> plucker_coordinates(torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.0, 0.0, 1.0])).tolist()
        [0.0, 0.0, 1.0, 0.0, -1.0, 0.0]
    """
    _check_shape("origins", origins, (3,))
    _check_shape("directions", directions, (3,))
    origins, directions = torch.broadcast_tensors(origins, directions)
    return torch.cat([directions, torch.cross(origins, directions, dim=-1)], dim=-1)


def _check_shape(name: str, value: Tensor, tail: tuple[int | None, ...]) -> None:
    fits = value.ndim >= len(tail) and all(
        want is None or have == want for have, want in zip(value.shape[-len(tail) :], tail)
    )
    if not fits:
        wanted = ", ".join(["..."] + ["P" if want is None else str(want) for want in tail])
        raise MVCustomError(f"{name}: expected shape ({wanted}), got {tuple(value.shape)}.")


# --- geometry/feature_mesh.py: The anchor feature mesh: a feature grid unprojected with its depth, cut where the depth is discontinuous.


SAME_SURFACE = 0.05
"""Relative depth within which the meshes of two views are taken to be the same surface."""

DEFAULT_DISCONTINUITY = 0.1
"""Relative depth change beyond which neighbouring pixels are taken to lie on different surfaces."""

_OBLIQUE = math.tan(math.radians(65))
"""Slope of a surface that is still plainly seen: how many times its own width a pixel's footprint recedes."""

_PLANE_TOLERANCE = 0.15
"""Relative difference between two successive changes of disparity that still counts as one plane."""

_PLANE_EDGES = 3
"""Successive grid edges of equal change of disparity, at least, that make a steep run a slanted plane."""


@dataclass(frozen=True, eq=False)
class FeatureMesh:
    """Triangles over the pixel centres of a feature grid, seen from its anchor camera.

    Faces are ordered counter-clockwise as the anchor sees them: normals point towards the anchor.

    Args:
        vertices (`torch.Tensor` of shape `(height * width, 3)`):
            World position of every pixel of the grid, row by row. Pixels without a valid depth lie at the anchor's
            centre and belong to no face.
        faces (`torch.Tensor` of shape `(T, 3)`, int64): Vertex indices of the triangles.
        height (`int`): Height of the feature grid.
        width (`int`): Width of the feature grid.
        anchor (`Cameras`): The one camera that the grid was seen from, at the grid's resolution.
    """

    vertices: Tensor  # [height * width, 3]
    faces: Tensor  # [T, 3]
    height: int
    width: int
    anchor: Cameras

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FeatureMesh:
        """The mesh on another device or with vertices (and the anchor) in another floating dtype."""
        return replace(
            self,
            vertices=self.vertices.to(device=device, dtype=dtype),
            faces=self.faces.to(device=device),
            anchor=self.anchor.to(device=device, dtype=dtype),
        )


def feature_mesh_from_depth(
    depth: Tensor,  # [h, w]
    camera: Cameras,
    *,
    discontinuity: float = DEFAULT_DISCONTINUITY,
    valid: Tensor | None = None,  # [h, w]
) -> FeatureMesh:
    """Builds the anchor feature mesh of MVCustom's depth-aware feature rendering (the paper's `P_a` and `T_a`).

    Every pixel centre is unprojected with its z-depth; every cell between four pixel centres gives two triangles,
    split along the diagonal that crosses the smaller depth change. Triangles that bridge a depth discontinuity are
    left out.

    An edge between neighbouring pixels is continuous if either holds:

    1. its relative depth change `|z1 - z2| / min(z1, z2)` is at most `discontinuity`;
    2. it is that of a surface seen at most 65° from its normal (`tan(65°) / focal` in pixels of the grid; this counts
       on coarse grids, where a pixel is wide enough for any surface to change by more than `discontinuity`);
    3. it belongs to a slanted plane: over a plane, disparity 1/z is an affine function of the pixel position, however
       grazing the view is. So at least three successive edges whose disparity changes are alike (15 %) are a plane and
       not a step, and the edge where such a plane meets another surface may change as much as the plane itself does.

    The third rule is what keeps a ground plane whole up to the horizon. A step has no run of equal changes, so it is
    cut. What is narrower than two pixels has no triangle of its own.

    Vertices are computed in float64 where the device has it, so that the anchor's own view hits its pixel centres.

    Args:
        depth (`torch.Tensor` of shape `(h, w)`): z-depth at the pixel centres, in world units.
        camera (`Cameras`): One camera, of image size `h` × `w`.
        discontinuity (`float`, *optional*, defaults to 0.1):
            Largest relative depth change between neighbouring pixels that is taken for one surface without further
            evidence.
        valid (`torch.Tensor` of shape `(h, w)`, bool, *optional*): Pixels that have a depth. Others get no triangle.

    Raises:
        MVCustomError: if shapes do not fit, `discontinuity` is not above 0, or a depth that should be valid is not
            finite or not positive.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.cameras import Cameras
        >>> from diffusers_mvcustom.geometry import feature_mesh_from_depth
        >>> camera = Cameras.from_focal(torch.eye(4)[None], 8.0, height=3, width=4)
        >>> mesh = feature_mesh_from_depth(torch.ones(3, 4), camera)
        >>> mesh.vertices.shape, mesh.faces.shape
        (torch.Size([12, 3]), torch.Size([12, 3]))
    """
    depth, valid = _checked(depth, camera, discontinuity, valid)
    height, width = depth.shape
    dtype = working_dtype(depth.device)
    depth = depth.to(dtype)
    camera = camera.to(device=depth.device, dtype=dtype)
    pixels = pixel_centers(height, width, device=depth.device, dtype=dtype).flatten(0, 1)
    origins, directions = camera_rays(camera.camera_to_world[0], camera.intrinsics[0], pixels, normalize=False)
    safe_depth = torch.where(valid, depth, torch.zeros_like(depth))
    vertices = origins + safe_depth.flatten()[:, None] * directions
    across, down = (max(discontinuity, _OBLIQUE / focal) for focal in camera.focal[0].tolist())
    faces = _faces(torch.where(valid, depth, torch.ones_like(depth)), valid, across, down)
    return FeatureMesh(vertices, faces, height, width, camera)


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype that geometry is computed in: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _checked(depth: Tensor, camera: Cameras, discontinuity: float, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    if depth.ndim != 2 or min(depth.shape) < 2 or not depth.is_floating_point():
        raise MVCustomError(
            f"depth: expected floating point z-depth of shape (h, w), both at least 2, got {depth.dtype} of shape "
            f"{tuple(depth.shape)}."
        )
    if len(camera) != 1 or (camera.height, camera.width) != tuple(depth.shape):
        raise MVCustomError(
            f"camera: expected one camera of the depth map's size {tuple(depth.shape)}, got {len(camera)} of size "
            f"({camera.height}, {camera.width}). Resize the cameras first: `cameras.resize(height, width)`."
        )
    if not discontinuity > 0:
        raise MVCustomError(f"discontinuity: expected a relative depth change above 0, got {discontinuity!r}.")
    if valid is None:
        valid = torch.ones_like(depth, dtype=torch.bool)
    elif valid.dtype != torch.bool or valid.shape != depth.shape:
        raise MVCustomError(
            f"valid: expected bool of shape {tuple(depth.shape)} like depth, got {valid.dtype} of shape "
            f"{tuple(valid.shape)}."
        )
    valid = valid.to(depth.device)
    bad = valid & ~(depth.isfinite() & (depth > 0))
    if bad.any():
        raise MVCustomError(
            f"depth: expected finite z-depth above 0, got {depth[bad][0].item()} (and {int(bad.sum())} bad of "
            f"{bad.numel()} pixels). Disparity, or a map with holes? Mark holes with `valid`."
        )
    return depth, valid


def _faces(depth: Tensor, valid: Tensor, limit_across: float, limit_down: float) -> Tensor:
    """Triangles of the grid without those that hold a discontinuous edge or an invalid pixel, `(T, 3)`."""
    height, width = depth.shape
    across = _continuous(depth, valid, limit_across)  # [h, w-1], edge to the right neighbour
    down = _continuous(depth.T, valid.T, limit_down).T  # [h-1, w], edge to the lower neighbour
    top, bottom, left, right = across[:-1], across[1:], down[:, :-1], down[:, 1:]
    # The cell's corners: a b above c d. Split along a-d or b-c; each triangle needs its two grid edges.
    upper_ad, lower_ad = top & right, left & bottom
    upper_bc, lower_bc = top & left, right & bottom
    log_depth = depth.log()
    change_ad = (log_depth[:-1, :-1] - log_depth[1:, 1:]).abs()
    change_bc = (log_depth[:-1, 1:] - log_depth[1:, :-1]).abs()
    kept_ad = upper_ad.int() + lower_ad.int()
    kept_bc = upper_bc.int() + lower_bc.int()
    split_ad = (kept_ad > kept_bc) | ((kept_ad == kept_bc) & (change_ad <= change_bc))
    index = torch.arange(height * width, device=depth.device).reshape(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    triangles = torch.stack(  # counter-clockwise as seen with y down
        [
            torch.stack([a, torch.where(split_ad, d, c), b], dim=-1),
            torch.stack([torch.where(split_ad, a, b), c, d], dim=-1),
        ],
        dim=2,
    )  # [h-1, w-1, 2, 3]
    kept = torch.stack([torch.where(split_ad, upper_ad, upper_bc), torch.where(split_ad, lower_ad, lower_bc)], dim=2)
    return triangles[kept]


def _continuous(depth: Tensor, valid: Tensor, limit: float) -> Tensor:
    """Whether the edge from each pixel to its right neighbour stays on one surface, `(h, w - 1)` bool."""
    nearer = torch.minimum(depth[:, :-1], depth[:, 1:])
    gentle = (depth[:, 1:] - depth[:, :-1]).abs() <= limit * nearer
    present = valid[:, :-1] & valid[:, 1:]
    change = 1 / depth[:, 1:] - 1 / depth[:, :-1]
    size = change.abs()
    # Runs of edges with alike changes of disparity: slanted planes.
    alike = (change[:, 1:] - change[:, :-1]).abs() <= _PLANE_TOLERANCE * torch.maximum(size[:, 1:], size[:, :-1])
    alike = alike & present[:, 1:] & present[:, :-1]
    plane = torch.zeros_like(gentle)
    starts = change.shape[1] - _PLANE_EDGES + 1
    if starts > 0:
        run = torch.ones_like(alike[:, :starts])
        for step in range(_PLANE_EDGES - 1):
            run = run & alike[:, step : step + starts]
        for step in range(_PLANE_EDGES):
            plane[:, step : step + starts] |= run
    # The edge over a crease changes by something between what the planes on its two sides do.
    steepest = (1 + _PLANE_TOLERANCE) * size
    crease = torch.zeros_like(gentle)
    for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        crease[:, here] |= (
            plane[:, there] & (size[:, here] <= steepest[:, there]) & (change[:, here] * change[:, there] >= 0)
        )
    return present & (gentle | plane | crease)


# --- geometry/rasterizer.py: A rasteriser in plain torch: which triangle of a feature mesh every pixel of every camera sees.


_NOTHING = torch.iinfo(torch.int64).max
_FACE_BITS = 32


@dataclass(frozen=True, eq=False)
class Rasterization:
    """What every pixel of N cameras sees of a mesh.

    Args:
        face_index (`torch.Tensor` of shape `(N, H, W)`, int64): The nearest face, -1 where there is none.
        barycentrics (`torch.Tensor` of shape `(N, H, W, 3)`):
            Weights of the face's vertices at the hit, perspective-correct, at least 0 and with sum 1; 0 where there is
            no face.
        depth (`torch.Tensor` of shape `(N, H, W)`): z-depth of the hit in the camera, infinite where there is none.
        front_facing (`torch.Tensor` of shape `(N, H, W)`, bool): Whether the face's front (the side that the mesh's
            anchor sees) looks at the camera. `False` where there is no face.
    """

    face_index: Tensor  # [N, H, W]
    barycentrics: Tensor  # [N, H, W, 3]
    depth: Tensor  # [N, H, W]
    front_facing: Tensor  # [N, H, W]

    @property
    def visibility(self) -> Tensor:
        """Where the camera sees what the anchor saw, `(N, H, W)` bool.

        The nearest surface counts, also if it is seen from behind: it hides what is further away, but its back was not
        seen by the anchor.
        """
        return self.front_facing


@torch.no_grad()
def rasterize(
    mesh: FeatureMesh,
    cameras: Cameras,
    *,
    near: float = 1e-6,
    chunk_size: int = 1 << 18,
) -> Rasterization:
    """Renders a mesh into cameras: nearest face, barycentric coordinates and depth at every pixel centre.

    Each triangle is tested against the pixels in its bounding box, as lists of (triangle, pixel) pairs in chunks, and
    the nearest is kept by one integer minimum over (depth, face index). So the result is deterministic: of faces at
    one depth (to float32) the one of lowest index is kept. Edges are inclusive, and triangles reach 1e-5 pixels beyond
    them, so that a camera whose pixel centres lie on the mesh's rim (the anchor's own) hits all of it. Triangles that
    are seen edge-on have no area and are not hit.

    Computed in the dtype of the mesh's vertices (float64, as [`feature_mesh_from_depth`] builds it); not
    differentiable.

    Args:
        mesh (`FeatureMesh`): The mesh, in the cameras' world.
        cameras (`Cameras`): N cameras of one image size, which need not be the mesh's. Moved to the mesh's device.
        near (`float`, *optional*, defaults to 1e-6): Smallest z-depth that is seen, in world units.
        chunk_size (`int`, *optional*, defaults to 2^18):
            Most pairs (and triangles of a group of cameras) at once; bounds the memory, to about 500 bytes each, however
            large the triangles appear.

    Raises:
        MVCustomError: if `near` or `chunk_size` is not above 0.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.cameras import Cameras
        >>> from diffusers_mvcustom.geometry import feature_mesh_from_depth, rasterize
        >>> camera = Cameras.from_focal(torch.eye(4)[None], 8.0, height=3, width=4)
        >>> seen = rasterize(feature_mesh_from_depth(torch.full((3, 4), 2.0), camera), camera)
        >>> seen.visibility.all().item(), seen.depth.unique().tolist()
        (True, [2.0])
    """
    if not near > 0:
        raise MVCustomError(f"near: expected a z-depth above 0, got {near!r}.")
    if chunk_size < 1:
        raise MVCustomError(f"chunk_size: expected a number of at least 1, got {chunk_size!r}.")
    vertices = mesh.vertices
    size = (cameras.height, cameras.width)
    out_dtype = cameras.dtype
    cameras = cameras.to(device=vertices.device, dtype=vertices.dtype)
    # A true inverse: transposing a rotation that is orthonormal to float32 only would move the anchor's own view.
    world_to_camera = torch.linalg.inv(cameras.camera_to_world)
    parts = []
    group = max(1, chunk_size // max(1, len(mesh.faces)))
    for start in range(0, len(cameras), group):
        points = transform_points(vertices, world_to_camera[start : start + group])  # [n, V, 3]
        homogeneous = transform_directions(points, cameras.intrinsics[start : start + group])
        parts.append(_rasterize(homogeneous, mesh.faces, size, near, chunk_size))
    face_index, barycentrics, depth, front_facing = (torch.cat(values) for values in zip(*parts))
    return Rasterization(face_index, barycentrics.to(out_dtype), depth.to(out_dtype), front_facing)


def _rasterize(
    homogeneous: Tensor,  # [n, V, 3]
    faces: Tensor,  # [T, 3]
    size: tuple[int, int],
    near: float,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = size
    count = len(homogeneous)
    tolerance = 1e-5 if homogeneous.dtype == torch.float64 else 1e-3
    instances, boxes = _boxes(homogeneous, faces, size, near, tolerance)  # [I] of n * T, [I, 4]
    keys = torch.full((count * height * width,), _NOTHING, device=homogeneous.device)
    if len(instances):
        camera = instances // len(faces)
        face = instances % len(faces)
        triangles = _Triangles.of(homogeneous[camera[:, None], faces[face]], tolerance)
        for instance, x, y in _pairs(boxes, chunk_size):
            inside, _, depth = triangles.hit(instance, x, y)
            inside &= depth > near
            instance, x, y, depth = instance[inside], x[inside], y[inside], depth[inside]
            # The bits of a positive float order as an integer does.
            key = (depth.float().view(torch.int32).long() << _FACE_BITS) | face[instance]
            keys.scatter_reduce_(0, (camera[instance] * height + y) * width + x, key, "amin")
    hit = (keys != _NOTHING).nonzero().squeeze(1)
    face_index = torch.full_like(keys, -1)
    barycentrics = homogeneous.new_zeros(len(keys), 3)
    depth = homogeneous.new_full((len(keys),), torch.inf)
    front_facing = torch.zeros_like(keys, dtype=torch.bool)
    for part in hit.split(chunk_size):
        nearest = keys[part] & ((1 << _FACE_BITS) - 1)
        seen = _Triangles.of(homogeneous[(part // (height * width))[:, None], faces[nearest]], tolerance)
        rows = torch.arange(len(part), device=part.device)
        _, barycentrics[part], depth[part] = seen.hit(rows, part % width, part // width % height)
        face_index[part] = nearest
        front_facing[part] = seen.orientation < 0
    shape = (count, height, width)
    return (
        face_index.reshape(shape),
        barycentrics.reshape(*shape, 3),
        depth.reshape(shape),
        front_facing.reshape(shape),
    )


def _boxes(
    homogeneous: Tensor,  # [n, V, 3]
    faces: Tensor,  # [T, 3]
    size: tuple[int, int],
    near: float,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """The triangles that may cover a pixel centre.

    Returns:
        Instances `(I,)`, counted camera by camera over the faces, and their boxes `(I, 4)`: first column, first row,
        number of columns, number of rows.
    """
    z = homogeneous[..., 2]
    in_front = z > near
    pixels = homogeneous[..., :2] / torch.where(in_front, z, torch.ones_like(z))[..., None]
    corners = pixels[:, faces]  # [n, T, 3, 2]
    low, high = corners.amin(dim=2), corners.amax(dim=2)
    seen = in_front[:, faces]
    partly = seen.any(dim=2) & ~seen.all(dim=2)
    if partly.any():
        camera, face = partly.nonzero(as_tuple=True)
        low[camera, face], high[camera, face] = _clipped_box(homogeneous[camera[:, None], faces[face]], near)
    limit = low.new_tensor([size[1] - 1, size[0] - 1])
    # Clamped to just outside the image while still floating: far-off values do not fit an integer.
    first = torch.minimum((low - 0.5 - tolerance).ceil().clamp(min=0), limit + 1)
    last = torch.minimum((high - 0.5 + tolerance).floor(), limit).clamp(min=-1)
    extent = last - first + 1
    covers = (extent > 0).all(dim=2) & seen.any(dim=2)
    instances = covers.flatten().nonzero().squeeze(1)
    boxes = torch.cat([first.flatten(0, 1)[instances], extent.flatten(0, 1)[instances]], dim=1).long()
    return instances, boxes


def _clipped_box(
    corners: Tensor,  # [I, 3, 3] homogeneous
    near: float,
) -> tuple[Tensor, Tensor]:
    """Pixel bounds of the part in front of the near plane, for triangles that reach through it: low, high `(I, 2)`."""
    following = corners.roll(-1, dims=1)
    z, following_z = corners[..., 2], following[..., 2]
    in_front = z > near
    crosses = in_front != (following_z > near)
    share = (near - z) / torch.where(crosses, following_z - z, torch.ones_like(z))
    cut = torch.lerp(corners[..., :2], following[..., :2], share[..., None]) / near
    kept = corners[..., :2] / torch.where(in_front, z, torch.ones_like(z))[..., None]
    points = torch.cat([kept, cut], dim=1)  # [I, 6, 2]
    counts = torch.cat([in_front, crosses], dim=1)[..., None]
    return (
        points.masked_fill(~counts, torch.inf).amin(dim=1),
        points.masked_fill(~counts, -torch.inf).amax(dim=1),
    )


def _pairs(boxes: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (instance, x, y) with the pixel in the instance's box, in chunks; a large box may span several chunks."""
    columns = boxes[:, 2]
    counts = columns * boxes[:, 3]
    ends = counts.cumsum(0)
    total = int(ends[-1])
    for start in range(0, total, chunk_size):
        stop = min(start + chunk_size, total)
        bounds = ends.new_tensor([start, stop - 1])
        first, last = torch.searchsorted(ends, bounds, right=True).tolist()
        part = slice(first, last + 1)
        length = ends[part].clamp(max=stop) - (ends[part] - counts[part]).clamp(min=start)
        instance = torch.repeat_interleave(
            torch.arange(first, last + 1, device=boxes.device), length, output_size=stop - start
        )
        within = torch.arange(start, stop, device=boxes.device) - (ends - counts)[instance]
        box = boxes[instance]
        row = torch.div(within, box[:, 2], rounding_mode="floor")
        yield instance, box[:, 0] + within - row * box[:, 2], box[:, 1] + row


@dataclass(frozen=True, eq=False)
class _Triangles:
    corners: Tensor  # [I, 3, 3] homogeneous pixel coordinates
    orientation: Tensor  # [I] -1 seen from the front, +1 from the back, 0 edge-on
    slack: Tensor  # [I, 3] how far below 0 an oriented edge function may be

    @classmethod
    def of(cls, corners: Tensor, tolerance: float) -> _Triangles:
        a, b, c = corners.unbind(dim=1)
        volume = (a * torch.cross(b - a, c - a, dim=-1)).sum(dim=-1)
        # volume / (z z z) is twice the area in pixels.
        edge_on = volume.abs() <= tolerance**2 * corners[..., 2].prod(dim=1).abs()
        orientation = torch.where(edge_on, torch.zeros_like(volume), volume.sign())
        following, last = corners.roll(-1, dims=1), corners.roll(-2, dims=1)
        # An edge function is the distance from the edge in pixels, times this.
        length = (following[..., :2] * last[..., 2:] - last[..., :2] * following[..., 2:]).norm(dim=-1)
        return cls(corners, orientation, tolerance * length)

    def hit(self, instance: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether the pixel's ray hits the triangle `(P,)`, barycentric coordinates `(P, 3)` and z-depth `(P,)`."""
        corner_x, corner_y, z = self.corners[instance].unbind(dim=-1)  # [P, 3] each
        right = corner_x - (x[:, None] + 0.5) * z
        below = corner_y - (y[:, None] + 0.5) * z
        following, last = [1, 2, 0], [2, 0, 1]
        orientation = self.orientation[instance]
        edge = right[:, following] * below[:, last] - right[:, last] * below[:, following]
        edge = edge * orientation[:, None]
        inside = (edge >= -self.slack[instance]).all(dim=1) & (orientation != 0)
        barycentrics = edge.clamp(min=0)
        total = barycentrics.sum(dim=1)
        inside &= total > 0
        barycentrics = barycentrics / torch.where(inside, total, torch.ones_like(total))[:, None]
        return inside, barycentrics, (barycentrics * z).sum(dim=1)


# --- geometry/warp.py: `FeatureWarp`: an anchor's feature map rendered into other cameras by a gather and a weighted sum.


@dataclass(frozen=True, eq=False)
class FeatureWarp:
    """For every pixel of N target views: which three pixels of the source grid it sees, and how much of each.

    Geometry does not change while features are denoised, so a warp is built once per resolution and applied in every
    step (MVCustom's depth-aware feature rendering: `F_n^a` is the warped map, `M_n^a` is `visibility`).

    Args:
        indices (`torch.Tensor` of shape `(N, H * W, 3)`, int64): Pixels of the flattened source grid.
        weights (`torch.Tensor` of shape `(N, H * W, 3)`): Their weights, with sum 1; 0 where nothing is visible.
        visibility (`torch.Tensor` of shape `(N, H, W)`, bool): Where the target sees what the anchor saw.
        depth (`torch.Tensor` of shape `(N, H, W)`):
            z-depth of the nearest surface in the target camera, seen from the front or not; infinite where there is
            none.
        source_size (`tuple` of `int`, *optional*):
            Height and width of the source grid. When given, features of any other size are refused.
    """

    indices: Tensor  # [N, H * W, 3]
    weights: Tensor  # [N, H * W, 3]
    visibility: Tensor  # [N, H, W]
    depth: Tensor  # [N, H, W]
    source_size: tuple[int, int] | None = None

    @classmethod
    def from_rasterization(cls, rasterization: Rasterization, mesh: FeatureMesh) -> FeatureWarp:
        """The warp from the grid of `mesh` into the views that `rasterization` holds."""
        visibility = rasterization.visibility
        faces = rasterization.face_index.clamp(min=0)
        seen = visibility[..., None]
        corners = mesh.faces[faces] if len(mesh.faces) else mesh.faces.new_zeros(*faces.shape, 3)
        indices = torch.where(seen, corners, torch.zeros_like(corners))
        weights = torch.where(seen, rasterization.barycentrics, torch.zeros_like(rasterization.barycentrics))
        return cls(
            indices=indices.flatten(1, 2),
            weights=weights.flatten(1, 2),
            visibility=visibility,
            depth=rasterization.depth,
            source_size=(mesh.height, mesh.width),
        )

    @classmethod
    def from_depth(
        cls,
        depth: Tensor,  # [h, w]
        anchor_camera: Cameras,
        cameras: Cameras,
        *,
        discontinuity: float = DEFAULT_DISCONTINUITY,
        valid: Tensor | None = None,  # [h, w]
        near: float = 1e-6,
    ) -> FeatureWarp:
        """The warp from an anchor's feature grid, given its z-depth, into N cameras.

        Args:
            depth (`torch.Tensor` of shape `(h, w)`): z-depth at the grid's pixel centres, in world units.
            anchor_camera (`Cameras`): One camera, at the grid's resolution `h` × `w`.
            cameras (`Cameras`): N target cameras of any one image size.
            discontinuity, valid: See [`feature_mesh_from_depth`].
            near: See [`rasterize`].

        Raises:
            MVCustomError: if shapes do not fit or a depth is not finite and positive.

        Example:

            >>> import torch
            >>> from diffusers_mvcustom.cameras import Cameras
            >>> from diffusers_mvcustom.geometry import FeatureWarp
            >>> camera = Cameras.from_focal(torch.eye(4)[None], 8.0, height=3, width=4)
            >>> warp = FeatureWarp.from_depth(torch.full((3, 4), 2.0), camera, camera)
            >>> features = torch.arange(12.0).reshape(1, 3, 4)
            >>> torch.allclose(warp.warp(features)[0], features)
            True
        """
        mesh = feature_mesh_from_depth(depth, anchor_camera, discontinuity=discontinuity, valid=valid)
        return cls.from_rasterization(rasterize(mesh, cameras, near=near), mesh)

    def for_noise(self) -> FeatureWarp:
        """The warp that keeps white noise white in strength: weights of square sum 1, where those of features have sum 1.

        Independent numbers of variance 1 come out with variance 1 at every pixel. Where the source is magnified, neighbours
        share numbers.
        """
        length = self.weights.square().sum(dim=-1, keepdim=True).sqrt()
        return replace(self, weights=torch.where(length > 0, self.weights / length, self.weights))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FeatureWarp:
        """The warp on another device, or with weights and depth in another floating dtype.

        Weights of half precision do not sum to 1; there is no need for them, as float32 weights take features of any
        dtype.
        """
        return replace(
            self,
            indices=self.indices.to(device=device),
            weights=self.weights.to(device=device, dtype=dtype),
            visibility=self.visibility.to(device=device),
            depth=self.depth.to(device=device, dtype=dtype),
        )

    def warp(
        self,
        features: Tensor,  # [..., C, h, w]
    ) -> Tensor:
        """Renders source features into all N views; zero where nothing is visible. Differentiable in the features.

        Sums in float32 (or float64 features in float64) and returns the features' dtype. The result is a view in
        channels-last order, as the sum makes it.

        Args:
            features (`torch.Tensor` of shape `(..., C, h, w)`): Source maps, with any leading dimensions.

        Returns:
            `torch.Tensor` of shape `(..., N, C, H, W)`.

        Raises:
            MVCustomError: if the maps are not of the source grid's size, or not of a floating dtype.
        """
        if features.ndim < 3 or not features.is_floating_point():
            raise MVCustomError(
                f"features: expected floating point maps of shape (..., C, h, w), got {features.dtype} of shape "
                f"{tuple(features.shape)}."
            )
        if self.source_size is not None and tuple(features.shape[-2:]) != self.source_size:
            raise MVCustomError(
                f"features: expected maps of the warp's source size {self.source_size}, got "
                f"{tuple(features.shape[-2:])}. A warp serves one resolution."
            )
        *leading, channels, height, width = features.shape
        count, out_height, out_width = self.visibility.shape
        dtype = torch.promote_types(features.dtype, torch.float32)
        # All leading dimensions ride along as channels, so that one row holds all that a source pixel gives. Rows must
        # lie in one piece: a sum over strided rows takes several times as long.
        rows = features.to(dtype).reshape(-1, channels, height * width).permute(2, 0, 1).flatten(1).contiguous()
        rendered = F.embedding_bag(
            self.indices.flatten(0, 1), rows, mode="sum", per_sample_weights=self.weights.flatten(0, 1).to(dtype)
        )
        rendered = rendered.to(features.dtype).reshape(count, out_height, out_width, -1, channels)
        return rendered.permute(3, 0, 4, 1, 2).reshape(*leading, count, channels, out_height, out_width)


# --- hooks/noise_levels.py: What a scheduler's steps look like to the hooks: noise levels, x̂_0 and noising, in the scheduler's own scaling.


@dataclass(frozen=True)
class NoiseLevels:
    """`x_t = alpha_t x_0 + sigma_t noise` for every step of one schedule.

    Read from the scheduler itself (its own `add_noise` of a one and of a zero), so variance-preserving (DDIM, DPM++,
    LCM) and variance-exploding (Euler) schedulers are described in the scaling of their own latents.
    """

    alphas: Tensor  # [steps]
    sigmas: Tensor  # [steps]
    prediction_type: str

    @classmethod
    def of(cls, scheduler: SchedulerMixin, timesteps: Tensor) -> NoiseLevels:
        """Reads the noise levels at `timesteps` (`torch.Tensor` of shape `(steps,)`). Call it before the first step.

        Raises:
            MVCustomError: if the scheduler cannot add noise, evaluates the model more than once a step, or predicts
                something other than the noise, the sample or v.
        """
        name = type(scheduler).__name__
        prediction_type = scheduler.config.get("prediction_type")
        if prediction_type not in ("epsilon", "sample", "v_prediction"):
            raise MVCustomError(
                f"scheduler: expected prediction_type epsilon, sample or v_prediction, got {prediction_type!r} "
                f"({name}). Flow-matching schedulers do not fit this model."
            )
        if not hasattr(scheduler, "add_noise"):
            raise MVCustomError(f"scheduler: {name} cannot add noise to a sample; take DDIM, Euler, DPM++ or LCM.")
        if scheduler.order != 1 or len(timesteps.unique()) != len(timesteps):
            raise MVCustomError(
                f"scheduler: expected one model call a step, got {name} (order {scheduler.order}, {len(timesteps)} "
                f"calls at {len(timesteps.unique())} timesteps); take DDIM, Euler, DPM++ or LCM with these hooks."
            )
        one = torch.ones(len(timesteps), 1, device=timesteps.device)
        zero = torch.zeros_like(one)
        return cls(
            scheduler.add_noise(one, zero, timesteps).squeeze(1),
            scheduler.add_noise(zero, one, timesteps).squeeze(1),
            prediction_type,
        )

    def predict_original(
        self,
        model_output: Tensor,  # [...], after guidance
        sample: Tensor,  # [...], x_t
        index: int,
    ) -> Tensor:
        """x̂_0 from the model's output at step `index`, of the shape and dtype of `sample`."""
        alpha, sigma = self.alphas[index], self.sigmas[index]
        output, x_t = model_output.float(), sample.float()
        if self.prediction_type == "sample":
            original = output
        elif self.prediction_type == "epsilon":
            original = (x_t - sigma * output) / alpha
        else:  # v = alpha' noise - sigma' x_0 of the variance-preserving (alpha', sigma'), alpha'^2 + sigma'^2 = 1
            scale = torch.sqrt(alpha**2 + sigma**2)
            original = alpha / scale**2 * x_t - sigma / scale * output
        return original.to(sample.dtype)

    def add_noise(
        self,
        original: Tensor,  # [...], x_0
        noise: Tensor,  # [...]
        index: int,
    ) -> Tensor:
        """`x_t` at step `index`, of the shape and dtype of `original`."""
        noised = self.alphas[index] * original.float() + self.sigmas[index] * noise.float()
        return noised.to(original.dtype)


# --- hooks/denoising_hook.py: The protocol of denoising hooks: what a hook is, and what it may read and change while views are generated.


@dataclass
class DenoisingStep:
    """One step of the denoising loop.

    Args:
        index (`int`): The step's place in the schedule, from 0.
        timestep (`torch.Tensor`): The scheduler's timestep.
        during_unet_call (`contextlib.ExitStack`): Context managers entered here by `before_step` are closed right
            after the step's U-Net call. Whatever a hook arms on a module belongs here.
        predicted_original (`torch.Tensor` of shape `(batch, channels, frames, height, width)`): x̂_0 of the step, from
            the guided prediction. `None` in `before_step`.
    """

    index: int
    timestep: Tensor
    during_unet_call: ExitStack
    predicted_original: Tensor | None = None


@dataclass
class PlainRun:
    """What the denoising loop itself goes through. Without hooks there is no more to a run.

    Args:
        latents (`torch.Tensor` of shape `(batch, channels, frames, height, width)`): x_t.
        scheduler (`diffusers.SchedulerMixin`): The run's scheduler, timesteps set.
        timesteps (`torch.Tensor` of shape `(steps,)`): The scheduler's timesteps.
    """

    latents: Tensor
    scheduler: SchedulerMixin
    timesteps: Tensor


@dataclass
class DenoisingRun(PlainRun):
    """One generation, as its hooks see it.

    Args:
        latents (`torch.Tensor` of shape `(batch, channels, frames, height, width)`): x_t. Hooks may replace it.
        scheduler (`diffusers.SchedulerMixin`): The run's scheduler, timesteps set.
        timesteps (`torch.Tensor` of shape `(steps,)`): The scheduler's timesteps.
        cameras (`Cameras`): The target cameras at the size of the views, one per frame.
        unet (`UNetMotionModel`): The motion U-Net.
        noise_levels (`NoiseLevels`): The schedule's noise levels, for x̂_0 and for noising.
        generator (`torch.Generator` or list of them, *optional*): Source of fresh noise.
        randn (`Callable`): `randn(shape) -> torch.Tensor`, fresh noise from `generator` on the run's device and dtype.
        anchor_geometry (`Callable`): `anchor_geometry() -> AnchorGeometry`, the geometry seen from the anchor
            frame(s): preview, depth, mesh and visibility. Made on the first call, then kept for the run.
    """

    cameras: Cameras
    unet: UNetMotionModel
    noise_levels: NoiseLevels
    generator: torch.Generator | list[torch.Generator] | None
    randn: Callable[[tuple[int, ...]], Tensor]
    anchor_geometry: Callable[[], AnchorGeometry]
    state: dict[int, Any] = field(default_factory=dict)

    def covers(self, hook: DenoisingHook, index: int) -> bool:
        """Whether step `index` lies within the hook's share `[start, end)` of the steps."""
        return hook.start * len(self.timesteps) <= index < hook.end * len(self.timesteps)


@dataclass
class DenoisingHook:
    """Base class of everything that acts between (or within) denoising steps.

    A hook is a small dataclass of settings. It holds no state of a run: what it prepares goes into
    `run.state[id(self)]` or comes from `run.anchor_geometry()`. Write your own by subclassing, and pass it to
    `pipe(..., hooks=[...])`:

        >>> from dataclasses import dataclass
        >>> from diffusers_mvcustom.hooks import DenoisingHook
        >>> @dataclass
        ... class KeepFirstFrame(DenoisingHook):
        ...     def before_step(self, run, step):
        ...         if run.covers(self, step.index):
        ...             run.latents = run.latents[:, :, :1].expand_as(run.latents).clone()
        >>> KeepFirstFrame(end=0.1).to_dict()
        {'start': 0.0, 'end': 0.1}

    Args:
        start (`float`, defaults to 0.0): Share of the steps after which the hook begins to act.
        end (`float`, defaults to 1.0): Share of the steps after which it ends.
    """

    start: float = 0.0
    end: float = 1.0

    name: ClassVar[str | None] = None
    """Name under which the settings are saved in a pipeline; `None`: the hook is not saved."""
    needs_several_frames: ClassVar[bool] = False
    """Whether a run with a single camera leaves the hook out."""
    needs_geometry: ClassVar[bool] = False
    """Whether the hook asks for `run.anchor_geometry()`, so that depth must be had."""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise MVCustomError(
                    f"{type(self).__name__}.{name}: expected a share of the steps in [0, 1], got {value!r}."
                )
        if self.start > self.end:
            raise MVCustomError(f"{type(self).__name__}: expected start <= end, got {self.start} > {self.end}.")

    def prepare(self, run: DenoisingRun) -> None:
        """Called once before the first step: everything that does not depend on the timestep."""

    def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Called before the U-Net. May replace `run.latents` and arm modules through `step.during_unet_call`."""

    def after_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Called after the scheduler, with `run.latents` its output and `step.predicted_original` set."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> DenoisingHook:
        """The hook with these settings; unknown ones are errors."""
        return settings_from_dict(cls, settings)


def settings_from_dict(cls: type, settings: dict[str, Any]) -> Any:
    """An instance of the dataclass `cls` from plain values; unknown names are errors that list the known ones."""
    known = [setting.name for setting in fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise MVCustomError(f"{cls.__name__}: unknown settings {unknown}; it has {known}.")
    return cls(**settings)


# --- hooks/anchor_geometry.py: What the anchor frames see of the scene: depth, feature mesh and visibility, prepared once for all steps.


LEFT_OUT = 0.3
"""Opacity above which a pixel of a feature map is the subject's: less than a half, as features reach beyond its rim."""


@dataclass(frozen=True)
class AnchorSettings:
    """Which frames anchor the scene's geometry, and how their depth is had.

    Args:
        frames (`int` or sequence of `int`, *optional*): Index of the anchor frame, or of several anchors, each of which
            renders into all other frames. Negative ones count from the end. `None` takes the middle frame.
        preview (`float`, defaults to 0.2): Steps of the preview pass (same noise, no hooks), as a share of the run's
            steps; at least two steps.
        discontinuity (`float`, *optional*): Depth discontinuity beyond which the feature mesh is cut, see
            [`feature_mesh_from_depth`]; `None` takes its default.
        align (`bool`, defaults to `True`): Whether to fit the estimated depth's scale and shift to the subject's
            rendered depth. Otherwise (and without a subject) the median depth is set to the camera's distance from
            the origin. A view that is handed over to the next window is fitted to what earlier anchors saw of it, too.
        ground (`bool`, defaults to `True`): Whether the estimate is fitted to the horizontal plane under the subject, too, in
            inverse depth; needs `align` and a subject. The picture that a view becomes has a horizon of its own, not the
            camera's. An estimate that is right for the picture moves wrongly with the cameras; fitted to the plane it does
            not. If the plane is off by more than 15 % after the fit, or the subject by more than 30 % (15 % with
            `render_subject`), only the subject counts.
        keep_first (`bool`, defaults to `False`): In a path that is generated window by window (`views_at_a_time`),
            whether the first anchor is a second anchor of every later window, beside the nearest view.
        render_subject (`bool`, defaults to `False`): Whether the anchor's subject is rendered into the other views like all
            else that it saw, as in the paper. By default the subject is left to FeatureNeRF, which knows it from all sides,
            and the anchor's geometry is that of its surroundings. Without a subject there is no difference, nor with one that
            is opaque almost everywhere, as untrained ones are.
    """

    frames: int | tuple[int, ...] | None = None
    preview: float = 0.2
    discontinuity: float | None = None
    align: bool = True
    ground: bool = True
    keep_first: bool = False
    render_subject: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.frames, Sequence):
            object.__setattr__(self, "frames", tuple(self.frames))
        if isinstance(self.preview, bool) or not 0 < self.preview <= 1:
            raise MVCustomError(
                f"AnchorSettings.preview: expected a share of the steps in (0, 1], got {self.preview!r}."
            )
        for name in ("align", "ground", "keep_first", "render_subject"):
            if not isinstance(getattr(self, name), bool):
                raise MVCustomError(f"AnchorSettings.{name}: expected true or false, got {getattr(self, name)!r}.")
        if self.discontinuity is not None and not self.discontinuity > 0:
            raise MVCustomError(
                f"AnchorSettings.discontinuity: expected a number above 0, got {self.discontinuity!r}."
            )

    def resolve(self, num_frames: int) -> tuple[int, ...]:
        """The anchors' indices among `num_frames` frames.

        Raises:
            MVCustomError: for indices out of range, named twice, or none at all.
        """
        if self.frames is None:
            return (num_frames // 2,)
        given = self.frames if isinstance(self.frames, tuple) else (self.frames,)
        for index in given:
            if isinstance(index, bool) or not isinstance(index, int) or not -num_frames <= index < num_frames:
                raise MVCustomError(
                    f"anchor: expected frame indices below {num_frames}, the number of cameras, got {index!r}."
                )
        anchors = tuple(index % num_frames for index in given)
        if not anchors or len(set(anchors)) != len(anchors):
            raise MVCustomError(f"anchor: expected one or more different frames, got {list(given)}.")
        return anchors

    def with_frames(self, anchor: int | Sequence[int] | AnchorSettings | None) -> AnchorSettings:
        """These settings with a call's choice of anchor frames, or the call's own settings."""
        if anchor is None:
            return self
        if isinstance(anchor, AnchorSettings):
            return anchor
        return replace(self, frames=tuple(anchor) if isinstance(anchor, Sequence) else anchor)

    def preview_steps(self, num_inference_steps: int) -> int:
        """The number of steps of the preview pass."""
        return min(num_inference_steps, max(2, round(self.preview * num_inference_steps)))

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        settings = asdict(self)
        settings["frames"] = list(self.frames) if isinstance(self.frames, tuple) else self.frames
        return settings

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> AnchorSettings:
        """The settings from plain values; unknown names are errors."""
        return settings_from_dict(cls, settings)


class AnchorGeometry:
    """The anchors' depth and, per feature map size, the warps from the anchors into all frames.

    Args:
        depth (`torch.Tensor` of shape `(batch, anchors, H, W)`): z-depth at the anchor frames, in world units.
        anchors (`tuple` of `int`): The anchors' frame indices.
        cameras (`Cameras`): The cameras of all frames, at any resolution.
        discontinuity (`float`, *optional*): See [`AnchorSettings`].
        subject (`torch.Tensor` of shape `(frames, h, w)`, *optional*): Opacity of what is left out of the geometry: the
            anchors' pixels there get no surface, and in the other frames nothing is rendered there.
    """

    def __init__(
        self,
        depth: Tensor,  # [B, A, H, W]
        anchors: tuple[int, ...],
        cameras: Cameras,
        discontinuity: float | None = None,
        subject: Tensor | None = None,  # [F, h, w]
    ) -> None:
        if depth.ndim != 4 or depth.shape[1] != len(anchors):
            raise MVCustomError(
                f"depth: expected shape (batch, {len(anchors)}, H, W), one map per anchor, got {tuple(depth.shape)}."
            )
        if not (depth.isfinite().all() and (depth > 0).all()):
            raise MVCustomError("depth: expected finite z-depth above 0 at every pixel of the anchor frames.")
        if subject is not None and (subject.ndim != 3 or len(subject) != len(cameras)):
            raise MVCustomError(
                f"subject: expected shape ({len(cameras)}, h, w), one opacity map per frame, got {tuple(subject.shape)}."
            )
        self.depth = depth.float()
        self.anchors = anchors
        # As a tensor, so that a compiled U-Net serves every choice of anchors, and no step moves indices to the GPU.
        self._anchor_frames = torch.tensor(anchors, device=depth.device)
        self.cameras = cameras.to(dtype=torch.float32)
        self.discontinuity = discontinuity
        self.subject = subject
        self._warps: dict[tuple[int, int], list[FeatureWarp]] = {}

    def warps(self, height: int, width: int) -> list[FeatureWarp]:
        """One warp per batch element from the anchors' feature maps of `height` × `width` into all frames.

        The source of a warp is the anchors' maps stacked along the height, `(..., C, anchors * height, width)`.
        Nothing is visible in the anchors themselves: their features stay as they are. Kept for the next call.
        """
        if (height, width) not in self._warps:
            cameras = self.cameras.resize(height, width)
            depth = F.interpolate(self.depth, size=(height, width), mode="nearest-exact")
            self._warps[height, width] = [self._merged_warp(maps, cameras) for maps in depth]
        return self._warps[height, width]

    def visibility(self, height: int, width: int) -> Tensor:
        """`(batch, frames, height, width)` bool: what any anchor saw; the anchors themselves saw all of their own, and a
        subject that is left out counts as seen: what it looks like is known.
        """
        visibility = torch.stack([warp.visibility for warp in self.warps(height, width)])
        visibility[:, list(self.anchors)] = True
        if self.subject is not None:
            visibility |= self._left_out(height, width)
        return visibility

    def render(self, hidden_states: Tensor) -> Tensor:
        """Replaces what the anchors saw by the anchors' features, in every frame that is no anchor.

        Args:
            hidden_states (`torch.Tensor` of shape `(guidance * batch * frames, C, h, w)`): features of all frames,
                frames innermost.

        Returns:
            `torch.Tensor` of the same shape.
        """
        return self._rendered(hidden_states, self.warps(*hidden_states.shape[-2:]))

    def render_noise(
        self,
        noise: Tensor,  # [B, C, F, h, w]
    ) -> Tensor:
        """Replaces noise by the anchors' noise wherever the anchors saw the surface; its variance stays.

        Args:
            noise (`torch.Tensor` of shape `(batch, C, frames, h, w)`): White noise of all frames.

        Returns:
            `torch.Tensor` of the same shape.
        """
        warps = [warp.for_noise() for warp in self.warps(*noise.shape[-2:])]
        maps = self._rendered(noise.transpose(1, 2).flatten(0, 1), warps)
        return maps.unflatten(0, (len(noise), -1)).transpose(1, 2)

    def _rendered(self, maps: Tensor, warps: Sequence[FeatureWarp]) -> Tensor:
        """Maps `(guidance * batch * frames, C, h, w)`, the anchors' in the place of what the anchors saw."""
        channels, height, width = maps.shape[1:]
        features = maps.reshape(-1, len(warps), len(self.cameras), channels, height, width)
        rendered = []
        for b, warp in enumerate(warps):
            frames = features[:, b]  # [guidance, frames, C, h, w]
            source = frames.index_select(1, self._anchor_frames)  # [guidance, anchors, C, h, w]
            source = source.transpose(1, 2).flatten(2, 3)  # [guidance, C, anchors * h, w]
            rendered.append(torch.where(warp.visibility[:, None], warp.warp(source), frames))
        return torch.stack(rendered, dim=1).reshape(maps.shape)

    def _merged_warp(self, depth: Tensor, cameras: Cameras) -> FeatureWarp:
        """One warp from the anchors of one batch element: at each pixel the surface in front, by the nearest anchor."""
        discontinuity = DEFAULT_DISCONTINUITY if self.discontinuity is None else self.discontinuity
        left_out = None if self.subject is None else self._left_out(*depth.shape[-2:])
        warps = [
            FeatureWarp.from_depth(
                anchor_depth,
                cameras[anchor],
                cameras,
                discontinuity=discontinuity,
                valid=None if left_out is None else ~left_out[anchor],
            )
            for anchor, anchor_depth in zip(self.anchors, depth)
        ]
        frames = len(cameras)
        distance = torch.cdist(cameras.centers, cameras.centers[list(self.anchors)])  # [frames, anchors]
        rank = distance.argsort(dim=1).argsort(dim=1).T.reshape(len(warps), frames, 1, 1)
        surface = torch.stack([torch.where(warp.visibility, warp.depth, torch.inf) for warp in warps])
        chosen = (surface * (1 + SAME_SURFACE * rank)).argmin(dim=0)  # [frames, h, w]
        flat = chosen.flatten(1)[None, :, :, None]
        pixels = depth.shape[-2] * depth.shape[-1]
        indices = torch.stack([warp.indices + a * pixels for a, warp in enumerate(warps)])
        weights = torch.stack([warp.weights for warp in warps])
        visibility = torch.stack([warp.visibility for warp in warps]).any(dim=0)
        visibility[list(self.anchors)] = False
        if left_out is not None:
            visibility &= ~left_out
        triple = flat.expand(1, -1, -1, 3)
        return FeatureWarp(
            indices=indices.gather(0, triple)[0],
            weights=weights.gather(0, triple)[0],
            visibility=visibility,
            depth=surface.gather(0, chosen[None])[0],
            source_size=(len(warps) * depth.shape[-2], depth.shape[-1]),
        )

    def _left_out(self, height: int, width: int) -> Tensor:
        """`(frames, height, width)` bool: where the subject is that is no part of the geometry."""
        assert self.subject is not None
        shares = F.interpolate(self.subject[None].float(), size=(height, width), mode="area")[0]
        return shares > LEFT_OUT


# --- files/pictures.py: Pictures, opened within bounds.


PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""What is read, by content. Pillow knows more: some of it runs other programs (EPS), none of it is a photo's."""


@contextmanager
def opened_picture(file: str | PathLike[str], expected: str = "an image") -> Iterator[Image.Image]:
    """An image file for the length of the context; what fails while it is opened or decoded there names the file.

    Only the header is read before the pixels are asked for, so that a size can be refused first.

    Args:
        file (`str` or path): The file.
        expected (`str`): What messages say was expected.

    Raises:
        MVCustomError: naming the file, if it is not there, damaged, in none of `PICTURE_FORMATS`, or of so many pixels that
            only a decompression bomb has them (Pillow's limit, 179 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=PICTURE_FORMATS) as image:
                yield image
    except MVCustomError:
        raise
    except FileNotFoundError as error:
        raise MVCustomError(f"{file}: there is no such image.") from error
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise MVCustomError(f"{file}: expected {expected}, got something unreadable: {error}") from error


def is_transparent(image: Image.Image) -> bool:
    """Whether an image has pixels that are not opaque."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return False
    return any(image.convert("RGBA").getchannel("A").histogram()[:255])


# --- pipelines/anchor_images.py: Images that the user gives for the anchor frames, in any accepted form, as one tensor.


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


# --- geometry/depth_alignment.py: Fits the scale and shift that bring a depth estimate into the world of the cameras.


_FEWEST_PIXELS = 16
_HYPOTHESES = 512
_SCORED_PIXELS = 1024
_ITERATIONS = 20
_BACKDROP = 20.0
"""How many median depths away the backdrop stands that disparities at or near 0 are put on."""


@dataclass(frozen=True)
class DepthAlignment:
    """Scale and shift from a depth estimate to z-depth in world units.

    With `value = scale * estimate + shift`, z-depth is `value`, or `1 / value` if the estimate is a disparity.

    Args:
        scale (`float`): Above 0.
        shift (`float`): 0 where only a scale could be fitted.
        inverse (`bool`, *optional*, defaults to `False`): Whether the estimate is a disparity (larger is nearer).
        farthest (`float`, *optional*, defaults to infinity):
            z-depth of the backdrop, for disparities only: what would be further away, or beyond infinity (a relative
            disparity has no reliable zero), stands there.
        residual (`float`, *optional*):
            Weighted median of the relative z-depth error over the fitted pixels; `None` without a fit.
        inlier_share (`float`, *optional*):
            Share of the fitted pixels, by weight, that agree with the fit; `None` without a fit.
    """

    scale: float
    shift: float
    inverse: bool = False
    farthest: float = math.inf
    residual: float | None = None
    inlier_share: float | None = None

    def apply(
        self,
        estimate: Tensor,  # [..., H, W]
    ) -> Tensor:
        """z-depth in world units, of the estimate's shape, always finite and above 0.

        Raises:
            MVCustomError: if the estimate holds NaN or infinity, or values whose z-depth would not be above 0.
        """
        value = self.scale * estimate.float() + self.shift
        if self.inverse:
            value = value.clamp(min=1 / self.farthest).reciprocal()
        bad = ~(value.isfinite() & (value > 0))
        if bad.any():
            raise MVCustomError(
                f"estimate: expected values that give a finite z-depth above 0, got {estimate[bad][0].item()} "
                f"(z-depth {value[bad][0].item()}, {int(bad.sum())} of {bad.numel()} pixels). Another map than the "
                "one that was aligned, or a disparity taken for depth?"
            )
        return value


def align_depth(
    estimate: Tensor,  # [H, W]
    reference: Tensor,  # [H, W]
    *,
    mask: Tensor | None = None,  # [H, W]
    weights: Tensor | None = None,  # [H, W]
    inverse: bool = False,
    robust: bool = True,
) -> DepthAlignment:
    """Fits `scale` and `shift` of a depth estimate to reference z-depth, such as the depth a FeatureNeRF renders.

    The fit is in the estimate's own quantity: `scale * estimate + shift` against z-depth, or against 1/z-depth for
    models of relative disparity. The robust fit takes the best of 512 lines through two random pixels (the same ones
    every time), and refines it by reweighted least squares with Tukey's biweight; up to about 40 % of the pixels may
    be arbitrarily wrong. Only a scale is fitted (`shift` 0, the median ratio) where a shift cannot be told: the
    estimate is constant, does not rise with the reference, fits hardly better with a shift than without (z-depth
    only), or the shift would put a part of the estimate at or behind the camera (z-depth only).

    Args:
        estimate (`torch.Tensor` of shape `(H, W)`): Depth, or disparity if `inverse`, in any unit.
        reference (`torch.Tensor` of shape `(H, W)`): z-depth in world units.
        mask (`torch.Tensor` of shape `(H, W)`, bool, *optional*): Where the reference is to be trusted.
        weights (`torch.Tensor` of shape `(H, W)`, *optional*): How much a pixel counts, 0 or more.
        inverse (`bool`, *optional*, defaults to `False`): Whether the estimate is a disparity (larger is nearer).
        robust (`bool`, *optional*, defaults to `True`): Whether outliers are rejected; plain least squares otherwise.

    Raises:
        MVCustomError: if shapes do not fit, fewer than 16 pixels can be used (finite, positive reference, positive
            estimate unless it is a disparity, inside the mask), or the estimate clearly falls where the reference
            rises.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import align_depth
        >>> estimate = torch.linspace(1.0, 2.0, 64).reshape(8, 8)
        >>> alignment = align_depth(estimate, 0.5 * estimate + 0.25)
        >>> round(alignment.scale, 4), round(alignment.shift, 4)
        (0.5, 0.25)
    """
    x, z, w = _used_pixels(estimate, reference, mask, weights, inverse)
    y = 1 / z if inverse else z
    noise = 1e-3 * y.median()  # a floor: what agrees to 0.1 % agrees
    line = None
    if _spread(x) > 1e-4 * x.abs().median():
        _refuse_reversed(x, y, inverse)
        line = _robust_line(x, y, w, noise) if robust else _least_squares(x, y, w)
    if (
        line is None
        or not _rises(line, x, y, w, noise)
        or (not inverse and _shift_is_idle(line, estimate, x, y, w, noise))
    ):
        line = _scale_only(x, y, w)
        if not line[0] > 0:
            raise MVCustomError(
                "estimate: expected some positive values inside the mask, since only a scale can be fitted to this "
                "map, got none."
            )
    scale, shift = (value.item() for value in line)
    inlier = _inliers((scale * x + shift - y).abs(), w, noise)
    farthest = _BACKDROP * z.median().item() if inverse else math.inf
    value = scale * x + shift
    depth = value.clamp(min=1 / farthest).reciprocal() if inverse else value
    return DepthAlignment(
        scale,
        shift,
        inverse,
        farthest,
        residual=_weighted_median((depth - z).abs() / z, w).item(),
        inlier_share=((w * inlier).sum() / w.sum()).item(),
    )


def align_median_depth(
    estimate: Tensor,  # [H, W]
    distance: float | Tensor,
    *,
    inverse: bool = False,
) -> DepthAlignment:
    """Scales an estimate so that its median z-depth is `distance`: the default without a subject to align to.

    Args:
        estimate (`torch.Tensor` of shape `(H, W)`): Depth, or disparity if `inverse`, in any unit.
        distance (`float`): Such as the camera's distance from the origin, in world units.
        inverse (`bool`, *optional*, defaults to `False`): Whether the estimate is a disparity (larger is nearer).

    Raises:
        MVCustomError: if `distance` or the estimate's median is not finite and above 0.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.geometry import align_median_depth
        >>> align_median_depth(torch.tensor([[2.0, 4.0, 8.0]]), 1.0).apply(torch.tensor([[2.0, 4.0, 8.0]])).tolist()
        [[0.5, 1.0, 2.0]]
    """
    distance = float(distance)
    if not (math.isfinite(distance) and distance > 0):
        raise MVCustomError(f"distance: expected a finite distance above 0, got {distance}. A camera at the origin?")
    finite = estimate[estimate.isfinite()].float()
    median = finite.median().item() if finite.numel() else math.nan
    if not median > 0:
        kind = "disparity" if inverse else "depth"
        raise MVCustomError(f"estimate: expected a median {kind} above 0, got {median}.")
    if inverse:
        return DepthAlignment(1 / (distance * median), 0.0, True, farthest=_BACKDROP * distance)
    return DepthAlignment(distance / median, 0.0)


def _used_pixels(
    estimate: Tensor, reference: Tensor, mask: Tensor | None, weights: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate, reference and weight of every pixel that can be used, each `(P,)`, float64 on the CPU."""
    for name, value in (("reference", reference), ("mask", mask), ("weights", weights)):
        if value is not None and value.shape != estimate.shape:
            raise MVCustomError(
                f"{name}: expected the estimate's shape {tuple(estimate.shape)}, got {tuple(value.shape)}."
            )
    if mask is not None and mask.dtype != torch.bool:
        raise MVCustomError(f"mask: expected bool, got {mask.dtype}. Use `weights` for soft masks.")
    # Small data, and medians and random pixels that do not depend on the device.
    x, z = estimate.detach().double().cpu(), reference.detach().double().cpu()
    w = torch.ones_like(x) if weights is None else weights.detach().double().cpu()
    if not (w.isfinite().all() and (w >= 0).all()):
        raise MVCustomError("weights: expected finite values of 0 or more.")
    used = x.isfinite() & z.isfinite() & (z > 0) & (w > 0)
    if not inverse:
        used &= x > 0
    if mask is not None:
        used &= mask.cpu()
    if used.sum() < _FEWEST_PIXELS:
        raise MVCustomError(
            f"estimate, reference: expected at least {_FEWEST_PIXELS} pixels to fit a scale and shift to, got "
            f"{int(used.sum())} of {used.numel()} (finite, reference above 0, inside the mask)."
        )
    return x[used], z[used], w[used]


def _spread(values: Tensor) -> Tensor:
    """Half the distance between the 5th and 95th percentile: 0 for a map that is constant but for some pixels."""
    ordered = values.sort().values
    last = len(ordered) - 1
    return (ordered[round(0.95 * last)] - ordered[round(0.05 * last)]) / 2


def _refuse_reversed(x: Tensor, y: Tensor, inverse: bool) -> None:
    ranks = torch.stack([values.argsort().argsort().double() for values in (x, y)])
    correlation = torch.corrcoef(ranks)[0, 1].item()
    if correlation < -0.5:
        taken, other = ("disparity", "depth") if inverse else ("depth", "disparity")
        raise MVCustomError(
            f"estimate: expected {taken} that rises with the reference's, got a rank correlation of "
            f"{correlation:.2f}. Is it {other}? Then pass `inverse={not inverse}`."
        )


def _rises(line: Tensor, x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> bool:
    """Whether the line rises, and its inliers with it: a flat line through noise would flatten the whole scene."""
    inlier = w * _inliers((line[0] * x + line[1] - y).abs(), w, noise)
    total = inlier.sum()
    x, y = (values - (inlier * values).sum() / total for values in (x, y))
    covariance = (inlier * x * y).sum()
    return bool((line[0] > 0) & (covariance > 0.5 * ((inlier * x * x).sum() * (inlier * y * y).sum()).sqrt()))


def _shift_is_idle(line: Tensor, estimate: Tensor, x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> bool:
    """Whether z-depth is better aligned without a shift: it gains under 10 %, or puts pixels behind the camera."""
    error = _weighted_median((line[0] * x + line[1] - y).abs(), w)
    error_without = _weighted_median((_scale_only(x, y, w)[0] * x - y).abs(), w)
    nearest = estimate[estimate.isfinite() & (estimate > 0)].min().item()
    return bool(0.9 * error_without <= torch.maximum(error, noise)) or line[0].item() * nearest + line[1].item() <= 0


def _weighted_median(values: Tensor, w: Tensor) -> Tensor:
    """The smallest value that half of the weight does not exceed."""
    ordered, order = values.sort()
    mass = w[order].cumsum(0)
    return ordered[torch.searchsorted(mass, mass[-1] / 2).clamp(max=len(ordered) - 1)]


def _inliers(error: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Where the error is within 2.5 robust standard deviations, or the noise that is granted to any fit."""
    return error <= 2.5 * torch.maximum(1.4826 * _weighted_median(error, w), noise)


def _scale_only(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The weighted median ratio, as (scale, 0)."""
    positive = x > 0
    if not positive.any():
        return x.new_zeros(2)
    ratio = _weighted_median(y[positive] / x[positive], w[positive])
    return torch.stack([ratio, ratio.new_zeros(())])


def _least_squares(x: Tensor, y: Tensor, w: Tensor) -> Tensor | None:
    """Weighted least squares line (scale, shift); `None` if the weighted pixels have one x only."""
    total = w.sum()
    x_mean, y_mean = (w * x).sum() / total, (w * y).sum() / total
    variance = (w * (x - x_mean).square()).sum()
    if not variance > 0:
        return None
    scale = (w * (x - x_mean) * (y - y_mean)).sum() / variance
    return torch.stack([scale, y_mean - scale * x_mean])


def _robust_line(x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> Tensor | None:
    """The line (scale, shift) with a positive scale that most pixels agree on; `None` if there is none."""
    generator = torch.Generator().manual_seed(0)
    mass = w.cumsum(0)
    draw = torch.rand(2 * _HYPOTHESES + _SCORED_PIXELS, generator=generator, dtype=torch.float64)
    pixel = torch.searchsorted(mass, draw * mass[-1], right=True).clamp(max=len(x) - 1)
    first, second, scored = pixel.split([_HYPOTHESES, _HYPOTHESES, _SCORED_PIXELS])
    scale = (y[second] - y[first]) / (x[second] - x[first])
    rising = scale.isfinite() & (scale > 0)
    if not rising.any():
        return None
    scale, first = scale[rising], first[rising]
    shift = y[first] - scale * x[first]
    error = (scale[:, None] * x[scored] + shift[:, None] - y[scored]).abs()
    # Least median of squares tells the noise, a truncated sum of squares the line: the median alone would take any
    # line through a flat half of the image.
    limit = 2.5 * torch.maximum(1.4826 * error.median(dim=1).values.min(), noise)
    best = error.clamp(max=limit).square().sum(dim=1).argmin()
    line = torch.stack([scale[best], shift[best]])
    cut = 4.685 / 2.5 * limit
    for _ in range(_ITERATIONS):
        error = line[0] * x + line[1] - y
        refined = _least_squares(x, y, w * (1 - (error / cut).square()).clamp(min=0).square())
        if refined is None or not refined[0] > 0:
            break
        if torch.allclose(refined, line, rtol=1e-9, atol=0.0):
            break
        line = refined
    return line


# --- geometry/ground_plane.py: The horizontal plane that an object stands on: how high it lies, and how far away it is in every pixel.


_OBJECT = 0.3
"""Opacity above which a pixel is the object's. Less than a half: in a coarse map nothing else is left of thin legs."""

_LOWEST = 0.005
"""Share of the object's pixels in a view that may be below what counts as its lowest point."""

_AT_ITS_END = 0.1
"""Share of the object's extent, from its lowest point up, in which it must not touch a view's border."""


def ground_height(
    depth: Tensor,  # [N, h, w]
    opacity: Tensor,  # [N, h, w]
    cameras: Cameras,
) -> float | None:
    """Height (world y, which points up) of the plane under an object, from what cameras see of the object.

    Of every view the object's lowest point is taken, of all views the median of those: a speck in one of them does not
    count. A pixel reaches down to its lowest edge, as coarse maps, like those of FeatureNeRF, would have the plane too high
    otherwise. Views in which the object's lower end touches the border are passed over: it may go on outside.

    Args:
        depth (`torch.Tensor` of shape `(N, h, w)`): z-depth of the object in world units.
        opacity (`torch.Tensor` of shape `(N, h, w)`): 0 to 1; above 0.3 a pixel is the object's.
        cameras ([`Cameras`]): The N cameras, at any resolution.

    Returns:
        `float`, or `None` if no view shows the object's lower end.

    Raises:
        MVCustomError: if shapes do not fit.
    """
    if depth.ndim != 3 or depth.shape != opacity.shape or len(depth) != len(cameras):
        raise MVCustomError(
            f"depth, opacity: expected shape ({len(cameras)}, h, w), one map per camera, got {tuple(depth.shape)} and "
            f"{tuple(opacity.shape)}."
        )
    height, width = depth.shape[-2:]
    depth, opacity = depth.float().cpu(), opacity.float().cpu()
    cameras = cameras.resize(height, width).to("cpu", torch.float32)
    centers = pixel_centers(height, width).view(1, -1, 2)
    edges = torch.tensor([(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
    reached = torch.stack([_heights(cameras, centers + edge, depth) for edge in edges]).amin(dim=0)
    border = torch.ones(height, width, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    lowest = []
    for heights, mine in zip(reached, (opacity > _OBJECT) & depth.isfinite()):
        if not mine.any():
            continue
        ordered = heights[mine].sort().values
        low = ordered[round(_LOWEST * (len(ordered) - 1))]
        end = low + _AT_ITS_END * (ordered[-1] - low)
        if not (border & mine & (heights <= end)).any():
            lowest.append(low)
    return torch.stack(lowest).median().item() if lowest else None


def plane_depth(cameras: Cameras, height: float) -> Tensor:
    """z-depth of the horizontal plane at a height in every pixel: `(N, H, W)`, infinite where it is not seen from above.

    Args:
        cameras ([`Cameras`]): N cameras of H × W pixels; depth is that of pixel centres.
        height (`float`): World y of the plane, which points up, in world units.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.geometry import plane_depth
        >>> camera = Cameras.orbit(1, elevation=90.0, radius=2.0, height=2, width=2)  # looks straight down
        >>> plane_depth(camera, -0.5).round(decimals=3).tolist()
        [[[2.5, 2.5], [2.5, 2.5]]]
    """
    pixels = pixel_centers(cameras.height, cameras.width, device=cameras.camera_to_world.device).view(1, -1, 2)
    origins, directions = camera_rays(
        cameras.camera_to_world.float(), cameras.intrinsics.float(), pixels, normalize=False
    )
    above = origins[..., 1] - height
    depth = above / -directions[..., 1]
    seen = (above > 0) & (depth > 0) & depth.isfinite()
    return torch.where(seen, depth, torch.inf).view(len(cameras), cameras.height, cameras.width)


def _heights(cameras: Cameras, pixels: Tensor, depth: Tensor) -> Tensor:
    """World y `(N, h, w)` of the points at z-depths `(N, h, w)` behind pixel positions `(1, h * w, 2)`."""
    origins, directions = camera_rays(cameras.camera_to_world, cameras.intrinsics, pixels, normalize=False)
    return (origins[..., 1] + directions[..., 1] * depth.flatten(1)).view(depth.shape)


# --- hooks/depth_estimation.py: Monocular depth of a generated view, with any depth model of transformers.


_DISPARITY_MODELS = {"dpt"}
"""Model types whose output is relative inverse depth and whose configuration does not say so."""


def predicts_disparity(depth_estimator: PreTrainedModel) -> bool:
    """Whether the model's output is relative inverse depth (larger is nearer) instead of depth."""
    config = depth_estimator.config
    kind = getattr(config, "depth_estimation_type", None)  # Depth Anything: "relative" or "metric"
    return kind == "relative" or (kind is None and config.model_type in _DISPARITY_MODELS)


@torch.no_grad()
def estimate_depth(
    depth_estimator: PreTrainedModel,
    depth_image_processor: BaseImageProcessor,
    images: Tensor,  # [N, 3, H, W] in [0, 1]
) -> Tensor:
    """Runs a transformers depth model on images.

    Args:
        depth_estimator (`transformers.PreTrainedModel`): `ZoeDepthForDepthEstimation` (the paper's), or any other model
            for depth estimation.
        depth_image_processor (`transformers.BaseImageProcessor`): The model's image processor.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].

    Returns:
        `torch.Tensor` of shape `(N, H, W)`, float32: the model's output resampled to the images' pixels, in the model's
        own units (see [`predicts_disparity`]).

    Raises:
        MVCustomError: if the model returns something that is not one finite map per image.
    """
    height, width = images.shape[-2:]
    arrays = [image.permute(1, 2, 0).float().cpu().mul(255).round().byte().numpy() for image in images]
    inputs = depth_image_processor(images=arrays, return_tensors="pt")
    # Weights that sequential offloading has laid on meta are loaded where the images are.
    device = images.device if depth_estimator.device.type == "meta" else depth_estimator.device
    pixel_values = inputs["pixel_values"].to(device=device, dtype=depth_estimator.dtype)
    depth = depth_estimator(pixel_values=pixel_values).predicted_depth.float()
    if depth.ndim != 3 or len(depth) != len(images):
        raise MVCustomError(
            f"depth_estimator: expected predicted_depth of shape ({len(images)}, h, w), got {tuple(depth.shape)}."
        )
    if not depth.isfinite().all():
        raise MVCustomError("depth_estimator: it returned NaN or infinite depth. Half precision? Try float32 for it.")
    pad_height, pad_width = _zoe_padding(depth_estimator, depth_image_processor, height, width)
    padded = (height + 2 * pad_height, width + 2 * pad_width)
    depth = F.interpolate(depth[:, None], size=padded, mode="bilinear", align_corners=False)[:, 0]
    return depth[:, pad_height : pad_height + height, pad_width : pad_width + width].to(images.device)


def _zoe_padding(
    depth_estimator: PreTrainedModel, processor: BaseImageProcessor, height: int, width: int
) -> tuple[int, int]:
    """Rows and columns that ZoeDepth's processor mirrors around the image against artefacts at its rim.

    Its own post-processing would remove them, but that needs torchvision.
    """
    if depth_estimator.config.model_type != "zoedepth" or not getattr(processor, "do_pad", False):
        return 0, 0
    return int(math.sqrt(height / 2) * 3), int(math.sqrt(width / 2) * 3)


# --- pipelines/guidance.py: Classifier-free guidance over text and references: which branches the U-Net evaluates, and how they combine.


@dataclass(frozen=True)
class Branch:
    """One condition under which the noise is predicted: which text, and with the references or without."""

    positive: bool
    references: bool


def guidance_branches(
    guidance_scale: float,
    reference_guidance_scale: float | None,
    references: bool,
) -> tuple[list[Branch], list[float]]:
    """The branches e_0, e_1, ... of a step and the scales s_1, ... of `e_0 + s_1 (e_1 − e_0) + s_2 (e_2 − e_1)`.

    Text guidance alone keeps the references in both branches: `e(∅, Y) + s (e(c, Y) − e(∅, Y))`. With
    `reference_guidance_scale` (s_Y) the references are guided too:
    `e(∅, ∅) + s_Y (e(∅, Y) − e(∅, ∅)) + s (e(c, Y) − e(∅, Y))`. Without text guidance (`guidance_scale <= 1`) the
    prompt takes the place of ∅.

    Args:
        guidance_scale (`float`): s, the scale of text guidance; 1 or less is none.
        reference_guidance_scale (`float`, *optional*): s_Y; `None` is none.
        references (`bool`): Whether references condition this step at all.

    Example:

        >>> branches, scales = guidance_branches(5.0, 3.0, True)
        >>> [(branch.positive, branch.references) for branch in branches], scales
        ([(False, False), (False, True), (True, True)], [3.0, 5.0])
    """
    by_text = guidance_scale > 1
    branches, scales = [], []
    if reference_guidance_scale is not None and references:
        branches.append(Branch(positive=not by_text, references=False))
        scales.append(float(reference_guidance_scale))
    if by_text:
        branches.append(Branch(positive=False, references=references))
        scales.append(float(guidance_scale))
    branches.append(Branch(positive=True, references=references))
    return branches, scales


def combine(predictions: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """The guided prediction from those of the branches, all of one shape."""
    guided = predictions[0]
    for before, after, scale in zip(predictions, predictions[1:], scales):
        guided = guided + scale * (after - before)
    return guided


@dataclass
class Conditions:
    """Everything that conditions the U-Net and does not depend on the timestep.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(batch, length, dim)`): The prompt's states.
        negative_prompt_embeds (`torch.Tensor`, *optional*): The negative prompt's, of the same shape.
        features (mapping, *optional*): Rendered subject features X_y by block, each `(texts, frames, pixels, C)`, the
            texts being the negative prompts (if any) and then the prompts.
        image_embeds (list of `torch.Tensor`, *optional*): IP-Adapter's states, each `(texts, images, dim)` alike.
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None
    features: Mapping[str, Tensor] | None = None
    image_embeds: list[Tensor] | None = None

    _assembled: dict[tuple, Any] = field(default_factory=dict, repr=False)

    def replace_text(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor | None) -> None:
        """Other text states from the next step on."""
        self.prompt_embeds, self.negative_prompt_embeds = prompt_embeds, negative_prompt_embeds
        self._assembled.clear()

    def _negative_states(self) -> Tensor:
        if self.negative_prompt_embeds is None:
            raise MVCustomError("negative_prompt_embeds: guidance needs a negative prompt's states, got None.")
        return self.negative_prompt_embeds

    def text_states(self, branches: Sequence[Branch], num_frames: int) -> Tensor:
        """Text states in the U-Net's batch order (branch, batch, frame), `(branches * batch * frames, L, D)`."""

        def assemble() -> Tensor:
            states = [self.prompt_embeds if branch.positive else self._negative_states() for branch in branches]
            return torch.cat(states).repeat_interleave(num_frames, dim=0)

        return self._once(("text", num_frames, *branches), assemble)

    def image_states(self, branches: Sequence[Branch]) -> dict[str, list[Tensor]] | None:
        """IP-Adapter's `added_cond_kwargs` in the order (branch, batch)."""
        image_embeds = self.image_embeds
        if image_embeds is None:
            return None
        return self._once(
            ("image", *branches),
            lambda: {"image_embeds": [torch.cat(self._by_branch(states, branches)) for states in image_embeds]},
        )

    def subject_features(self, branches: Sequence[Branch]) -> dict[str, Tensor]:
        """X_y by block in the order (branch, batch, frame); zeros where a branch has no references.

        Text guidance alone takes them as they lie: a copy would be 0.2 GiB for 16 views of 512 × 512 pixels.
        """

        def assemble() -> dict[str, Tensor]:
            features = {}
            for name, states in (self.features or {}).items():
                if branches == [Branch(False, True), Branch(True, True)]:
                    parts = [states]
                else:
                    rows = zip(self._by_branch(states, branches), branches)
                    parts = [row if branch.references else torch.zeros_like(row) for row, branch in rows]
                features[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(0, 1)
            return features

        return self._once(("subject", *branches), assemble)

    def _once(self, key: tuple, assemble: Callable[[], Any]) -> Any:
        """Nothing here depends on the timestep, so nothing is put together twice."""
        if key not in self._assembled:
            self._assembled[key] = assemble()
        return self._assembled[key]

    def _by_branch(self, states: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
        batch = len(self.prompt_embeds)
        return [states[-batch:] if branch.positive else states[:batch] for branch in branches]


# --- files/text_files.py: Text and JSON files, read within bounds.


LARGEST_TEXT = 2**28
"""Bytes of a text file at most; a transforms.json of ten thousand photos has a twentieth of it."""


def read_text(file: Path, *, largest: int = LARGEST_TEXT, kind: str = "text", absent: str = "") -> str:
    """The content of a UTF-8 file.

    Args:
        file (`Path`): The file.
        largest (`int`): Bytes that it may have.
        kind (`str`): What messages say was expected.
        absent (`str`): What a message adds if it is not there, such as the likely cause.

    Raises:
        MVCustomError: naming the file, if it is not there, no regular file (a device or a pipe would never end), larger
            than `largest` bytes, or not UTF-8.
    """
    try:
        if not file.exists():
            raise FileNotFoundError
        regular, size = file.is_file(), file.stat().st_size
        data = file.read_bytes() if regular and size <= largest else b""
    except FileNotFoundError as error:
        raise MVCustomError(f"{file}: there is no such file{absent}.") from error
    except OSError as error:
        raise MVCustomError(f"{file}: cannot be read: {error}") from error
    if not regular:
        raise MVCustomError(f"{file}: expected a file, got a folder or a device.")
    if size > largest:
        raise MVCustomError(f"{file}: expected at most {largest:,} bytes of text, got {size:,}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MVCustomError(f"{file}: expected {kind} in UTF-8, which it cannot be read as: {error}") from error


def read_json(file: Path, *, absent: str = "") -> Any:
    """The content of a JSON file; `absent` as in [`read_text`].

    Raises:
        MVCustomError: naming the file, also if it is nested too deeply or holds text that is no Unicode.
    """
    return parse_json(file, read_text(file, kind="JSON", absent=absent))


def parse_json(source: object, text: str | bytes) -> Any:
    """JSON that was read from `source`, which messages name.

    Raises:
        MVCustomError: see [`read_json`].
    """
    try:
        content = json.loads(text)
        escaped = b"\\u" in text if isinstance(text, bytes) else "\\u" in text
        unicode = not escaped or is_unicode(content)
    except RecursionError as error:
        raise MVCustomError(f"{source}: expected JSON, got one that is nested too deeply.") from error
    except ValueError as error:
        raise MVCustomError(f"{source}: expected JSON, got something that is not well formed: {error}") from error
    if not unicode:
        raise MVCustomError(f"{source}: expected Unicode text, got half of a surrogate pair.")
    return content


def is_unicode(content: Any) -> bool:
    """Whether all text in lists and objects can be printed, saved and used as a name.

    Half of a surrogate pair, which JSON and YAML can write as an escape, cannot.
    """
    if isinstance(content, str):
        return not any("\ud800" <= c <= "\udfff" for c in content)
    if isinstance(content, dict):
        return all(is_unicode(part) for pair in content.items() for part in pair)
    return not isinstance(content, (list, tuple, set)) or all(map(is_unicode, content))


def is_finite_number(value: object) -> bool:
    """Whether it is a finite number; `True` is none, and neither is a whole number that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


# --- models/feature_nerf_config.py: Settings of a FeatureNeRF.


LARGEST_WIDTH = 2**16
"""Channels of a layer at most; settings come from files of others, and memory is asked for by them."""


@dataclass(frozen=True)
class FeatureNeRFConfig:
    """Settings of a [`FeatureNeRF`]. Lengths are in the subject frame, whose farthest reference camera is at distance 1.

    Args:
        hidden_channels (`int`, *optional*): Width of the per-view MLP; by default that of the features.
        num_samples (`int`, defaults to 24): Samples on a ray.
        near (`float`, defaults to 0.1): Distance from the target camera at which its rays begin. It is small, for target
            cameras may come closer than the references did; of 24 samples one lies before 0.18.
        far (`float`, defaults to 2.0): Distance at which they end.
        point_frequencies (`int`, defaults to 16): Frequencies of the positional encoding of points.
        ray_frequencies (`int`, defaults to 8): Frequencies of the positional encoding of rays and directions.
        encoding_octaves (`float`, defaults to 7.5): The frequencies are `π · 2^e` with e spaced evenly from 0 to this. With
            16 frequencies these are half octaves, down to a period of 0.011: about a pixel of a 64 × 64 map at distance
            1, and well within what float32 coordinates resolve.
        predict_rgb (`bool`, defaults to `True`): Whether colours are rendered too (training compares them with photos).
        importance_share (`float`, defaults to 0.75): Of the samples on an opaque ray, the share that goes to where an
            earlier block found the subject, in [0, 1).
        initial_opacity (`float`, defaults to 0.5): Opacity of a full ray before training, in (0, 1). An untrained field
            is an even fog. At one half the mask can pull it both ways, and the first and the last sample on the ray
            differ by only a factor of two in what they contribute, so every depth is learnt from.

    Example:

        >>> from diffusers_mvcustom.models import FeatureNeRFConfig
        >>> config = FeatureNeRFConfig(num_samples=12)
        >>> FeatureNeRFConfig.from_dict(config.to_dict()) == config
        True
    """

    hidden_channels: int | None = None
    num_samples: int = 24
    near: float = 0.1
    far: float = 2.0
    point_frequencies: int = 16
    ray_frequencies: int = 8
    encoding_octaves: float = 7.5
    predict_rgb: bool = True
    importance_share: float = 0.75
    initial_opacity: float = 0.5

    def __post_init__(self) -> None:
        if self.hidden_channels is not None:
            self._check_count("hidden_channels", 1, LARGEST_WIDTH)
        self._check_count("num_samples", 1, 4096)
        self._check_count("point_frequencies", 0, 1024)
        self._check_count("ray_frequencies", 0, 1024)
        if not isinstance(self.predict_rgb, bool):
            raise MVCustomError(f"predict_rgb: expected true or false, got {self.predict_rgb!r}.")
        self._check_number("far", "a positive length", lambda value: value > 0)
        self._check_number("near", f"a length in (0, far = {self.far:g})", lambda value: 0 < value < self.far)
        self._check_number("encoding_octaves", "a number in [0, 64]", lambda value: 0 <= value <= 64)
        self._check_number("importance_share", "a number in [0, 1)", lambda value: 0 <= value < 1)
        self._check_number("initial_opacity", "a number in (0, 1)", lambda value: 0 < value < 1)

    def _check_count(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise MVCustomError(
                f"{name}: expected a whole number of at least {least}, at most {most:,}, got {value!r}."
            )

    def _check_number(self, name: str, expected: str, fits: Any) -> None:
        value = getattr(self, name)
        if not is_finite_number(value) or not fits(value):
            raise MVCustomError(f"{name}: expected {expected}, got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureNeRFConfig:
        """Settings from JSON; what is missing has its default value.

        Raises:
            MVCustomError: naming unknown keys, or a value that cannot be used.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, set(values) - known))
        if unknown:
            raise MVCustomError(f"unknown keys {unknown}, expected some of {sorted(known)}. Made by a newer version?")
        return cls(**values)


# --- models/feature_nerf_inputs.py: What a FeatureNeRF accepts: shapes that fit each other.


AttendText = Callable[[Tensor, Tensor], Tensor]
"""A block's text attention with its residual: `(N, P, C)` points and `(N, L, D)` texts to `(N, P, C)`."""


def check_feature_nerf_inputs(
    channels: int,
    reference_features: Tensor,  # [B, V, C, h_r, w_r]
    reference_camera_to_world: Tensor,  # [B, V, 4, 4]
    reference_intrinsics: Tensor,  # [B, V, 3, 3]
    target_camera_to_world: Tensor,  # [B, M, 4, 4]
    target_intrinsics: Tensor,  # [B, M, 3, 3]
    height: int,
    width: int,
    reference_masks: Tensor | None,  # [B, V, h_r, w_r]
    encoder_hidden_states: Tensor | None,  # [B, T, L, D]
    attend_text: AttendText | None,
    rays_per_chunk: int | None,
) -> None:
    """Raises for arguments of [`FeatureNeRF`] that do not fit each other or its `channels`; see there for the shapes.

    Raises:
        MVCustomError: naming the argument.
    """
    if reference_features.ndim != 5 or reference_features.shape[2] != channels:
        raise MVCustomError(
            f"reference_features: expected shape (B, V, {channels}, h, w), got {tuple(reference_features.shape)}."
        )
    batch, views = reference_features.shape[:2]
    map_size = tuple(reference_features.shape[-2:])
    targets = target_camera_to_world.shape[1] if target_camera_to_world.ndim == 4 else "M"
    expected = {
        "reference_camera_to_world": (reference_camera_to_world, (batch, views, 4, 4)),
        "reference_intrinsics": (reference_intrinsics, (batch, views, 3, 3)),
        "target_camera_to_world": (target_camera_to_world, (batch, targets, 4, 4)),
        "target_intrinsics": (target_intrinsics, (batch, targets, 3, 3)),
        "reference_masks": (reference_masks, (batch, views, *map_size)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise MVCustomError(f"{name}: expected shape {shape}, got {tuple(value.shape)}.")
    if 0 in reference_features.shape or targets == 0:
        raise MVCustomError("reference_features, target_camera_to_world: expected at least one view and camera.")
    for name, number in (("height", height), ("width", width), ("rays_per_chunk", rays_per_chunk)):
        if number is not None and number < 1:
            raise MVCustomError(f"{name}: expected at least 1, got {number}.")
    if (encoder_hidden_states is None) != (attend_text is None):
        raise MVCustomError("encoder_hidden_states, attend_text: expected both or neither.")
    if encoder_hidden_states is not None and (
        encoder_hidden_states.ndim != 4 or encoder_hidden_states.shape[0] != batch
    ):
        raise MVCustomError(
            f"encoder_hidden_states: expected shape ({batch}, T, L, D), got {tuple(encoder_hidden_states.shape)}."
        )
    if encoder_hidden_states is not None and encoder_hidden_states.shape[1] == 0:
        raise MVCustomError("encoder_hidden_states: expected at least one text.")


# --- models/feature_sampling.py: Bilinear sampling of feature maps at many points, channels last, with zeros outside.


@dataclass(frozen=True, eq=False)
class BilinearSampler:
    """The four pixels around each of N points of V maps, and how much of each a sample takes.

    Built once for a set of points, it samples any number of maps there.

    Args:
        indices (`torch.Tensor` of shape `(V, N, 4)`): Flattened pixel positions.
        weights (`torch.Tensor` of shape `(V, N, 4)`): 0 for pixels outside of the map.
    """

    indices: Tensor  # [V, N, 4]
    weights: Tensor  # [V, N, 4]

    @classmethod
    def at(
        cls,
        pixels: Tensor,  # [V, N, 2]
        height: int,
        width: int,
    ) -> BilinearSampler:
        """For positions (x, y) on `height` × `width` maps; the centre of the first pixel is (0.5, 0.5)."""
        size = pixels.new_tensor([width, height])
        # Beyond one pixel outside nothing is seen; the clamp keeps far projections within an integer's range.
        position = (pixels - 0.5).clamp(min=torch.full_like(size, -2.0), max=size + 1.0)
        corner = position.floor()
        fraction = position - corner
        columns = corner[..., :1] + corner.new_tensor([0.0, 1.0, 0.0, 1.0])  # [V, N, 4]
        rows = corner[..., 1:] + corner.new_tensor([0.0, 0.0, 1.0, 1.0])
        x, y = fraction[..., :1], fraction[..., 1:]
        weights = torch.cat([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=-1)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        indices = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
        return cls(indices, weights * inside)

    @property
    def coverage(self) -> Tensor:
        """What each sample takes from within the map, `(V, N)`: 1 inside, falling to 0 half a pixel outside."""
        return self.weights.sum(-1)

    def sample(
        self,
        view: int,
        features: Tensor,  # [h * w, C]
    ) -> Tensor:
        """Samples one view's map, `(N, C)`. Differentiable with respect to the map."""
        # One fused weighted gather: no copy of the four corners.
        return F.embedding_bag(
            self.indices[view], features, per_sample_weights=self.weights[view].to(features.dtype), mode="sum"
        )


# --- models/positional_encoding.py: Sines and cosines of coordinates, so that a linear layer can tell nearby places apart.


def positional_encoding(values: Tensor, num_frequencies: int, octaves: float) -> Tensor:
    """The values themselves, then their sines, then their cosines.

    The angular frequencies are `π · 2^e`, with `num_frequencies` exponents e spaced evenly from 0 to `octaves`. Ordered
    as (values, sines, cosines); within the sines and the cosines, a coordinate's frequencies lie side by side.

    Args:
        values (`torch.Tensor` of shape `(..., D)`): Coordinates, float32 or better: the highest frequency multiplies
            their rounding error.
        num_frequencies (`int`): K, may be 0.
        octaves (`float`): Exponent of the highest frequency.

    Returns:
        `torch.Tensor` of shape `(..., D * (1 + 2 * K))`, see [`encoding_size`].

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.positional_encoding import positional_encoding
        >>> positional_encoding(torch.tensor([0.5]), 2, 1.0).round(decimals=4).abs().tolist()
        [0.5, 1.0, 0.0, 0.0, 1.0]
    """
    exponents = torch.linspace(0.0, octaves, num_frequencies, device=values.device, dtype=values.dtype)
    angles = (values[..., None] * (math.pi * exponents.exp2())).flatten(-2)
    return torch.cat([values, angles.sin(), angles.cos()], dim=-1)


def encoding_size(dimensions: int, num_frequencies: int) -> int:
    """Length of the [`positional_encoding`] of a vector with so many dimensions."""
    return dimensions * (1 + 2 * num_frequencies)


# --- models/ray_sampling.py: Where on its ray a sample is taken: in even bins, or in bins that follow what an earlier pass found.


@dataclass(frozen=True, eq=False)
class RayDistribution:
    """What a pass over the rays of B × M target maps found: how much of the light comes from which bin.

    Args:
        edges (`torch.Tensor` of shape `(B, M, h, w, S + 1)`): Ends of the bins as distances along the ray, ascending.
        weights (`torch.Tensor` of shape `(B, M, h, w, S)`): Rendering weights; their sum is the ray's opacity.
    """

    edges: Tensor  # [B, M, h, w, S + 1]
    weights: Tensor  # [B, M, h, w, S]

    def __post_init__(self) -> None:
        expected = (*self.weights.shape[:-1], self.weights.shape[-1] + 1)
        if self.weights.ndim != 5 or self.edges.shape != expected:
            raise MVCustomError(
                "edges, weights: expected shapes (B, M, h, w, S + 1) and (B, M, h, w, S), got "
                f"{tuple(self.edges.shape)} and {tuple(self.weights.shape)}."
            )

    def resize(self, height: int, width: int) -> RayDistribution:
        """The distribution for another size of the same maps; each ray takes over that of the nearest ray.

        Bins differ from ray to ray, and a mean of two rays' bins would lie in the air between two surfaces.
        """
        if self.weights.shape[2:4] == (height, width):
            return self
        rows, columns = (
            ((torch.arange(new, device=self.weights.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
            for new, old in zip((height, width), self.weights.shape[2:4])
        )
        return RayDistribution(self.edges[:, :, rows][:, :, :, columns], self.weights[:, :, rows][:, :, :, columns])


@dataclass(frozen=True, eq=False)
class RaySamples:
    """Samples on rays, one in each of S adjoining bins.

    Args:
        edges (`torch.Tensor` of shape `(..., S + 1)`): Ends of the bins, as distances along the ray.
        positions (`torch.Tensor` of shape `(..., S)`): Where in its bin each sample is taken.
    """

    edges: Tensor  # [..., S + 1]
    positions: Tensor  # [..., S]


def even_distribution(near: float, far: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """One bin from `near` to `far` of which nothing is known, as edges `(1, 1, 1, 1, 2)` and weights `(1, 1, 1, 1, 1)`."""
    return like.new_tensor([near, far]).view(1, 1, 1, 1, 2), like.new_zeros(1, 1, 1, 1, 1)


def spread_weights(
    edges: Tensor,  # [..., K + 1]
    weights: Tensor,  # [..., K]
) -> tuple[Tensor, Tensor]:
    """Spreads each bin's weight evenly over its two halves and the adjoining half of each neighbour.

    A surface that shows in one bin was met somewhere between the sample before it and its own, so half of the time in
    the bin before, where there is no weight. Sampled without this, that bin becomes a wide one and the surface moves
    to its front.

    Returns:
        `tuple` of the halves' edges `(..., 2 * K + 1)` and weights `(..., 2 * K)`, whose sum is that of `weights`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.ray_sampling import spread_weights
        >>> edges, weights = spread_weights(torch.tensor([0.0, 2.0, 4.0, 6.0]), torch.tensor([0.0, 1.0, 0.0]))
        >>> edges.tolist(), weights.tolist()
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0, 0.25, 0.25, 0.25, 0.25, 0.0])
    """
    middles = (edges[..., :-1] + edges[..., 1:]) / 2
    halves = torch.cat([torch.stack([edges[..., :-1], middles], dim=-1).flatten(-2), edges[..., -1:]], dim=-1)
    quarters = weights / 4
    from_before = torch.cat([quarters[..., :1], quarters[..., :-1]], dim=-1)  # at the ends of the ray it stays
    from_behind = torch.cat([quarters[..., 1:], quarters[..., -1:]], dim=-1)
    spread = torch.stack([quarters + from_before, quarters + from_behind], dim=-1).flatten(-2)
    return halves, spread


def sample_rays(
    edges: Tensor,  # [..., K + 1]
    weights: Tensor,  # [..., K]
    num_samples: int,
    *,
    importance_share: float = 0.75,
    jitter: Tensor | None = None,  # [..., S]
) -> RaySamples:
    """Divides rays into bins that are narrow where an earlier pass found something, and takes a sample in each.

    The probability of a place is `importance_share` times the earlier weights, and for the rest uniform over the ray.
    Weights sum to the opacity, so an empty ray is sampled evenly, and a solid one for `importance_share` at its
    surface. The bins are the S quantiles of that probability, so they cover the ray without gaps.

    Args:
        edges (`torch.Tensor` of shape `(..., K + 1)`): Bins of the earlier pass.
        weights (`torch.Tensor` of shape `(..., K)`): Its rendering weights. They get no gradient.
        num_samples (`int`): S.
        importance_share (`float`, *optional*, defaults to 0.75): In [0, 1).
        jitter (`torch.Tensor` of shape `(..., S)`, *optional*):
            Uniform random numbers in [0, 1): where in its bin, in probability, each sample lies (so that over many
            draws the samples follow the probability exactly). By default they lie at the middle, 0.5.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.ray_sampling import sample_rays
        >>> samples = sample_rays(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0]), 4, importance_share=0.5)
        >>> [round(edge, 3) for edge in samples.edges.tolist()]
        [1.0, 2.0, 2.333, 2.667, 3.0]
        >>> [round(position, 3) for position in samples.positions.tolist()]
        [1.5, 2.167, 2.5, 2.833]
    """
    edges, weights = edges.detach(), weights.detach()
    share = importance_share * weights
    widths = edges.diff(dim=-1)
    length = edges[..., -1:] - edges[..., :1]
    probability = share + (1 - share.sum(-1, keepdim=True)) * widths / length
    steps = torch.arange(num_samples + 1, device=edges.device, dtype=edges.dtype)
    within = steps[:-1] + (0.5 if jitter is None else jitter.to(edges))
    ends = (steps / num_samples).expand(*within.shape[:-1], -1)
    quantiles = _inverse_cdf(edges, probability, torch.cat([ends, within / num_samples], dim=-1))
    inner = quantiles[..., 1:num_samples]
    first, last = (end.expand(*inner.shape[:-1], 1) for end in (edges[..., :1], edges[..., -1:]))
    bins = torch.cat([first, inner, last], dim=-1)
    positions = quantiles[..., num_samples + 1 :].clamp(min=bins[..., :-1], max=bins[..., 1:])
    return RaySamples(bins, positions)


def _inverse_cdf(edges: Tensor, probability: Tensor, levels: Tensor) -> Tensor:
    """Where the piecewise linear cumulative distribution over `edges` `(..., K + 1)` reaches `levels` `(..., Q)`."""
    shape = torch.broadcast_shapes(edges.shape[:-1], levels.shape[:-1])
    edges, probability, levels = (x.expand(*shape, x.shape[-1]) for x in (edges, probability, levels))
    cumulative = probability.cumsum(-1)
    cumulative = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative / cumulative[..., -1:]], dim=-1)
    upper = torch.searchsorted(cumulative.contiguous(), levels.contiguous(), right=True)
    upper = upper.clamp(1, edges.shape[-1] - 1)
    low, high = cumulative.gather(-1, upper - 1), cumulative.gather(-1, upper)
    start, end = edges.gather(-1, upper - 1), edges.gather(-1, upper)
    fraction = ((levels - low) / (high - low).clamp(min=torch.finfo(edges.dtype).tiny)).clamp(0, 1)
    return start + fraction * (end - start)


# --- models/volume_rendering.py: Emission and absorption along rays whose density is constant within each bin.


_LARGEST_GRADIENT_EXPONENT = 15.0
_LARGEST_DENSITY = 1e30
_NO_OPACITY = 1e-6


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exponent: Tensor) -> Tensor:
        ctx.save_for_backward(exponent)
        return exponent.exp().clamp(max=_LARGEST_DENSITY)  # an infinite one would be NaN times a coverage of 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (exponent,) = ctx.saved_tensors
        return gradient * exponent.clamp(max=_LARGEST_GRADIENT_EXPONENT).exp()


def truncated_exp(exponent: Tensor) -> Tensor:
    """`exp(exponent)`, at most 1e30, whose gradient stops growing at an exponent of 15: a dense sample cannot blow up a
    step."""
    return _TruncatedExp.apply(exponent)


def rendering_weights(
    density: Tensor,  # [..., S]
    edges: Tensor,  # [..., S + 1]
) -> Tensor:
    """The share of the light that each bin sends to the eye.

    `w_i = exp(-Σ_{j<i} σ_j δ_j) (1 - exp(-σ_i δ_i))` with `δ_i = edges_{i+1} - edges_i`. Their sum is the ray's opacity,
    `1 - exp(-Σ σ_i δ_i)`.

    Args:
        density (`torch.Tensor` of shape `(..., S)`): σ, not negative, per unit of length.
        edges (`torch.Tensor` of shape `(..., S + 1)`): Distances of the bins' ends along the ray, ascending.

    Returns:
        `torch.Tensor` of shape `(..., S)`.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models.volume_rendering import rendering_weights
        >>> halving = torch.full((3,), 2.0).log()
        >>> rendering_weights(halving, torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
        [0.5, 0.25, 0.125]
    """
    depth = _optical_depth(density, edges)
    before = depth.cumsum(-1)[..., :-1]
    transmittance = torch.cat([torch.ones_like(depth[..., :1]), (-before).exp()], dim=-1)
    return transmittance * -torch.expm1(-depth)


def expected_distance(
    density: Tensor,  # [..., S]
    edges: Tensor,  # [..., S + 1]
    weights: Tensor,  # [..., S]
) -> Tensor:
    """Where along the ray the light that reaches the eye comes from on average, `(...)`.

    Exact for a density that is constant within each bin: a fog's light comes from the bins' middles, a solid's from
    the front edge of its first bin. Where the opacity is 0 it is the far end of the ray (below an opacity of about
    1e-5 it begins to lean there).
    """
    widths = edges.diff(dim=-1)
    inside = edges[..., :-1] + widths * _mean_depth_within_bin(_optical_depth(density, edges))
    nowhere = _NO_OPACITY * edges[..., -1]
    return ((weights * inside).sum(-1) + nowhere) / (weights.sum(-1) + _NO_OPACITY)


def _optical_depth(density: Tensor, edges: Tensor) -> Tensor:
    # The clamp keeps an overflowing density from giving NaN in a bin of no width.
    return density.clamp(max=_LARGEST_DENSITY) * edges.diff(dim=-1)


def _mean_depth_within_bin(depth: Tensor) -> Tensor:
    """Mean place of absorption in a bin of this optical depth x, as a fraction of the bin: `1/x - 1/(exp(x) - 1)`."""
    thin = depth < 0.1
    # Each branch gets arguments that are safe for it: a `where` after it would still pass NaN gradients back.
    small = depth.clamp(max=0.1)
    safe = torch.where(thin, torch.ones_like(depth), depth)
    series = 0.5 - small / 12 + small**3 / 720
    return torch.where(thin, series, 1 / safe - 1 / torch.expm1(safe.clamp(max=80.0)))


# --- models/feature_nerf.py: FeatureNeRF: subject features at target cameras, rendered from the features of posed reference views.


_CHUNK_BYTES = 256 * 2**20
"""Memory that the chunk of rays in work may take, where `rays_per_chunk` does not say otherwise."""


@dataclass
class RenderedFeatures:
    """What a [`FeatureNeRF`] renders: B scenes, seen from M cameras, for T texts.

    Args:
        features (`torch.Tensor` of shape `(B, T, M, h * w, C)`): X_y. Zero where nothing is seen.
        opacity (`torch.Tensor` of shape `(B, M, h, w)`): In [0, 1], float32.
        rgb (`torch.Tensor` of shape `(B, M, h, w, 3)`, *optional*): Colours in [0, 1] before black, so already
            multiplied by the opacity; float32.
        depth (`torch.Tensor` of shape `(B, M, h, w)`): Expected z-depth in the target camera of what is seen, not
            multiplied by the opacity; float32. Where the opacity is 0, the z-depth at the far end of the ray.
        density (`torch.Tensor` of shape `(B, M, h * w, S)`): Of the samples, per unit of length; float32.
        ray_distribution ([`RayDistribution`]): For the next block's `previous`. Carries no gradient.
    """

    features: Tensor  # [B, T, M, h * w, C]
    opacity: Tensor  # [B, M, h, w]
    rgb: Tensor | None  # [B, M, h, w, 3]
    depth: Tensor  # [B, M, h, w]
    density: Tensor  # [B, M, h * w, S]
    ray_distribution: RayDistribution


class FeatureNeRF(nn.Module):
    """Renders the features of posed reference views into target cameras, along epipolar lines.

    Points on the rays of the target pixels are projected into every reference. What is found there goes through an MLP a
    view, is blended over the views, attends to the text, and is volume-rendered.

    - A view has a say in the blend as far as the point lies in its image. One that does not see the point knows
      nothing of it; one that sees masked background there does know, and that is how empty space is carved. Where no
      view sees the point the density is 0: there is no evidence of a subject.
    - Density and colour come from the features before text attention, so T texts share one geometry.
    - The blend is a softmax of a linear score. A term of that score that is the same for all views, such as the point
      in the target's frame, cancels out and is left out.
    - Geometry (projection, encodings, volume rendering) is computed in float32 under any autocast or weight dtype.

    A linear layer commutes with bilinear interpolation, and with the blend over views, whose weights sum to 1. So the
    reference maps go through the first layer before they are sampled, and the second layer runs once a point, not once
    a view.

    Source: FeatureNeRF of CustomDiffusion360 (arXiv 2404.12333), as used by MVCustom (arXiv 2510.13702).

    Args:
        channels (`int`): C, of the features.
        config ([`FeatureNeRFConfig`], *optional*): Settings.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.models import FeatureNeRF
        >>> pose = torch.eye(4).view(1, 1, 4, 4).clone()
        >>> pose[..., 2, 3] = -1.0  # looks at the origin from distance 1
        >>> intrinsics = torch.tensor([[8.0, 0.0, 4.0], [0.0, 8.0, 3.0], [0.0, 0.0, 1.0]]).view(1, 1, 3, 3)
        >>> nerf = FeatureNeRF(16)
        >>> rendered = nerf(torch.randn(1, 1, 16, 6, 8), pose, intrinsics, pose, intrinsics, 6, 8)
        >>> rendered.features.shape, rendered.depth.shape
        (torch.Size([1, 1, 1, 48, 16]), torch.Size([1, 1, 6, 8]))
    """

    def __init__(self, channels: int, config: FeatureNeRFConfig | None = None) -> None:
        super().__init__()
        config = FeatureNeRFConfig() if config is None else config
        self.channels = channels
        self.config = config
        self.gradient_checkpointing = False  # diffusers' enable_gradient_checkpointing sets it on all submodules
        hidden = config.hidden_channels or channels
        point_size = encoding_size(3, config.point_frequencies)
        plucker_size = encoding_size(6, config.ray_frequencies)  # holds the ray's direction
        direction_size = encoding_size(3, config.ray_frequencies)
        # The first layer of the MLP and the score, in parts that act at different stages.
        self.feature_projection = nn.Linear(channels, hidden, bias=False)
        self.point_projection = nn.Linear(point_size, hidden, bias=False)
        self.ray_projection = nn.Linear(plucker_size, hidden)
        self.output_projection = nn.Linear(hidden, channels)
        self.feature_score = nn.Linear(channels, 1, bias=False)
        self.direction_score = nn.Linear(direction_size, 1, bias=False)
        self.density_and_rgb = nn.Linear(channels, 4 if config.predict_rgb else 1)
        _initialize_as_one(self.feature_projection, self.point_projection, self.ray_projection)
        _initialize_as_one(self.feature_score, self.direction_score)
        nn.init.zeros_(self.density_and_rgb.weight)
        nn.init.zeros_(self.density_and_rgb.bias)
        self._log_initial_density = math.log(-math.log1p(-config.initial_opacity) / (config.far - config.near))

    def forward(
        self,
        reference_features: Tensor,  # [B, V, C, h_r, w_r]
        reference_camera_to_world: Tensor,  # [B, V, 4, 4]
        reference_intrinsics: Tensor,  # [B, V, 3, 3]
        target_camera_to_world: Tensor,  # [B, M, 4, 4]
        target_intrinsics: Tensor,  # [B, M, 3, 3]
        height: int,
        width: int,
        *,
        reference_masks: Tensor | None = None,  # [B, V, h_r, w_r]
        encoder_hidden_states: Tensor | None = None,  # [B, T, L, D]
        attend_text: AttendText | None = None,
        previous: RayDistribution | None = None,
        stratified: bool = False,
        generator: torch.Generator | None = None,
        rays_per_chunk: int | None = None,
    ) -> RenderedFeatures:
        """Renders the features of V reference views into M target cameras, for each of B scenes.

        Args:
            reference_features (`torch.Tensor` of shape `(B, V, C, h_r, w_r)`): Feature maps.
            reference_camera_to_world (`torch.Tensor` of shape `(B, V, 4, 4)`): Poses in the subject frame, OpenCV axes.
            reference_intrinsics (`torch.Tensor` of shape `(B, V, 3, 3)`): In pixels of the `h_r` × `w_r` maps.
            target_camera_to_world (`torch.Tensor` of shape `(B, M, 4, 4)`): Poses of the target cameras.
            target_intrinsics (`torch.Tensor` of shape `(B, M, 3, 3)`): In pixels of the `height` × `width` maps.
            height, width (`int`): Size of the target feature maps.
            reference_masks (`torch.Tensor` of shape `(B, V, h_r, w_r)`, *optional*): Multiplies the reference features;
                0 where a reference has nothing to say.
            encoder_hidden_states (`torch.Tensor` of shape `(B, T, L, D)`, *optional*): T texts over one geometry. Without
                it T is 1 and no text is attended to.
            attend_text (`Callable`, *optional*): The block's text attention with its residual, from `(N, P, C)` points
                and `(N, L, D)` texts to `(N, P, C)`. Goes with `encoder_hidden_states`.
            previous ([`RayDistribution`], *optional*): What an earlier block found for the same cameras, at any map size.
                By default rays are sampled evenly.
            stratified (`bool`, *optional*, defaults to `False`): Whether samples lie at random in their bins (for
                training). Otherwise the result is deterministic.
            generator (`torch.Generator`, *optional*): For that.
            rays_per_chunk (`int`, *optional*): Rays in work at a time; bounds the memory and does not change the result.
                By default as many as take about 256 MiB. With gradients the memory is bounded only if
                `gradient_checkpointing` is on, too.

        Raises:
            MVCustomError: naming the argument whose shape does not fit.
        """
        check_feature_nerf_inputs(
            self.channels, reference_features, reference_camera_to_world, reference_intrinsics, target_camera_to_world,
            target_intrinsics, height, width, reference_masks, encoder_hidden_states, attend_text, rays_per_chunk,
        )  # fmt: skip
        geometry_dtype = torch.promote_types(self.density_and_rgb.weight.dtype, torch.float32)
        reference_camera_to_world, reference_intrinsics, target_camera_to_world, target_intrinsics = (
            x.to(reference_features.device, geometry_dtype)
            for x in (reference_camera_to_world, reference_intrinsics, target_camera_to_world, target_intrinsics)
        )
        batch, targets = target_camera_to_world.shape[:2]
        pixels = pixel_centers(height, width, device=reference_features.device, dtype=geometry_dtype).flatten(0, 1)
        origins, directions = camera_rays(target_camera_to_world, target_intrinsics, pixels, normalize=False)
        z_scale = 1 / directions.norm(dim=-1, keepdim=True)  # z-depth of a point at distance 1
        samples = self._sample_rays(previous, (batch, targets, height, width), z_scale, stratified, generator)

        texts = 1 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if rays_per_chunk is None:
            rays_per_chunk = self._default_rays_per_chunk(texts, reference_features.shape[1])
        parts = []
        for b in range(batch):
            views = _Views(
                *self._project_features(
                    reference_features[b], None if reference_masks is None else reference_masks[b]
                ),
                (reference_features.shape[-2], reference_features.shape[-1]),
                reference_camera_to_world[b],
                _inverse_poses(reference_camera_to_world[b]),
                reference_intrinsics[b],
            )
            text = None if encoder_hidden_states is None else encoder_hidden_states[b]
            rotation = target_camera_to_world[b, :, None, :3, :3].expand(-1, height * width, 3, 3)
            rays = (
                origins[b].flatten(0, 1),
                (directions[b] * z_scale[b]).flatten(0, 1),
                rotation.flatten(0, 1),
                samples.edges[b].flatten(0, 2),
                samples.positions[b].flatten(0, 2),
            )
            for chunk in zip(*(x.split(rays_per_chunk) for x in rays)):
                parts.append(self._render_chunk_with_or_without_checkpoint(views, _Rays(*chunk), text, attend_text))
        features = torch.cat([part[0] for part in parts], dim=1)
        density, weights = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
        rgb = torch.cat([part[3] for part in parts if part[3] is not None]) if self.config.predict_rgb else None

        maps = (batch, targets, height, width)
        density, weights = density.view(*maps, -1), weights.view(*maps, -1)
        distance = expected_distance(density, samples.edges, weights)
        features = features.unflatten(1, (batch, targets, height * width)).transpose(0, 1)
        return RenderedFeatures(
            features=features.to(reference_features.dtype),
            opacity=weights.sum(-1),
            rgb=None if rgb is None else rgb.view(*maps, 3),
            depth=distance * z_scale.view(maps),
            density=density.flatten(2, 3),
            ray_distribution=RayDistribution(samples.edges, weights.detach()),
        )

    # --- where to look ---

    def _sample_rays(
        self,
        previous: RayDistribution | None,
        maps: tuple[int, int, int, int],
        like: Tensor,
        stratified: bool,
        generator: torch.Generator | None,
    ) -> RaySamples:
        config, shape = self.config, (*maps, self.config.num_samples)
        if previous is None:
            edges, weights = even_distribution(config.near, config.far, like)
        else:
            if previous.weights.shape[:2] != maps[:2]:
                raise MVCustomError(
                    f"previous: expected the rays of (batch, target cameras) = {maps[:2]}, got "
                    f"{tuple(previous.weights.shape[:2])}. Rendered for other cameras?"
                )
            previous = previous.resize(*maps[2:])
            edges, weights = spread_weights(previous.edges.to(like), previous.weights.to(like))
        jitter = None
        if stratified:
            # Drawn for all rays at once, where the generator is: chunks do not matter, and a CPU generator serves a GPU.
            device = like.device if generator is None else generator.device
            jitter = torch.rand(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
        samples = sample_rays(
            edges, weights, config.num_samples, importance_share=config.importance_share, jitter=jitter
        )
        return RaySamples(samples.edges.expand(*maps, -1), samples.positions.expand(*maps, -1))

    def _default_rays_per_chunk(self, texts: int, views: int) -> int:
        hidden = self.output_projection.in_features
        per_view = 3 * hidden + 2 * self.point_projection.in_features
        per_text = 6 * self.channels
        if self.gradient_checkpointing and torch.is_grad_enabled():  # a chunk's backward pass holds every step
            per_view, per_text = views * per_view, 2 * per_text
        numbers = per_view + texts * per_text + 2 * self.channels
        return max(1, _CHUNK_BYTES // (4 * numbers * self.config.num_samples))

    # --- what is there ---

    def _project_features(
        self, features: Tensor, masks: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The parts of the first layer and of the score that act on features, as maps `(h_r * w_r, ...)` of each view."""
        features = features.flatten(2).transpose(1, 2).to(self.feature_projection.weight.dtype)
        if masks is not None:
            features = features * masks.flatten(1)[..., None].to(features.dtype)
        projected, score = self.feature_projection(features), self.feature_score(features)
        # Interpolated in float32: its weights have more digits than half precision holds.
        wide = torch.promote_types(projected.dtype, torch.float32)
        # One tensor a view: the gradient of an index into one tensor of all views would be as large as that.
        return projected.to(wide).unbind(0), score.to(wide).unbind(0)

    def _render_chunk_with_or_without_checkpoint(self, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._render_chunk, *args, use_reentrant=False)
        return self._render_chunk(*args)

    def _render_chunk(
        self, views: _Views, rays: _Rays, text: Tensor | None, attend_text: AttendText | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Features `(T, R, C)`, densities and rendering weights `(R, S)`, and colours `(R, 3)` of R rays."""
        points = (rays.origins[:, None] + rays.positions[..., None] * rays.directions[:, None]).flatten(0, 1)
        pixels, _ = project(points[None], views.world_to_camera, views.intrinsics)
        sampler = BilinearSampler.at(pixels, *views.size)
        blend, seen = self._blend_weights(views, rays, points, sampler)
        point_features = self._blended_features(views, rays, points, sampler, blend)  # [R * S, C]

        shape = rays.positions.shape
        raw = self.density_and_rgb(point_features).to(points.dtype)
        density = (truncated_exp(raw[:, 0] + self._log_initial_density) * seen).view(shape)
        weights = rendering_weights(density, rays.edges)
        rgb = None
        if self.config.predict_rgb:
            rgb = (weights[..., None] * raw[:, 1:].sigmoid().view(*shape, 3)).sum(-2)

        point_features = point_features[None]
        if attend_text is not None and text is not None:
            point_features = point_features.to(text.dtype).expand(text.shape[0], -1, -1)
            point_features = attend_text(point_features, text)
        with torch.autocast(points.device.type, enabled=False):
            point_features = point_features.to(points.dtype).unflatten(1, shape)  # [T, R, S, C]
            features = torch.einsum("rs,trsc->trc", weights, point_features)
        return features, density, weights, rgb

    def _blend_weights(
        self, views: _Views, rays: _Rays, points: Tensor, sampler: BilinearSampler
    ) -> tuple[Tensor, Tensor]:
        """The views' shares in each point `(V, R * S)`, and how far any view sees it at all `(R * S)`."""
        to_target = rays.rotation.repeat_interleave(rays.positions.shape[1], dim=0).transpose(-1, -2)
        scores = []
        for v in range(len(views.world_to_camera)):
            toward = F.normalize(points - views.camera_to_world[v, :3, 3], dim=-1)
            toward = transform_directions(toward[:, None], to_target)[:, 0]
            encoded = self._encode(toward, self.config.ray_frequencies)
            scores.append((sampler.sample(v, views.scores[v]) + self.direction_score(encoded).to(points.dtype))[:, 0])
        coverage = sampler.coverage
        seen = coverage.amax(dim=0)
        # Where no view sees the point any finite weights will do: its density is 0.
        coverage = torch.where(seen > 0, coverage, torch.ones_like(coverage))
        logits = (torch.stack(scores) + coverage.log()).softmax(dim=0)
        return logits, seen

    def _blended_features(
        self, views: _Views, rays: _Rays, points: Tensor, sampler: BilinearSampler, blend: Tensor
    ) -> Tensor:
        """The per-view MLP's outputs, blended over the views, `(R * S, C)`."""
        origins = transform_points(rays.origins, views.world_to_camera)  # [V, R, 3]
        directions = transform_directions(rays.directions, views.world_to_camera)
        encoded_rays = self._encode(plucker_coordinates(origins, directions), self.config.ray_frequencies)
        per_ray = self.ray_projection(encoded_rays)[:, :, None]  # [V, R, 1, H]
        blended = None
        for v in range(len(per_ray)):
            in_view = transform_points(points, views.world_to_camera[v])
            encoded = self._encode(in_view, self.config.point_frequencies)
            # Through the layer and not its weight, which offloading loads for the layer's forward only.
            hidden = self.point_projection(encoded).add_(sampler.sample(v, views.features[v]))
            hidden = hidden.view(*rays.positions.shape, -1).add_(per_ray[v]).flatten(0, 1)
            hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
            share = blend[v, :, None].to(hidden.dtype)
            # In place: only the summands are needed for gradients.
            blended = hidden * share if blended is None else blended.addcmul_(hidden, share)
        return self.output_projection(blended)

    def _encode(self, values: Tensor, num_frequencies: int) -> Tensor:
        encoded = positional_encoding(values, num_frequencies, self.config.encoding_octaves)
        return encoded.to(self.ray_projection.weight.dtype)


@dataclass(frozen=True, eq=False)
class _Views:
    """The reference views of one scene."""

    features: tuple[Tensor, ...]  # V of [h_r * w_r, H], after the first layer
    scores: tuple[Tensor, ...]  # V of [h_r * w_r, 1]
    size: tuple[int, int]  # h_r, w_r
    camera_to_world: Tensor  # [V, 4, 4]
    world_to_camera: Tensor  # [V, 4, 4]
    intrinsics: Tensor  # [V, 3, 3]


@dataclass(frozen=True, eq=False)
class _Rays:
    """R rays of one scene, of any target cameras."""

    origins: Tensor  # [R, 3]
    directions: Tensor  # [R, 3] of unit length
    rotation: Tensor  # [R, 3, 3] of the target camera
    edges: Tensor  # [R, S + 1]
    positions: Tensor  # [R, S]


def _inverse_poses(camera_to_world: Tensor) -> Tensor:
    inverse = torch.zeros_like(camera_to_world)
    rotation = camera_to_world[..., :3, :3].transpose(-1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation * camera_to_world[..., None, :3, 3]).sum(-1)
    inverse[..., 3, 3] = 1.0
    return inverse


def _initialize_as_one(*parts: nn.Linear) -> None:
    """Initialises linear layers whose outputs are summed as `nn.Linear` would one layer on all of their inputs."""
    bound = 1 / math.sqrt(sum(part.in_features for part in parts))
    for part in parts:
        nn.init.uniform_(part.weight, -bound, bound)
        if part.bias is not None:
            nn.init.uniform_(part.bias, -bound, bound)


# --- models/attention_windows.py: How far the motion modules' attention reaches, per size of the feature map.


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


# --- models/flex_windows.py: Windowed attention by one fused kernel, PyTorch's FlexAttention: chosen by `unet.set_attention_backend("flex")`.


BLOCK = 128
"""Tokens of a block, of which the kernel computes all pairs or none."""
_TILE = 8
"""Side of the tiles in whose order tokens are, so that a block's tokens are neighbours and few blocks meet."""


def flex_windowed_attention(
    query: Tensor,  # [B, h, w, F, heads, d]
    key: Tensor,  # [B, h, w, F, heads, d]
    value: Tensor,  # [B, h, w, F, heads, d]
    radius: int,
) -> Tensor:
    """Attention of each token to all frames' tokens at most `radius` rows and columns away, in one kernel.

    Which blocks of tokens meet is computed from the blocks' extents; no mask of all pairs is ever made. FlexAttention has
    to be compiled to be fast, which the first call of each shape pays for. On a CPU it has no gradients.

    Args:
        query, key, value (`torch.Tensor` of shape `(B, h, w, F, heads, d)`): Tokens by position and frame.
        radius (`int`): Half a window, in positions.

    Returns:
        `torch.Tensor` of shape `(B, h, w, F, heads, d)`.
    """
    height, width, frames, dim = (query.shape[i] for i in (1, 2, 3, 5))
    if torch.compiler.is_compiling():  # then this is part of what is compiled
        attention, plan = _flex_attention(), _plan
    else:
        attention, plan = _compiled_flex_attention(), _kept_plan
    order, mask = plan(height, width, frames, radius, query.device)
    padding = (1 << (dim - 1).bit_length()) - dim  # PyTorch before 2.7 takes powers of two alone

    def tokens(states: Tensor) -> Tensor:  # [B, heads, h * w * F, d], a power of two
        in_order = states.flatten(1, 2)[:, order].flatten(1, 2).transpose(1, 2)
        return F.pad(in_order, (0, padding)) if padding else in_order

    attended = attention(tokens(query), tokens(key), tokens(value), block_mask=mask, scale=dim**-0.5)
    attended = attended[..., :dim].transpose(1, 2).unflatten(1, (-1, frames))  # [B, h * w, F, heads, d]
    result = torch.empty_like(attended)
    result[:, order] = attended
    return result.unflatten(1, (height, width))


def _flex_attention() -> Callable[..., Any]:
    """Imported here: it brings the compiler along, which takes a second."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    """Compiled once a process."""
    return torch.compile(_flex_attention(), dynamic=False)


def _plan(height: int, width: int, frames: int, radius: int, device: torch.device) -> tuple[Tensor, Any]:
    """The order of the positions, `(h * w,)`, and the `BlockMask` of their tokens in it."""
    order = _tiled_order(height, width, device)
    return order, _block_mask(torch.div(order, width, rounding_mode="floor"), order % width, frames, radius)


@lru_cache(maxsize=16)
def _kept_plan(height: int, width: int, frames: int, radius: int, device: torch.device) -> tuple[Tensor, Any]:
    """The same, computed once for all steps and layers of a size: a few small tensors."""
    with torch.inference_mode(False):  # so that a training can use what a generation computed
        return _plan(height, width, frames, radius, device)


def _tiled_order(height: int, width: int, device: torch.device) -> Tensor:
    """Flattened positions, tile after tile, and rows of a tile one after the other."""
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    tile = torch.div(y, _TILE, rounding_mode="floor") * width + torch.div(x, _TILE, rounding_mode="floor")
    return torch.argsort((tile * _TILE**2 + y % _TILE * _TILE + x % _TILE).flatten())


def _block_mask(rows: Tensor, columns: Tensor, frames: int, radius: int) -> Any:
    """The `BlockMask` of positions `(N,)`, each with `frames` tokens: blocks that meet not at all, in part, or wholly."""
    from torch.nn.attention.flex_attention import BlockMask

    length = rows.shape[0] * frames
    count = -(-length // BLOCK)
    in_blocks = torch.arange(count * BLOCK, device=rows.device).clamp(max=length - 1).view(count, BLOCK) // frames
    nearest = rows.new_zeros(count, count)
    farthest = rows.new_zeros(count, count)
    for axis in (rows, columns):
        low, high = axis[in_blocks].amin(1), axis[in_blocks].amax(1)
        gap = torch.maximum(low[:, None] - high, low - high[:, None]).clamp(min=0)
        nearest = torch.maximum(nearest, gap)
        farthest = torch.maximum(farthest, torch.maximum(high[:, None] - low, high - low[:, None]))
    whole = farthest <= radius
    partial = (nearest <= radius) & ~whole

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near_rows = (rows[query // frames] - rows[key // frames]).abs() <= radius
        return near_rows & ((columns[query // frames] - columns[key // frames]).abs() <= radius)

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=in_window, seq_lengths=(length, length)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of `(n, n)` bool: how many key blocks each query block has, `(1, 1, n)`, and which, `(1, 1, n, n)`, these first."""
    which = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], which.int()[None, None].contiguous()


# --- models/row_windows.py: Windowed attention row by row, without gathering a window's keys: what is fast on a CPU.


Attend = Callable[..., Tensor]
"""`attend(query, key, value, attn_mask=...)` over `(sequences, tokens, heads, d)`."""


def row_windowed_attention(
    query: Tensor,  # [B, h, w, F, heads, d]
    key: Tensor,  # [B, h, w, F, heads, d]
    value: Tensor,  # [B, h, w, F, heads, d]
    radius: int,
    attend: Attend,
) -> Tensor:
    """Attention of each token to all frames' tokens at most `radius` rows and columns away.

    The keys that a row of queries can reach are laid out column by column. In that order a window is one run of memory,
    and the next position's is the same run, one column further: the windows of a row are overlapping views, and nothing
    is computed that a mask would throw away. Near the left and right rim windows are cut off; the queries there, `radius`
    on either side, go together, with a mask, and so do all of a row in a narrow map.

    Args:
        query, key, value (`torch.Tensor` of shape `(B, h, w, F, heads, d)`): Tokens by position and frame.
        radius (`int`): Rows and columns on either side, at least 1.
        attend (`Callable`): Attention of sequences.

    Returns:
        `torch.Tensor` of shape `(B, h, w, F, heads, d)`.
    """
    batch, height, width, frames = query.shape[:4]
    attended = torch.empty_like(query)
    masks: dict[int, list[Tensor]] = {}
    spans = _rim_spans(width, radius)
    for row in range(height):
        rows = slice(max(row - radius, 0), min(row + radius + 1, height))
        count = rows.stop - rows.start
        if count not in masks:
            masks[count] = [_rim_mask(*span, radius, frames, count * frames, query.device) for span in spans]
        # [B, w, rows * F, heads, d]
        keys, values = (states[:, rows].transpose(1, 2).flatten(2, 3) for states in (key, value))
        for (positions, reach), mask in zip(spans, masks[count]):
            attended[:, row, positions] = attend(
                query[:, row, positions].flatten(1, 2),
                keys[:, reach].flatten(1, 2),
                values[:, reach].flatten(1, 2),
                attn_mask=mask,
            ).unflatten(1, (-1, frames))
        if len(spans) > 1:
            inner = slice(radius, width - radius)
            windows = partial(_windows, columns=2 * radius + 1)
            for i in range(batch):
                attended[i, row, inner] = attend(query[i, row, inner], windows(keys[i]), windows(values[i]))
    return attended


def _windows(states: Tensor, columns: int) -> Tensor:
    """Every window of so many columns of `(w, S, heads, d)`, `(windows, columns * S, heads, d)`: a view."""
    windows = states.unfold(0, columns, 1).permute(0, 4, 1, 2, 3)  # [windows, columns, S, heads, d]
    return windows.view(len(windows), -1, *states.shape[2:])


def _rim_spans(width: int, radius: int) -> list[tuple[slice, slice]]:
    """Columns of queries whose windows the map's rim cuts off, and the columns that these reach.

    In narrow maps, where few windows are whole, one call for all of a row is faster than several: that is one span (by
    measuring maps of 8 and 12).
    """
    if width <= 3 * radius + 2:
        return [(slice(0, width), slice(0, width))]
    reach = 2 * radius
    return [
        (slice(0, radius), slice(0, reach)),
        (slice(width - radius, width), slice(width - reach, width)),
    ]


def _rim_mask(positions: slice, reach: slice, radius: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """`(1, 1, positions * queries, reach * keys)` bool: whether a key's column lies in the window of a query's."""
    of_queries = torch.arange(positions.start, positions.stop, device=device).repeat_interleave(queries)
    of_keys = torch.arange(reach.start, reach.stop, device=device).repeat_interleave(keys)
    return ((of_queries[:, None] - of_keys).abs() <= radius)[None, None]


# --- models/spatio_temporal_attention.py: Dense spatio-temporal attention: a stateless attention processor for the motion modules of a stock U-Net.


TILE_ON_CPU = 4
"""Side of the query tiles of windowed attention, in positions: the fastest of 2, 4, 6, 8, 16 for windows 3 and 7 on a CPU."""
TILE = 8
"""The same elsewhere, where calls cost more than what they compute: with tiles of 4 and an eighth of the map's elements at
a time, a window of 7 took 16.9 ms on an H200 where the whole map took 4.5 (64 × 64 positions, 8 frames)."""
_ROWS_PAY_FROM = 32
"""Bytes of one channel of a position's queries (frames times the size of a number) from which on windows go row by row on a
CPU. Measured for windows 3 and 7 of maps 8 to 64: as fast as tiles to 2.9 times as fast from 8 frames in float32 and 16 in
half precision on, slower below, and slower with gradients."""
_GATHERED_ON_CPU = 2**18
"""Key elements gathered at a time on a CPU: what stays in its cache is also fastest (2^18 to 2^23 measured). Elsewhere few
large calls are faster: as many as the map itself has."""


class SpatioTemporalAttnProcessor(AttnProcessor2_0):
    """Lets a motion module's attention reach other positions of all frames, with AnimateDiff's own weights.

    The motion module hands over one sequence of frames per position, `(batch * height * width, frames, channels)`, its
    temporal position embedding added. Told the map's size and a window, this processor regroups the sequences; without
    them it is the stock processor. It holds nothing: the window lives on the motion module.

    Source: dense spatio-temporal attention of MVCustom (arXiv 2510.13702); `temporal_heads` is ours.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,  # [B * h * w, F, C]
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        spatial_size: tuple[int, int] | None = None,
        spatial_window: int | None = 1,
        temporal_heads: int = 0,
    ) -> Tensor:
        """Attention in the windows, in the form of diffusers' processors; the first `temporal_heads` along time alone."""
        if spatial_size is None or spatial_window == 1:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if encoder_hidden_states is not None or attention_mask is not None or attn.group_norm or attn.spatial_norm:
            raise NotImplementedError("Dense spatio-temporal attention is for the self-attention of motion modules.")
        height, width = spatial_size
        frames = hidden_states.shape[1]
        tokens = hidden_states.unflatten(0, (-1, height, width))  # [B, h, w, F, C]
        query, key, value = (
            projection(tokens).unflatten(-1, (attn.heads, -1)) for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        def attend(heads: slice, window: int | None) -> Tensor:
            q, k, v = (states[..., heads, :] for states in (query, key, value))
            backend, parallel_config = self._attention_backend, self._parallel_config
            return windowed_attention(q, k, v, window, backend=backend, parallel_config=parallel_config)

        attended = attend(slice(temporal_heads, None), spatial_window)
        if temporal_heads:
            attended = torch.cat([attend(slice(temporal_heads), 1), attended], dim=-2)
        attended = attended.to(query.dtype).reshape(hidden_states.shape[0], frames, -1)
        attended = attn.to_out[1](attn.to_out[0](attended))
        if attn.residual_connection:
            attended = attended + hidden_states
        return attended / attn.rescale_output_factor


def windowed_attention(
    query: Tensor,  # [B, h, w, F, heads, d]
    key: Tensor,  # [B, h, w, F, heads, d]
    value: Tensor,  # [B, h, w, F, heads, d]
    window: int | None,
    *,
    tile: int | None = None,
    backend: Any = None,
    parallel_config: Any = None,
) -> Tensor:
    """Attention of each token to all frames' tokens at most `window // 2` rows and columns away.

    The window slides; at the map's border it is cut off. Queries go by tiles: a tile's keys are those of the tile and a
    halo of `window // 2`, moved inside the map at the border, so that every key is a real one, and a mask that tiles of
    the same place share cuts each query's window out of them. Neither time nor memory grows with the square of the map.
    Where it is faster, on a CPU, they go row by row instead ([`row_windowed_attention`]); the backend "flex" does all
    windows in one kernel ([`flex_windowed_attention`]).

    Args:
        query, key, value (`torch.Tensor` of shape `(B, h, w, F, heads, d)`): Tokens by position and frame.
        window (`int`, *optional*): Odd number of positions; `None` is the whole map.
        tile (`int`, *optional*): Side of the query tiles, in positions; by default what is fast on the device, be it rows.
        backend, parallel_config: For `dispatch_attention_fn` of diffusers.

    Returns:
        `torch.Tensor` of shape `(B, h, w, F, heads, d)`.
    """
    batch, height, width, frames, heads, dim = query.shape
    dispatch = {"dropout_p": 0.0, "is_causal": False, "backend": backend, "parallel_config": parallel_config}
    radius = max(height, width) if window is None else window // 2
    if radius >= max(height, width) - 1:  # every window holds the whole map
        if backend == AttentionBackendName.FLEX:  # which is for windows
            dispatch["backend"] = AttentionBackendName.NATIVE
        flat = (states.flatten(1, 3) for states in (query, key, value))
        return dispatch_attention_fn(*flat, **dispatch).unflatten(1, (height, width, frames))
    if radius == 0:  # along time, as AnimateDiff does it
        if backend == AttentionBackendName.FLEX:
            dispatch["backend"] = AttentionBackendName.NATIVE
        sequences = (states.flatten(0, 2) for states in (query, key, value))
        return dispatch_attention_fn(*sequences, **dispatch).unflatten(0, (batch, height, width))

    if backend == AttentionBackendName.FLEX:
        return flex_windowed_attention(query, key, value, radius)
    if tile is None:
        if parallel_config is None and _rows_pay(query, key, value):
            return row_windowed_attention(query, key, value, radius, partial(dispatch_attention_fn, **dispatch))
        tile = TILE_ON_CPU if query.device.type == "cpu" else TILE
    attended = torch.empty_like(query).flatten(1, 2)  # [B, h * w, F, heads, d]
    for group in _tile_groups(height, width, radius, tile):
        mask = group.mask(radius, query.device)
        mask = mask[:, None, :, None].expand(-1, frames, -1, frames).flatten(2, 3).flatten(0, 1)[None, None]
        per_tile = batch * mask.shape[-1] * heads * dim
        for tiles in group.split(max(1, _gathered_elements(query) // per_tile)):
            queries, keys = tiles.indices(width, query.device)
            states = dispatch_attention_fn(
                _gather(query, queries), _gather(key, keys), _gather(value, keys), attn_mask=mask, **dispatch
            )
            attended[:, queries.flatten()] = states.reshape(batch, -1, frames, heads, dim)
    return attended.unflatten(1, (height, width))


@dataclass(frozen=True)
class _Tiles:
    """Query tiles of one size that lie alike within their key regions (so they share a mask)."""

    rows: list[int]  # first row of each tile
    columns: list[int]
    size: tuple[int, int]  # of the tile
    region: tuple[int, int]  # size of its keys
    offset: tuple[int, int]  # of the tile within them

    def split(self, count: int) -> Iterator[_Tiles]:
        """At most `count` tiles at a time."""
        for i in range(0, len(self.rows), count):
            yield _Tiles(self.rows[i : i + count], self.columns[i : i + count], self.size, self.region, self.offset)

    def indices(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Flattened positions of the queries, `(tiles, queries)`, and of their keys, `(tiles, keys)`."""
        first = torch.tensor([row * width + column for row, column in zip(self.rows, self.columns)], device=device)

        def positions(size: tuple[int, int], first: Tensor) -> Tensor:
            y, x = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
            return first[:, None] + (y[:, None] * width + x).flatten()

        return positions(self.size, first), positions(self.region, first - (self.offset[0] * width + self.offset[1]))

    def mask(self, radius: int, device: torch.device) -> Tensor:
        """`(queries, keys)` bool: whether a key lies in a query's window."""
        near = [
            ((torch.arange(size, device=device) + offset)[:, None] - torch.arange(region, device=device)).abs()
            <= radius
            for size, region, offset in zip(self.size, self.region, self.offset)
        ]
        return (near[0][:, None, :, None] & near[1][None, :, None, :]).flatten(2, 3).flatten(0, 1)


def _tile_groups(height: int, width: int, radius: int, tile: int) -> list[_Tiles]:
    """Tiles that cover the map once, grouped by size and place."""
    groups: dict[tuple, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row, size_y, region_y, offset_y in _tile_spans(height, radius, tile):
        for column, size_x, region_x, offset_x in _tile_spans(width, radius, tile):
            rows, columns = groups[(size_y, size_x), (region_y, region_x), (offset_y, offset_x)]
            rows.append(row)
            columns.append(column)
    return [_Tiles(rows, columns, *alike) for alike, (rows, columns) in groups.items()]


def _tile_spans(length: int, radius: int, tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Along one axis: a tile's start, its size, the size of its key region, and its offset in that."""
    for start in range(0, length, tile):
        size = min(tile, length - start)
        region = min(length, size + 2 * radius)
        first = min(max(start - radius, 0), length - region)
        yield start, size, region, start - first


def _rows_pay(*states: Tensor) -> bool:
    """Whether windows are faster row by row than by tiles."""
    query = states[0]
    if query.device.type != "cpu" or (torch.is_grad_enabled() and any(state.requires_grad for state in states)):
        return False
    return query.shape[3] * query.element_size() >= _ROWS_PAY_FROM


def _gathered_elements(query: Tensor) -> int:
    """Key elements to gather at a time: bounds the memory of windowed attention at any map size."""
    if query.device.type == "cpu":
        return _GATHERED_ON_CPU
    return query.numel()


def _gather(states: Tensor, positions: Tensor) -> Tensor:
    """`(B, h, w, F, heads, d)` at `(tiles, P)` positions, as `(B * tiles, P * F, heads, d)`."""
    gathered = states.flatten(1, 2)[:, positions]  # [B, tiles, P, F, heads, d]
    return gathered.flatten(2, 3).flatten(0, 1)


# --- models/motion_transformer.py: The motion modules' transformer, told how far its attention reaches.


class SpatioTemporalTransformer3D(AnimateDiffTransformer3D):
    """AnimateDiff's motion transformer that tells its attention the size of the map and its window.

    Same weights, names and state dict as the stock class. Stock modules are turned into it by
    [`enable_spatio_temporal_attention`], which assigns the class: names, hooks and adapters on the module stay.
    """

    attention_windows: AttentionWindows
    temporal_heads: int
    bypassed: bool
    replace_input: Callable[[Tensor], Tensor] | None

    def forward(
        self,
        hidden_states: Tensor,  # [B * F, C, h, w]
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """As the stock module's, with its hidden states `(batch * frames, C, h, w)`."""
        if self.bypassed:
            return hidden_states
        if self.replace_input is not None:
            hidden_states = self.replace_input(hidden_states)
        height, width = hidden_states.shape[-2:]
        window = self.attention_windows.at(height, width)
        for block in self.transformer_blocks:
            _check_num_frames(block, num_frames)
            if window != 1:
                _check_processors(block)
        if window != 1:
            reach = {"spatial_size": (height, width), "spatial_window": window, "temporal_heads": self.temporal_heads}
            cross_attention_kwargs = {**(cross_attention_kwargs or {}), **reach}
        return super().forward(
            hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs
        )


def enable_spatio_temporal_attention(
    unet: nn.Module, windows: WindowSetting | AttentionWindows, temporal_heads: int = 0
) -> None:
    """Gives the motion modules of a U-Net dense spatio-temporal attention with these windows.

    Where every window is 1 the stock processors stay in place, so the U-Net is AnimateDiff's to the last bit.

    Args:
        unet (`UNetMotionModel`): Changed in place; its weights, their names and its state dict are not.
        windows ([`AttentionWindows`] or its setting): How far attention reaches.
        temporal_heads (`int`): How many of the motion modules' heads, the first ones, go on attending along time alone
            whatever the window is. 0 is the paper's attention. With some, much of what AnimateDiff learnt is kept, and
            only the other heads cost what dense attention costs.

    Raises:
        MVCustomError: for a wrong setting, or a U-Net without motion modules.
    """
    windows = AttentionWindows(windows)
    check_temporal_heads(unet, temporal_heads)
    transformers = _motion_transformers(unet)
    processor = AttnProcessor2_0 if windows.temporal_only else SpatioTemporalAttnProcessor
    for transformer in transformers:
        if not isinstance(transformer, SpatioTemporalTransformer3D):
            transformer.__class__ = SpatioTemporalTransformer3D
            transformer.bypassed = False
            transformer.replace_input = None
        transformer.attention_windows, transformer.temporal_heads = windows, temporal_heads
        for block in transformer.transformer_blocks:
            for attention in _attentions(block):
                if type(attention.processor) in (AttnProcessor2_0, SpatioTemporalAttnProcessor) or (
                    not windows.temporal_only
                ):
                    attention.set_processor(processor())


def disable_spatio_temporal_attention(unet: nn.Module) -> None:
    """Undoes [`enable_spatio_temporal_attention`]: the stock classes and processors are back."""
    enable_spatio_temporal_attention(unet, 1)
    for transformer in _motion_transformers(unet):
        transformer.__class__ = AnimateDiffTransformer3D
        del transformer.attention_windows, transformer.temporal_heads, transformer.bypassed, transformer.replace_input


@contextmanager
def motion_bypassed(unet: nn.Module) -> Iterator[None]:
    """Runs a U-Net as the image model that its spatial layers are: motion modules pass their input on unchanged.

    For single images such as reference photos, which have no motion to be seen.

    Raises:
        MVCustomError: if the motion modules are not [`SpatioTemporalTransformer3D`].
    """
    transformers = _motion_transformers(unet)
    if not all(isinstance(transformer, SpatioTemporalTransformer3D) for transformer in transformers):
        raise MVCustomError(
            "unet: call enable_spatio_temporal_attention(unet, 1) first; stock motion modules cannot be bypassed."
        )
    before = [transformer.bypassed for transformer in transformers]
    try:
        for transformer in transformers:
            transformer.bypassed = True
        yield
    finally:
        for transformer, bypassed in zip(transformers, before):
            transformer.bypassed = bypassed


@contextmanager
def motion_inputs_replaced(modules: Sequence[nn.Module], replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Lets motion modules see `replace(hidden_states)` in place of their hidden states, for this context.

    An attribute of the module and not a forward pre-hook: compiled modules look at their attributes in every call, but
    not at hooks that come later.

    Args:
        modules (sequence of [`SpatioTemporalTransformer3D`]): Whose inputs are replaced.
        replace (`Callable`): From hidden states `(batch * frames, C, h, w)` to others of the same shape.

    Raises:
        MVCustomError: for a module of another kind.
    """
    for module in modules:
        if not isinstance(module, SpatioTemporalTransformer3D):
            raise MVCustomError(
                f"modules: expected motion modules with spatio-temporal attention, got {type(module).__name__}; call "
                "enable_spatio_temporal_attention(unet, 1) first."
            )
    transformers = [module for module in modules if isinstance(module, SpatioTemporalTransformer3D)]
    before = [module.replace_input for module in transformers]
    try:
        for module in transformers:
            module.replace_input = replace
        yield
    finally:
        for module, replaced in zip(transformers, before):
            module.replace_input = replaced


def _motion_transformers(unet: nn.Module) -> list[AnimateDiffTransformer3D]:
    return [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]


def _attentions(block: BasicTransformerBlock) -> list[Attention]:
    return [attention for attention in (block.attn1, block.attn2) if attention is not None]


def check_temporal_heads(unet: nn.Module, temporal_heads: int) -> None:
    """Refuses a number of heads along time that a U-Net's motion modules cannot have.

    Raises:
        MVCustomError: for less than 0 or all of the heads, and for a U-Net without motion modules.
    """
    blocks = [block for module in _motion_transformers(unet) for block in module.transformer_blocks]
    if not blocks:
        raise MVCustomError(f"unet: expected motion modules, got {type(unet).__name__} without any.")
    heads = min(attention.heads for block in blocks for attention in _attentions(block))
    whole = isinstance(temporal_heads, int) and not isinstance(temporal_heads, bool)
    if not whole or not 0 <= temporal_heads < heads:
        raise MVCustomError(
            f"temporal_heads: expected a number of heads from 0 to {heads - 1} (the motion modules have {heads}), got "
            f"{temporal_heads!r}. For attention along time in all of them set the attention window to 1."
        )


def _check_num_frames(block: BasicTransformerBlock, num_frames: int) -> None:
    if block.pos_embed is not None and num_frames > (longest := block.pos_embed.pe.shape[1]):
        raise MVCustomError(
            f"num_frames: expected at most {longest} frames (motion_max_seq_length of the motion adapter), got "
            f"{num_frames}. Take fewer cameras, or a motion adapter with a longer sequence."
        )


def _check_processors(block: BasicTransformerBlock) -> None:
    """An attention processor put in place of ours would quietly fall back to attention along time only."""
    for attention in _attentions(block):
        if not isinstance(attention.processor, SpatioTemporalAttnProcessor):
            raise MVCustomError(
                "unet: expected the attention processor SpatioTemporalAttnProcessor in the motion modules, got "
                f"{type(attention.processor).__name__}. Attention slicing, fused projections, xformers and FreeNoise "
                "replace it; undo that (unet.set_attention_backend('xformers') keeps it), then call "
                "enable_spatio_temporal_attention or pipe.set_attention_window again."
            )


def fitting_motion_weights(unet: nn.Module, motion_adapter: nn.Module) -> dict[str, Tensor]:
    """A motion adapter's weights and buffers for a U-Net's motion modules, by the U-Net's names for them.

    Raises:
        MVCustomError: if one that the U-Net has is missing or of another shape.
    """
    own = {name: weight for name, weight in unet.state_dict().items() if "motion_modules." in name}
    given = motion_adapter.state_dict()
    unfit = [name for name, weight in own.items() if name not in given or given[name].shape != weight.shape]
    if unfit:
        found = f"shape {tuple(given[unfit[0]].shape)}" if unfit[0] in given else "none"
        raise MVCustomError(
            f"motion_adapter: it does not fit the model's U-Net: {len(unfit)} of {len(own)} weights, such as {unfit[0]}, of "
            f"which {tuple(own[unfit[0]].shape)} was expected and the adapter has {found}. Made for another model?"
        )
    return {name: given[name] for name in own}


# --- models/noise.py: Gaussian noise that one seed gives in every dtype.


def draw_noise(
    shape: Sequence[int],
    *,
    generator: torch.Generator | list[torch.Generator] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal noise, drawn in float32 (or a wider dtype) and rounded to `dtype`.

    Older versions of PyTorch draw half-precision noise on a CPU from other random bits than float32's: one seed would
    give another picture in each dtype.

    Args:
        shape (sequence of `int`): Shape of the noise.
        generator (`torch.Generator` or a list of them, *optional*): A CPU generator serves every device. A list has one
            for each row of the first axis.
        device (`torch.device`, *optional*): Where the noise is needed.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Floating dtype of the noise.

    Returns:
        `torch.Tensor` of shape `shape`.
    """
    dtype = torch.float32 if dtype is None else dtype
    drawn = torch.promote_types(dtype, torch.float32)
    return randn_tensor(tuple(shape), generator=generator, device=torch.device(device or "cpu"), dtype=drawn).to(dtype)


# --- cameras/distortion.py: Lens distortion: OpenCV's radial-tangential and fisheye models, and how to undo them.


@dataclass(frozen=True)
class Distortion:
    """Distortion coefficients that all photos of a capture share.

    Args:
        radial (`tuple` of `float`): k1, k2, ... (up to 6 radial ones, the 4th to 6th in the denominator, as in OpenCV; up
            to 4 for a fisheye lens).
        tangential (`tuple` of `float`): p1, p2.
        fisheye (`bool`): Whether the lens is OpenCV's equidistant fisheye.
    """

    radial: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)
    fisheye: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.radial, *self.tangential)
        if not all(map(is_finite_number, numbers)):
            raise CamerasError(f"distortion: expected finite coefficients, got {numbers}.")
        if len(self.radial) > (4 if self.fisheye else 6):
            raise CamerasError(
                f"distortion: expected at most 6 radial coefficients (4 for fisheye), got {len(self.radial)}."
            )

    @property
    def is_none(self) -> bool:
        """Whether all coefficients are 0 and the lens is no fisheye."""
        return not self.fisheye and not any((*self.radial, *self.tangential))

    def distort(self, points: Tensor) -> Tensor:
        """Normalised image points `(..., 2)` (at depth 1) of the pinhole camera, as the lens shows them."""
        x, y = points.unbind(-1)
        squared = x**2 + y**2
        k = (*self.radial, *(0.0,) * (6 - len(self.radial)))
        if self.fisheye:
            radius = squared.sqrt()
            theta = torch.atan(radius)
            bent = theta * (1 + theta**2 * (k[0] + theta**2 * (k[1] + theta**2 * (k[2] + theta**2 * k[3]))))
            return (
                points * torch.where(radius > 1e-9, bent / radius.clamp(min=1e-9), torch.ones_like(radius))[..., None]
            )
        p1, p2 = self.tangential
        radial = (1 + squared * (k[0] + squared * (k[1] + squared * k[2]))) / (
            1 + squared * (k[3] + squared * (k[4] + squared * k[5]))
        )
        return torch.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (squared + 2 * x**2),
                y * radial + p1 * (squared + 2 * y**2) + 2 * p2 * x * y,
            ],
            dim=-1,
        )


def undistort_image(
    image: Tensor,  # [C, H, W]
    intrinsics: Tensor,  # [3, 3]
    distortion: Distortion,
) -> Tensor:
    """The photo as the pinhole camera with the same intrinsics sees it; zeros where the lens saw nothing.

    Args:
        image (`torch.Tensor` of shape `(C, H, W)`): The photo.
        intrinsics (`torch.Tensor` of shape `(3, 3)`): In pixels, first pixel's centre at (0.5, 0.5).
        distortion ([`Distortion`]): The lens.
    """
    height, width = image.shape[-2:]
    intrinsics = intrinsics.double()
    focal, center = intrinsics.diagonal()[:2], intrinsics[:2, 2]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    points = (torch.stack([x, y], dim=-1) - center) / focal
    pixels = distortion.distort(points) * focal + center
    grid = pixels / torch.tensor([width, height], dtype=torch.float64) * 2 - 1
    return F.grid_sample(image[None].double(), grid[None], align_corners=False)[0].to(image.dtype)


# --- cameras/capture.py: A posed capture: cameras with the names and files of their photos, as the importers give it.


_LONGEST_PATH, _LONGEST_NAME = 1024, 255
"""In characters, and in bytes: what file systems take."""


@dataclass(frozen=True)
class Capture:
    """Photos with their cameras, in the world of the file that they came from.

    Args:
        cameras ([`Cameras`]): One per photo, in the file's order.
        names (`tuple` of `str`): The photos' names as the file has them.
        image_paths (`tuple` of `Path` or `None`): Where the photos are; `None` where the format does not say.
        mask_paths (`tuple` of `Path` or `None`): Subject masks (black is ignored).
        distortion ([`Distortion`], *optional*): Lens distortion of the photos; the cameras are those without it.
    """

    cameras: Cameras
    names: tuple[str, ...]
    image_paths: tuple[Path | None, ...]
    mask_paths: tuple[Path | None, ...]
    distortion: Distortion | None = None

    def __post_init__(self) -> None:
        check_kind("cameras", self.cameras, Cameras)
        for name in ("names", "image_paths", "mask_paths"):
            if len(getattr(self, name)) != len(self.cameras):
                raise CamerasError(
                    f"{name}: expected one per camera ({len(self.cameras)}), got {len(getattr(self, name))}."
                )

    def __len__(self) -> int:
        return len(self.cameras)

    def with_cameras(self, cameras: Cameras) -> Capture:
        """The same photos with other cameras, such as normalised ones."""
        return replace(self, cameras=cameras)


def complete_paths(paths: Sequence[Path | None]) -> list[Path] | None:
    """All of the paths; `None` if one is not known."""
    known = [path for path in paths if path is not None]
    return known if len(known) == len(paths) else None


def inside_folder(folder: Path, path: object, source: Path) -> Path:
    """`folder / path` for a path named in the file `source`, refused if it leads out of `folder`."""
    if not isinstance(path, str) or "\0" in path or not (pure := PurePosixPath(path.replace("\\", "/"))).parts:
        raise MVCustomError(f"{source}: expected the path of a file, got {path!r}.")
    if len(path) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in pure.parts):
        raise MVCustomError(f"{source}: expected the path of a file, got one that is too long: {path[:80]!r} ...")
    # Judged by its text: caches of the Hub are folders of links.
    if pure.is_absolute() or ".." in pure.parts or (len(pure.parts[0]) == 2 and pure.parts[0][1] == ":"):
        raise MVCustomError(f"{source}: expected files inside {folder}, got {path!r}, which leads out of it.")
    return folder / pure


def one_size(source: Path, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The photos' common (height, width).

    Raises:
        CamerasError: naming the sizes and how often each occurs, if there are several.
    """
    counts = Counter(sizes)
    if len(counts) != 1:
        found = ", ".join(f"{count} of {width} × {height}" for (height, width), count in counts.most_common())
        raise CamerasError(
            f"{source}: expected photos of one size, got {found}. Resize or crop them (and their intrinsics) to one size."
        )
    return next(iter(counts))


# --- subjects/reference_files.py: Reading and writing the files of [`ReferenceViews`].


TRANSFORMS_NAME = "transforms.json"
_EXIF_ORIENTATION = 0x0112
_INTRINSICS = ("fl_x", "fl_y", "cx", "cy")
_FRAME_KEYS = {"file_path", "transform_matrix", "name", "w", "h", *_INTRINSICS}
_OPTIONAL_FRAME_KEYS = {"mask_path", "caption"}
_OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0, 1.0])  # signs of the axes, which are a pose's columns


def read_image(
    file: str | PathLike[str],
    mode: str,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """An image file as a tensor.

    Args:
        file (`str` or path): A PNG or JPEG file, or any other that Pillow reads.
        mode (`str`): `"RGB"` or `"L"`.
        size (`tuple[int, int]`, *optional*): The height and width that it should have; with them it is decided
            whether an EXIF orientation is applied.

    Returns:
        `torch.Tensor` of shape `(3, H, W)` or `(1, H, W)` in [0, 1].

    Raises:
        MVCustomError: naming the file, if it cannot be read or has another size.
    """
    with opened_picture(file) as image:
        if size is not None and sorted((image.height, image.width)) != sorted(size):  # before it takes its memory
            raise _other_size(file, size, image)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        stored = image.convert(mode)
        displayed = ImageOps.exif_transpose(image).convert(mode) if orientation != 1 else stored
    chosen = stored
    if size is not None:
        fits = {
            name: (image.height, image.width) == size for name, image in (("stored", stored), ("displayed", displayed))
        }
        if orientation != 1 and all(fits.values()):
            raise MVCustomError(
                f"{file}: the photo carries an EXIF orientation ({orientation}) that leaves its size as it is, so it "
                "is open whether its camera refers to the stored or to the displayed pixels. Save it upright, without "
                "the orientation tag (and without the rotation if the cameras came from the stored pixels)."
            )
        if not any(fits.values()):
            raise _other_size(file, size, stored)
        chosen = stored if fits["stored"] else displayed
    pixels = torch.from_numpy(np.array(chosen, dtype=np.float32) / 255)
    return pixels.reshape(chosen.height, chosen.width, -1).permute(2, 0, 1).contiguous()


def _other_size(file: str | PathLike[str], size: tuple[int, int], image: Image.Image) -> MVCustomError:
    return MVCustomError(
        f"{file}: expected {size[0]} × {size[1]} pixels (height × width) as its camera, got {image.height} × "
        f"{image.width}."
    )


def save_reference_views(views: ReferenceViews, folder: Path) -> None:
    """Writes the views. See [`ReferenceViews.save`]."""
    frames = []
    for part, pixels in (("images", views.images), ("masks", views.masks)):
        if pixels is None:
            continue
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(pixels):
            array = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            Image.fromarray(array.squeeze(-1) if part == "masks" else array).save(folder / part / f"{i:03d}.png")
    poses = views.cameras.camera_to_world.double().cpu().numpy() * _OPENGL_TO_OPENCV
    intrinsics = views.cameras.intrinsics.double().cpu().numpy()
    for i in range(len(views)):
        matrix = intrinsics[i]
        frame: dict[str, Any] = {"file_path": f"images/{i:03d}.png"}
        if views.masks is not None:
            frame["mask_path"] = f"masks/{i:03d}.png"
        frame["name"] = views.names[i]
        if views.captions is not None:
            frame["caption"] = views.captions[i]
        frame |= {"w": views.width, "h": views.height}
        frame |= dict(zip(_INTRINSICS, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])))
        frame["transform_matrix"] = poses[i].tolist()
        frames.append(frame)
    content = {"camera_model": "PINHOLE", "frames": frames}
    (folder / TRANSFORMS_NAME).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_reference_views(cls: type[ReferenceViews], folder: Path) -> ReferenceViews:
    """Reads the views. See [`ReferenceViews.load`]."""
    file = folder / TRANSFORMS_NAME
    content = read_json(file, absent="; are the reference views missing?")
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or content.get("camera_model") != "PINHOLE":
        raise MVCustomError(f"{file}: expected camera_model 'PINHOLE' and a list of frames that is not empty.")
    for i, frame in enumerate(frames):
        _check_frame(file, i, frame)
    for key in _OPTIONAL_FRAME_KEYS:
        if 0 < sum(key in frame for frame in frames) < len(frames):
            raise MVCustomError(f"{file}: expected {key} in all frames or in none.")
    sizes = {(frame["h"], frame["w"]) for frame in frames}
    if len(sizes) > 1:
        raise MVCustomError(f"{file}: expected one image size (h, w) for all frames, got {sorted(sizes)}.")
    (height, width) = sizes.pop()
    intrinsics = torch.zeros(len(frames), 3, 3, dtype=torch.float64)
    for matrix, frame in zip(intrinsics, frames):
        matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = (frame[key] for key in _INTRINSICS)
        matrix[2, 2] = 1.0
    poses = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64) * _OPENGL_TO_OPENCV
    try:
        cameras = Cameras(torch.from_numpy(poses), intrinsics, height, width)
    except MVCustomError as error:
        raise MVCustomError(f"{file}: {error}") from error

    def read(key: str, mode: str) -> Tensor:
        files = (folder / inside(file, frame[key]) for frame in frames)
        return torch.stack([read_image(path, mode, (height, width)) for path in files])

    return cls(
        read("file_path", "RGB"),
        cameras,
        read("mask_path", "L") if "mask_path" in frames[0] else None,
        [frame["name"] for frame in frames],
        [frame["caption"] for frame in frames] if "caption" in frames[0] else None,
    )


def inside(file: Path, path: str) -> PurePosixPath:
    """`path` as a relative path, if it does not leave the folder that it is relative to.

    Judged by its text and not by where it leads: a Hub cache keeps its files as links to elsewhere.

    Raises:
        MVCustomError: naming `file`, in which the path stands.
    """
    relative = PurePosixPath(path)
    outside = relative.is_absolute() or ".." in relative.parts or any(c in path for c in "\\:\0")
    if outside or not relative.parts or len(path) > 1024 or any(len(part.encode()) > 255 for part in relative.parts):
        raise MVCustomError(f"{file}: expected paths inside the folder, got {path!r}.")
    return relative


def _check_frame(file: Path, index: int, frame: Any) -> None:
    where = f"{file}: frames[{index}]"
    if not isinstance(frame, dict):
        raise MVCustomError(f"{where}: expected an object, got {type(frame).__name__}.")
    if missing := sorted(_FRAME_KEYS - frame.keys()):
        raise MVCustomError(f"{where}: {missing} missing.")
    if unknown := sorted(frame.keys() - _FRAME_KEYS - _OPTIONAL_FRAME_KEYS):
        raise MVCustomError(f"{where}: unknown keys {unknown}.")
    for key in ("file_path", "mask_path", "name", "caption"):
        if not isinstance(frame.get(key, ""), str):
            raise MVCustomError(f"{where}.{key}: expected a text, got {frame[key]!r}.")
    for key in ("w", "h"):
        if isinstance(frame[key], bool) or not isinstance(frame[key], int):
            raise MVCustomError(f"{where}.{key}: expected a whole number, got {frame[key]!r}.")
    for key in _INTRINSICS:
        if not is_finite_number(frame[key]):
            raise MVCustomError(f"{where}.{key}: expected a number, got {frame[key]!r}.")
    matrix = frame["transform_matrix"]
    rows = matrix if isinstance(matrix, list) and len(matrix) == 4 else [None]
    if not all(isinstance(row, list) and len(row) == 4 and all(map(is_finite_number, row)) for row in rows):
        raise MVCustomError(f"{where}.transform_matrix: expected 4 × 4 numbers, got {matrix!r}.")


# --- subjects/reference_views.py: The posed photos of a subject that travel with it.


@dataclass(frozen=True, eq=False)
class ReferenceViews:
    """N posed images of one size, in the subject frame.

    Pixel values are kept at 8 bits (rounded to multiples of 1/255): what is saved is exactly what is used.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        cameras ([`Cameras`]): The images' cameras, of the same height and width.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): 1 where the subject is, 0 elsewhere.
        names (`list[str]`, defaults to `["view 0", ...]`): The photos' names, for messages and the record.
        captions (`list[str]`, *optional*): A text for each photo.

    Raises:
        MVCustomError: naming the argument, if shapes do not fit or values are not in [0, 1].
    """

    images: Tensor  # [N, 3, H, W]
    cameras: Cameras
    masks: Tensor | None = None  # [N, 1, H, W]
    names: Sequence[str] = ()
    captions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        cameras = self.cameras
        for name, channels in (("images", 3), ("masks", 1)):
            pixels = getattr(self, name)
            if pixels is None and name == "masks":
                continue
            expected = (len(cameras), channels, cameras.height, cameras.width)
            if not isinstance(pixels, Tensor) or tuple(pixels.shape) != expected:
                got = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
                raise MVCustomError(f"{name}: expected shape {expected} to match the cameras, got {got}.")
            pixels = pixels.float()
            if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
                low, high = pixels.min().item(), pixels.max().item()
                raise MVCustomError(f"{name}: expected values in [0, 1], got {low:.4g} to {high:.4g}.")
            object.__setattr__(self, name, (pixels * 255).round() / 255)
        names = self.names or [f"view {i}" for i in range(len(cameras))]
        object.__setattr__(self, "names", _texts("names", names, len(cameras)))
        if self.captions is not None:
            object.__setattr__(self, "captions", _texts("captions", self.captions, len(cameras)))
        object.__setattr__(self, "cameras", cameras.to(device=self.images.device, dtype=torch.float32))

    @classmethod
    def from_capture(cls, capture: Capture, *, height: int | None = None, width: int | None = None) -> ReferenceViews:
        """Reads the photos and masks of a capture.

        Args:
            capture ([`Capture`]): Cameras in the subject frame with the paths of their images, for example
                `loaded.with_cameras(normalize_cameras(loaded.cameras)[0])`. Lens distortion is undone.
            height (`int`, *optional*), width (`int`, *optional*): Size of the views; photos of another size are
                covered (see [`~ReferenceViews.cover`]) one by one, so large photos fit into memory. By default the
                photos' own size.

        Raises:
            MVCustomError: naming the file, if an image cannot be read or its size is not that of its camera.

        A camera file's poses may refer to the pixels as stored in the file or as displayed, which differ when the
        photo carries an EXIF orientation. Whichever of the two has the camera's size is taken; if both have it, the
        photo is refused, because a guess would silently turn it upside down.
        """
        if (height is None) != (width is None):
            raise MVCustomError(f"height, width: expected both or neither, got {height} and {width}.")
        cameras = capture.cameras.to(dtype=torch.float32)
        without_image = [name for name, path in zip(capture.names, capture.image_paths) if path is None]
        without_mask = [name for name, path in zip(capture.names, capture.mask_paths) if path is None]
        images_at, masks_at = complete_paths(capture.image_paths), complete_paths(capture.mask_paths)
        if images_at is None:
            raise MVCustomError(f"capture: expected an image for every camera, there is none for {without_image}.")
        if masks_at is None and len(without_mask) < len(capture):
            raise MVCustomError(f"capture: expected masks for all photos or for none, they lack for {without_mask}.")
        target = cameras if height is None or width is None else cameras.cover(height, width)

        def read(path: Path, mode: str, index: int) -> Tensor:
            pixels = read_image(path, mode, (cameras.height, cameras.width))
            if capture.distortion is not None:
                pixels = undistort_image(pixels, capture.cameras.intrinsics[index], capture.distortion)
            return pixels if height is None else resample(pixels[None], cameras[index], target[index])[0]

        images = torch.stack([read(path, "RGB", i) for i, path in enumerate(images_at)])
        masks = None
        if masks_at is not None:
            masks = torch.stack([read(path, "L", i) for i, path in enumerate(masks_at)])
        return cls(images, target, masks, capture.names)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: int | slice | Iterable[int]) -> ReferenceViews:
        """The views selected by `index`, always a batch."""
        if isinstance(index, int):
            indices = [range(len(self))[index]]
        else:
            indices = list(range(len(self))[index]) if isinstance(index, slice) else [int(i) for i in index]
        return ReferenceViews(
            self.images[indices],
            self.cameras[indices],
            None if self.masks is None else self.masks[indices],
            [self.names[i] for i in indices],
            None if self.captions is None else [self.captions[i] for i in indices],
        )

    @property
    def height(self) -> int:
        """Height of the views in pixels."""
        return self.cameras.height

    @property
    def width(self) -> int:
        """Width of the views in pixels."""
        return self.cameras.width

    def to(self, device: torch.device | str) -> ReferenceViews:
        """The same views on another device."""
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, images=self.images.to(device), masks=masks, cameras=self.cameras.to(device))

    def select(self, count: int) -> ReferenceViews:
        """`count` views, their directions from the subject spread as evenly as the photos allow, in the photos' order.

        Farthest-point selection from the view nearest to the mean direction: deterministic, and all views if there
        are no more than `count`.
        """
        if isinstance(count, bool) or count != int(count) or count < 1:
            raise MVCustomError(f"count: expected a whole number of views of at least 1, got {count!r}.")
        if count >= len(self):
            return self
        directions = _viewing_directions(self.cameras)
        chosen = [int((directions @ directions.mean(dim=0)).argmax())]
        while len(chosen) < count:
            nearest = (directions @ directions[chosen].T).amax(dim=1)  # cosine to the nearest chosen view
            nearest[chosen] = math.inf
            chosen.append(int(nearest.argmin()))
        return self[sorted(chosen)]

    def resize(self, height: int, width: int) -> ReferenceViews:
        """The views resampled to `height` × `width`, each axis on its own, with their cameras."""
        return self._resampled(self.cameras.resize(height, width))

    def cover(self, height: int, width: int) -> ReferenceViews:
        """The views resized evenly to cover `height` × `width` and cropped at the centre; see [`Cameras.cover`]."""
        return self._resampled(self.cameras.cover(height, width))

    def fit_area(self, area: int, multiple: int) -> ReferenceViews:
        """The views at about `area` pixels with their own aspect ratio, both sides multiples of `multiple`."""
        scale = math.sqrt(area / (self.height * self.width))
        height, width = (max(1, round(side * scale / multiple)) * multiple for side in (self.height, self.width))
        return self.cover(height, width)

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes `transforms.json` (nerfstudio's format), `images/` and `masks/` as PNG, without any loss."""
        save_reference_views(self, Path(folder))

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> ReferenceViews:
        """Reads what [`~ReferenceViews.save`] wrote.

        Raises:
            MVCustomError: naming the file, if something is missing, malformed, or outside of the folder.
        """
        return load_reference_views(cls, Path(folder))

    def _resampled(self, cameras: Cameras) -> ReferenceViews:
        if (cameras.height, cameras.width) == (self.height, self.width) and cameras.allclose(self.cameras):
            return self
        images = resample(self.images, self.cameras, cameras)
        masks = None if self.masks is None else resample(self.masks, self.cameras, cameras)
        return replace(self, images=images, masks=masks, cameras=cameras)


def resample(
    pixels: Tensor,  # [N, C, H, W]
    before: Cameras,
    after: Cameras,
) -> Tensor:
    """Images of the cameras `before` as images of `after`, where `after = before.resize(...)` or `.cover(...)`.

    The new size and the crop are read off the intrinsics, so images and cameras cannot disagree.
    """
    scale = (after.focal / before.focal)[0]
    width, height = round(before.width * scale[0].item()), round(before.height * scale[1].item())
    shift = before.intrinsics[0, :2, 2] * scale - after.intrinsics[0, :2, 2]
    left, top = (round(value) for value in shift.tolist())
    resized = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized[..., top : top + after.height, left : left + after.width].clamp(0, 1)


def _viewing_directions(cameras: Cameras) -> Tensor:
    """Unit directions from the subject (the origin) to each camera, `(N, 3)`."""
    distance = cameras.centers.norm(dim=-1, keepdim=True)
    at_origin = distance < 1e-6
    return torch.where(at_origin, -cameras.optical_axes, cameras.centers / distance.clamp(min=1e-6))


def _texts(name: str, texts: Iterable[str], count: int) -> tuple[str, ...]:
    texts = tuple(texts)
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise MVCustomError(f"{name}: expected {count} texts, one for each view, got {texts!r}.")
    return texts


# --- subjects/unet_blocks.py: Which transformer blocks of a U-Net can be pose-conditioned, in which order they run, and at which size.


def text_conditioned_blocks(unet: ModelMixin) -> dict[str, int]:
    """The spatial transformer blocks with text cross-attention, in the order in which the U-Net runs them.

    Args:
        unet (`UNetMotionModel` or `UNet2DConditionModel`): The U-Net.

    Returns:
        `dict`: Channels of each block by its module name, as in `unet.named_modules()`. The blocks of motion modules
        are not among them.

    Raises:
        MVCustomError: for another kind of model.
    """
    return {name: block.dim for name, block in _blocks(unet)}


def default_blocks(unet: ModelMixin) -> list[str]:
    """The blocks that a subject conditions unless it is told otherwise.

    The last block of the down path, the mid block, and every block of the up path whose feature map is 1/2 or 1/4 of
    the latents: there the layout of a view is decided, and rays are few. In Stable Diffusion 1.5 these are the last
    block of `down_blocks.2`, the mid block, and the three blocks each of `up_blocks.1` and `up_blocks.2` (8 of 16).
    """
    names = list(text_conditioned_blocks(unet))
    last_down = [name for name in names if name.startswith("down_blocks.")][-1:]
    chosen = [
        name
        for name in names
        if name in last_down
        or name.startswith("mid_block.")
        or (name.startswith("up_blocks.") and _level(unet, name) in (1, 2))
    ]
    return chosen or names


def select_blocks(unet: ModelMixin, blocks: str | Sequence[str] | None = None) -> dict[str, int]:
    """Channels of the chosen blocks by name, in the order in which the U-Net runs them.

    Args:
        unet (`UNetMotionModel`): The U-Net.
        blocks (`str` or `list[str]`, *optional*): Names of blocks, or one regular expression that has to match a whole
            name. By default see [`default_blocks`].

    Raises:
        MVCustomError: if a name is unknown or nothing matches; the message lists the blocks that there are.
    """
    available = text_conditioned_blocks(unet)
    if blocks is None:
        chosen = set(default_blocks(unet))
    elif isinstance(blocks, str):
        try:
            pattern = re.compile(blocks)
        except re.error as error:
            raise MVCustomError(f"blocks: {blocks!r} is not a regular expression: {error}.") from error
        chosen = {name for name in available if pattern.fullmatch(name)}
    else:
        chosen = set(blocks)
    unknown = sorted(chosen - available.keys())
    if unknown or not chosen:
        problem = f"does not know {unknown}" if unknown else f"has none that matches {blocks!r}"
        raise MVCustomError(
            f"blocks: expected text-conditioned transformer blocks of the U-Net, which {problem}. Available: "
            f"{list(available)}."
        )
    return {name: channels for name, channels in available.items() if name in chosen}


def feature_map_size(unet: nn.Module, block_name: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of the feature map at a block, for latents of `height` × `width`."""
    for _ in range(_level(unet, block_name)):  # stride 2 with padding 1 rounds sizes up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _blocks(unet: ModelMixin) -> Iterator[tuple[str, BasicTransformerBlock]]:
    if not all(isinstance(getattr(unet, part, None), nn.Module) for part in ("down_blocks", "mid_block", "up_blocks")):
        raise MVCustomError(
            f"unet: expected a U-Net with down_blocks, mid_block and up_blocks, got {type(unet).__name__}."
        )
    parts = [(f"down_blocks.{i}", part) for i, part in enumerate(unet.down_blocks)]
    parts.append(("mid_block", unet.mid_block))
    parts += [(f"up_blocks.{i}", part) for i, part in enumerate(unet.up_blocks)]
    for part_name, part in parts:
        for j, transformer in enumerate(getattr(part, "attentions", None) or ()):
            for k, block in enumerate(getattr(transformer, "transformer_blocks", None) or ()):
                if isinstance(block, BasicTransformerBlock) and block.attn2 is not None:
                    yield f"{part_name}.attentions.{j}.transformer_blocks.{k}", block


def _level(unet: ModelMixin, block_name: str) -> int:
    """How many times the latents are halved on the way to the block."""
    halvings = [0]  # before each down block, then after all
    for down_block in unet.down_blocks:
        halvings.append(halvings[-1] + (1 if down_block.downsamplers else 0))
    kind, index = block_name.split(".")[:2]
    if kind == "mid_block":
        return halvings[-1]
    return halvings[int(index)] if kind == "down_blocks" else halvings[len(unet.down_blocks) - 1 - int(index)]


# --- subjects/rendering.py: From reference views to the subject's features at target cameras, through all pose-conditioned blocks.


@dataclass
class SubjectRendering:
    """A subject as its pose-conditioned blocks see it from M target cameras, for T texts.

    Args:
        blocks (`dict[str, RenderedFeatures]`): What each block's FeatureNeRF rendered, by block name in execution order;
            the batch axis has length 1.
    """

    blocks: dict[str, RenderedFeatures]

    @property
    def features(self) -> dict[str, Tensor]:
        """X_y of each block, `(T, M, height * width, channels)`."""
        return {name: rendered.features[0] for name, rendered in self.blocks.items()}

    @property
    def opacity(self) -> Tensor:
        """The subject's opacity in the last block, the finest of the up path, `(M, h, w)`."""
        return self._last.opacity[0]

    @property
    def depth(self) -> Tensor:
        """Expected depth of the subject in the last block, in the cameras' z, `(M, h, w)`."""
        return self._last.depth[0]

    @property
    def rgb(self) -> Tensor | None:
        """The subject's rendered colours in the last block, `(M, h, w, 3)` in [0, 1], if the FeatureNeRF predicts them."""
        return None if self._last.rgb is None else self._last.rgb[0]

    @property
    def _last(self) -> RenderedFeatures:
        return list(self.blocks.values())[-1]


@torch.no_grad()
def collect_reference_features(
    adapter: SubjectAdapter,
    unet: nn.Module,
    reference_latents: Tensor,  # [V, 4, h, w]
    reference_prompt_embeds: Tensor,  # [1, L, D] or [V, L, D]
    *,
    scheduler: Any = None,
    generator: torch.Generator | None = None,
    added_cond_kwargs: dict[str, Any] | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """What the pose-conditioned blocks see in the reference views: one U-Net call, without gradients.

    The views run as single images: motion modules are bypassed.

    Args:
        adapter ([`SubjectAdapter`]): A subject that is attached to `unet`.
        unet (`UNetMotionModel`): The U-Net.
        reference_latents (`torch.Tensor` of shape `(V, 4, h, w)`): Clean latents, scaled as the U-Net takes them.
        reference_prompt_embeds (`torch.Tensor` of shape `(1, L, D)` or `(V, L, D)`): Text states of the reference prompt.
        scheduler (*optional*): Adds the noise of `config.reference_timestep`; needed only if that is above 0.
        generator (`torch.Generator`, *optional*): For that noise.
        added_cond_kwargs, cross_attention_kwargs (`dict`, *optional*): Passed to the U-Net (for IP-Adapter's image states
            with one row a view, and LoRA's scale).

    Returns:
        `dict[str, torch.Tensor]`: Features `(V, channels, height, width)` by block name.
    """
    if not adapter.is_attached:
        raise MVCustomError(f"subject {adapter.config.token!r} is not attached to a U-Net; call attach(unet) first.")
    count = len(reference_latents)
    if reference_latents.ndim != 4 or len(reference_prompt_embeds) not in (1, count):
        raise MVCustomError(
            "reference_latents, reference_prompt_embeds: expected shapes (V, C, h, w) and (1, L, D) or (V, L, D), got "
            f"{tuple(reference_latents.shape)} and {tuple(reference_prompt_embeds.shape)}."
        )
    timestep = torch.full((count,), adapter.config.reference_timestep, device=reference_latents.device)
    if adapter.config.reference_timestep > 0:
        if scheduler is None:
            raise MVCustomError("scheduler: needed to add the noise of the subject's reference_timestep.")
        if adapter.config.reference_timestep >= scheduler.config.num_train_timesteps:
            raise MVCustomError(
                f"reference_timestep: expected one of the scheduler's {scheduler.config.num_train_timesteps}, got "
                f"{adapter.config.reference_timestep}."
            )
        noise = draw_noise(
            reference_latents.shape,
            generator=generator,
            device=reference_latents.device,
            dtype=reference_latents.dtype,
        )
        reference_latents = scheduler.add_noise(reference_latents, noise, timestep)
    with adapter.conditioning.collecting() as collected, motion_bypassed(unet):
        unet(
            reference_latents[:, :, None],  # V videos of one frame
            timestep,
            encoder_hidden_states=reference_prompt_embeds.expand(count, -1, -1),
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )
    features = {}
    for name in adapter.block_names:
        states = collected[name]
        height, width = feature_map_size(unet, name, *reference_latents.shape[-2:])
        if states.shape[1] != height * width:
            raise MVCustomError(
                f"block {name!r}: expected a feature map of {height} × {width} for latents of "
                f"{tuple(reference_latents.shape[-2:])}, got {states.shape[1]} positions."
            )
        features[name] = states.transpose(1, 2).unflatten(2, (height, width))
    return features


def render_features(
    adapter: SubjectAdapter,
    unet: nn.Module,
    reference_features: Mapping[str, Tensor],  # [V, C, h_r, w_r] by block name
    references: ReferenceViews | Cameras,
    prompt_embeds: Tensor | None,  # [T, L, D]
    cameras: Cameras,
    latent_size: tuple[int, int],
    *,
    reference_masks: Tensor | None = None,  # [V, 1, H, W]
    stratified: bool = False,
    importance_sampling: bool = True,
    generator: torch.Generator | None = None,
    rays_per_chunk: int | None = None,
) -> SubjectRendering:
    """Renders the subject at target cameras, block by block in the order in which the U-Net runs them.

    Each block's FeatureNeRF samples its rays where the block before it found the subject. With gradients enabled they
    reach the FeatureNeRFs, the prompt embeddings, and whatever of the blocks' text attention is trained.

    Args:
        adapter ([`SubjectAdapter`]): A subject that is attached to `unet`.
        unet (`UNetMotionModel`): The U-Net.
        reference_features (`dict[str, torch.Tensor]`): From [`collect_reference_features`].
        references ([`ReferenceViews`] or [`Cameras`]): The V reference views (their masks are used), or only their
            cameras, of any pixel size that has the reference latents' field of view.
        prompt_embeds (`torch.Tensor` of shape `(T, L, D)`, *optional*): Text states. T texts share one geometry. Without
            them T is 1 and there is no text in the features.
        cameras ([`Cameras`]): The M target cameras, of any pixel size that has the target latents' field of view.
        latent_size (`tuple[int, int]`): Height and width of the target latents.
        reference_masks (`torch.Tensor` of shape `(V, 1, H, W)`, *optional*): Replaces the masks of `references`; 0 where a
            reference has nothing to say.
        stratified (`bool`, *optional*, defaults to `False`): Whether to jitter the samples on the rays (for training).
        importance_sampling (`bool`, *optional*, defaults to `True`): Whether a block samples where the last one found
            the subject.
        generator (`torch.Generator`, *optional*): For the jitter.
        rays_per_chunk (`int`, *optional*): Bounds the memory.
    """
    if not adapter.is_attached:
        raise MVCustomError(f"subject {adapter.config.token!r} is not attached to a U-Net; call attach(unet) first.")
    if isinstance(references, ReferenceViews):
        reference_masks = references.masks if reference_masks is None else reference_masks
        references = references.cameras
    blocks: dict[str, RenderedFeatures] = {}
    previous = None
    for name in adapter.block_names:
        features = reference_features[name]
        if len(features) != len(references):
            raise MVCustomError(
                f"reference_features[{name!r}]: expected {len(references)} views as the reference cameras, got "
                f"{len(features)}."
            )
        height, width = feature_map_size(unet, name, *latent_size)
        source = _on(references.resize(*features.shape[-2:]), features)
        target = _on(cameras.resize(height, width), features)
        masks = None
        if reference_masks is not None:
            masks = F.interpolate(reference_masks.to(features), features.shape[-2:], mode="area")[:, 0][None]
        rendered = adapter.conditioner(name).feature_nerf(
            features[None],
            source.camera_to_world[None],
            source.intrinsics[None],
            target.camera_to_world[None],
            target.intrinsics[None],
            height,
            width,
            reference_masks=masks,
            encoder_hidden_states=None if prompt_embeds is None else prompt_embeds[None],
            attend_text=None if prompt_embeds is None else unet.get_submodule(name).attend_text,
            previous=previous if importance_sampling else None,
            stratified=stratified,
            generator=generator,
            rays_per_chunk=rays_per_chunk,
        )
        blocks[name] = rendered
        previous = rendered.ray_distribution
    return SubjectRendering(blocks)


def render_subject_features(
    adapter: SubjectAdapter,
    unet: nn.Module,
    *,
    reference_latents: Tensor,  # [V, 4, h_r, w_r]
    references: ReferenceViews | Cameras,
    reference_prompt_embeds: Tensor,  # [1, L, D]
    prompt_embeds: Tensor | None,  # [T, L, D]
    cameras: Cameras,
    latent_size: tuple[int, int],
    scheduler: Any = None,
    added_cond_kwargs: dict[str, Any] | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> SubjectRendering:
    """[`collect_reference_features`] and [`render_features`] in one call; see there for the arguments.

    The result depends on the references, the texts and the cameras, but not on noise or timestep, so one call serves a
    whole generation. `options` go to [`render_features`].
    """
    features = collect_reference_features(
        adapter,
        unet,
        reference_latents,
        reference_prompt_embeds,
        scheduler=scheduler,
        generator=generator,
        added_cond_kwargs=added_cond_kwargs,
        cross_attention_kwargs=cross_attention_kwargs,
    )
    return render_features(
        adapter, unet, features, references, prompt_embeds, cameras, latent_size, generator=generator, **options
    )


def _on(cameras: Cameras, features: Tensor) -> Cameras:
    """Cameras stay in float32: half precision loses whole pixels."""
    return replace(
        cameras,
        camera_to_world=cameras.camera_to_world.to(features.device, torch.float32),
        intrinsics=cameras.intrinsics.to(features.device, torch.float32),
    )


# --- pipelines/subject_features.py: The subject as the views of one window need it; every camera is rendered once, whatever window it is in.


@dataclass(frozen=True)
class SubjectFeatures:
    """What a generation uses of a [`SubjectRendering`].

    Args:
        features (mapping): X_y by block, each `(texts, frames, pixels, C)`.
        depth (`torch.Tensor` of shape `(frames, h, w)`), opacity (`torch.Tensor` of shape `(frames, h, w)`): Of the last
            block.
    """

    features: Mapping[str, Tensor]
    depth: Tensor  # [M, h, w]
    opacity: Tensor  # [M, h, w]

    @classmethod
    def of(cls, rendering: SubjectRendering) -> SubjectFeatures:
        """The parts of a rendering that a call keeps."""
        return cls(rendering.features, rendering.depth, rendering.opacity)

    @classmethod
    def of_frames(cls, parts: Sequence[SubjectFeatures]) -> SubjectFeatures:
        """Joins features of single frames, in order."""
        return cls(
            {name: torch.cat([part.features[name] for part in parts], dim=1) for name in parts[0].features},
            torch.cat([part.depth for part in parts]),
            torch.cat([part.opacity for part in parts]),
        )

    def frame(self, index: int) -> SubjectFeatures:
        """The features of one frame."""
        one = slice(index, index + 1)
        return SubjectFeatures(
            {name: states[:, one] for name, states in self.features.items()}, self.depth[one], self.opacity[one]
        )

    def clone(self) -> SubjectFeatures:
        """A copy that does not keep the other frames alive."""
        features = {name: states.clone() for name, states in self.features.items()}
        return SubjectFeatures(features, self.depth.clone(), self.opacity.clone())


class SubjectOfWindows:
    """Renders the subject window by window, and keeps the views that later windows know.

    Args:
        render (`Callable`): `render(cameras) -> SubjectRendering`, see `MVCustomPipeline.subject_renderer`.
        cameras ([`Cameras`]): All target cameras at the size of the views.
    """

    def __init__(self, render: Callable[[Cameras], SubjectRendering], cameras: Cameras) -> None:
        self._render: Callable[[Cameras], SubjectRendering] | None = render
        self._cameras = cameras
        self._kept: dict[int, SubjectFeatures] = {}

    def of_window(self, frames: Sequence[int], needed_later: Collection[int], last: bool) -> SubjectFeatures:
        """The features of `frames`, in this order. What is not `needed_later` is not kept; after the `last` nothing is."""
        new = [frame for frame in frames if frame not in self._kept]
        parts = dict(self._kept)
        features = None
        if new:
            assert self._render is not None  # given up after the last window only
            features = SubjectFeatures.of(self._render(self._cameras[new]))
            parts |= {frame: features.frame(i) for i, frame in enumerate(new)}
        if features is None or len(new) < len(frames):
            features = SubjectFeatures.of_frames([parts[frame] for frame in frames])
        self._kept = {frame: kept for frame, kept in self._kept.items() if frame in needed_later}
        self._kept |= {frame: parts[frame].clone() for frame in new if frame in needed_later}
        if last:
            self._render = None  # with it go the references' features
        return features


# --- pipelines/view_windows.py: How a long camera path is cut into windows of views that go through the U-Net together.


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


# --- pipelines/anchors.py: From noise, or a known view, to the anchor's geometry: preview pass, depth estimate, alignment.


logger = logging.get_logger(__name__)

_OPAQUE = 0.5
"""Opacity above which a pixel of the rendered subject gives the depth estimate something to be fitted to."""

_CLEAR = 0.1
"""Opacity below which a pixel is none of the subject's."""

_SURROUNDINGS = 3.0
"""What is around the subject counts so much more than the subject: it is what is rendered into the other views."""

_AGREES, _SUBJECT_AGREES = 0.15, 0.3
"""Median relative error of the depth up to which the surroundings and the subject agree with a fit to both. A picture's
subject need not stand quite where its ground is, unless it is rendered into the other views, too."""

_LEAST_GROUND = 0.05
"""Share of a view's pixels in which the ground has to be seen."""

_EVERYTHING = 0.9
"""Share of opaque pixels from which on a rendered subject cannot be told from its surroundings."""


def resolve_anchor_depth(depth: Tensor, batch_size: int, num_anchors: int) -> Tensor:
    """Given z-depth of the anchor frames as `(batch, anchors, H, W)`, from any accepted shape.

    Raises:
        MVCustomError: for another shape, or depth that is not finite and above 0.
    """
    given = torch.as_tensor(depth, dtype=torch.float32)
    expanded = given[None] if given.ndim == 2 else given
    expanded = expanded[None].expand(batch_size, *expanded.shape) if expanded.ndim == 3 else expanded
    if expanded.ndim != 4 or expanded.shape[:2] != (batch_size, num_anchors):
        raise MVCustomError(
            f"anchor_depth: expected shape (H, W), ({num_anchors}, H, W) or ({batch_size}, {num_anchors}, H, W), one "
            f"map per anchor, got {tuple(given.shape)}."
        )
    if not (expanded.isfinite().all() and (expanded > 0).all()):
        raise MVCustomError("anchor_depth: expected finite z-depth above 0 at every pixel.")
    return expanded


def known_views(
    pipe: MVCustomPipeline,
    anchors: tuple[int, ...],
    images: Tensor | None,  # [B, A, 3, H, W] in [0, 1]
    depth: Tensor | None,  # [B, A, H, W]
    latents: Tensor,  # [B, C, N, h, w]
) -> AnchorViews:
    """What is known of the anchors before any view is generated: given images, encoded, and given depth."""
    known = AnchorViews()
    if depth is not None:
        known.depth.update(zip(anchors, depth.to(latents.device).unbind(1)))
    if images is not None:
        images = images.to(latents.device)
        for frame, views in zip(anchors, images.unbind(1)):
            pixels = views.to(pipe.vae.dtype) * 2 - 1
            encoded = torch.cat([pipe.vae.encode(image[None]).latent_dist.mode() for image in pixels])
            known.latents[frame] = (encoded * pipe.vae.config.scaling_factor).to(latents.dtype)
            known.images[frame] = views
    return known


@dataclass
class AnchorViews:
    """What is known of the anchors of a whole call, window by window.

    Args:
        depth (`dict[int, torch.Tensor]`): z-depth `(batch, H, W)` by frame, given or once estimated.
        images (`dict[int, torch.Tensor]`): Given views `(batch, 3, H, W)` in [0, 1] by frame.
        latents (`dict[int, torch.Tensor]`): Clean latents `(batch, channels, h, w)` of known views by frame.
        surfaces (`dict[int, torch.Tensor]`): z-depth `(batch, h, w)` by frame of what earlier anchors saw of it, infinite
            elsewhere. What the depth estimate of a view that is handed over is fitted to.
        used (`dict[int, None]`): The frames that anchored the geometry, in order.
        ground_height (`float`, *optional*): Of the plane under the subject, once it is known.
    """

    depth: dict[int, Tensor] = field(default_factory=dict)
    images: dict[int, Tensor] = field(default_factory=dict)
    latents: dict[int, Tensor] = field(default_factory=dict)
    surfaces: dict[int, Tensor] = field(default_factory=dict)
    used: dict[int, None] = field(default_factory=dict)
    ground_height: float | None = None

    def stacked_depth(self, frames: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The depth of `frames` as `(batch, frames, H, W)`; maps of different sizes are brought to `size`."""
        maps = [self.depth[frame] for frame in frames]
        if len({tuple(depth.shape) for depth in maps}) > 1:
            maps = [F.interpolate(depth[:, None], size=size, mode="nearest-exact")[:, 0] for depth in maps]
        return torch.stack(maps, dim=1)


class AnchorPreparation:
    """Makes the anchor geometry of one window when the first hook asks for it, and keeps it.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        settings ([`AnchorSettings`]): Preview and alignment.
        window ([`ViewWindow`]): The frames and the anchors among them.
        cameras ([`Cameras`]): The cameras of the window's frames at the size of the views.
        latents (`torch.Tensor` of shape `(batch, channels, frames, h, w)`): The initial noise of the window.
        conditions ([`Conditions`]): What conditions the preview pass.
        subject ([`SubjectFeatures`], *optional*): The subject's rendered depth and opacity in the window's frames.
        views ([`AnchorViews`]): What is known; what is estimated here goes in.
        extra_step_kwargs (`dict`): For the scheduler's step.
    """

    def __init__(
        self,
        pipe: MVCustomPipeline,
        settings: AnchorSettings,
        window: ViewWindow,
        cameras: Cameras,
        latents: Tensor,
        conditions: Conditions,
        subject: SubjectFeatures | None,
        views: AnchorViews,
        extra_step_kwargs: dict[str, Any],
    ) -> None:
        self.pipe = pipe
        self.settings = settings
        self.window = window
        self.cameras = cameras
        self.latents = latents
        self.conditions = conditions
        self.subject = subject
        self.views = views
        self.extra_step_kwargs = extra_step_kwargs
        self.prepared: AnchorGeometry | None = None

    def geometry(self) -> AnchorGeometry:
        """The anchor geometry. The first call estimates what depth is not known, after a preview for what is not seen."""
        if self.prepared is None:
            anchors = self.window.anchors
            if not anchors:
                raise MVCustomError(
                    "hooks: a hook asks for the anchor geometry in a run that has none. Hooks that need it say so by "
                    "needs_geometry = True."
                )
            self._estimate([frame for frame in anchors if frame not in self.views.depth])
            self.views.used.update(dict.fromkeys(anchors))
            depth = self.views.stacked_depth(anchors, (self.cameras.height, self.cameras.width))
            places = tuple(self.window.frames.index(frame) for frame in anchors)
            left_out = self._left_out(places)
            self.prepared = AnchorGeometry(
                depth.to(self.latents.device), places, self.cameras, self.settings.discontinuity, left_out
            )
        return self.prepared

    def _left_out(self, places: tuple[int, ...]) -> Tensor | None:
        """Opacity `(frames, h, w)` of the subject, if it is left out of the geometry of the anchors at `places`."""
        if self.subject is None or self.settings.render_subject:
            return None
        if _fills_everything(self.subject.opacity[list(places)]):
            logger.info(
                "The subject's rendering is opaque almost everywhere in the anchor views, as that of an untrained subject "
                "is. So that there are surroundings, it is not left out of their geometry."
            )
            return None
        return self.subject.opacity.to(self.latents.device)

    def hand_over(self, frames: Collection[int]) -> None:
        """Notes for later windows where the anchors' surfaces are in `frames`."""
        if self.prepared is None:
            return
        warps = self.prepared.warps(*self.latents.shape[-2:])
        for frame in frames:
            if frame not in self.views.depth:
                place = self.window.frames.index(frame)
                seen = [torch.where(warp.visibility[place], warp.depth[place], torch.inf) for warp in warps]
                self.views.surfaces[frame] = torch.stack(seen)

    def _estimate(self, frames: Sequence[int]) -> None:
        if not frames:
            return
        pipe = self.pipe
        images = self._images(frames)  # [B, A, 3, H, W]
        estimates = estimate_depth(pipe.depth_estimator, pipe.depth_image_processor, images.flatten(0, 1))
        estimates = estimates.unflatten(0, images.shape[:2])
        inverse = predicts_disparity(pipe.depth_estimator)
        for a, frame in enumerate(frames):
            surfaces = self.views.surfaces.get(frame, [None] * len(estimates))
            self.views.depth[frame] = torch.stack(
                [self._align(maps[a], frame, surface, inverse) for maps, surface in zip(estimates, surfaces)]
            )

    def _images(self, frames: Sequence[int]) -> Tensor:
        """`(batch, frames, 3, H, W)` in [0, 1]: given, decoded where the latents are known, else from a preview."""
        images, latents = dict(self.views.images), self.views.latents
        unseen = [frame for frame in frames if frame not in images]
        if any(frame not in latents for frame in unseen):
            steps = self.settings.preview_steps(self.pipe._num_inference_steps)
            preview = self.pipe.preview(steps, self.latents, self.conditions, self.extra_step_kwargs)
            latents = dict(zip(self.window.frames, preview.unbind(2))) | latents
        if unseen:
            decoded = self.pipe.decode_latents(torch.stack([latents[frame] for frame in unseen], dim=2))
            images.update(zip(unseen, ((decoded + 1) / 2).clamp(0, 1).unbind(2)))
        return torch.stack([images[frame] for frame in frames], dim=1)

    def _align(self, estimate: Tensor, frame: int, surface: Tensor | None, inverse: bool) -> Tensor:
        """z-depth `(H, W)` in world units from the depth model's output at an anchor frame."""
        place, size = self.window.frames.index(frame), tuple(estimate.shape)
        surroundings = torch.full_like(estimate, torch.inf)
        if surface is not None:
            surroundings = F.interpolate(surface[None, None], size=size, mode="nearest-exact")[0, 0].to(estimate)
        known = surroundings
        if self.settings.align and self.subject is not None:
            maps = torch.stack([self.subject.depth[place], self.subject.opacity[place]])[None].float()
            subject_depth, opacity = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]
            if self.settings.ground:
                depth = self._fitted_to_ground(estimate, frame, subject_depth, opacity, surroundings, inverse)
                if depth is not None:
                    return depth
            known = torch.where(opacity > _OPAQUE, subject_depth, surroundings)
        there = known.isfinite()
        if there.any():
            try:
                return align_depth(estimate, known, mask=there, inverse=inverse).apply(estimate)
            except MVCustomError as error:
                logger.info(f"Depth of anchor frame {frame} is not fitted to what is known of the scene: {error}")
        if surface is not None and there.any():  # the scene's size is known, if not its shape
            return align_median_depth(estimate[there], known[there].median(), inverse=inverse).apply(estimate)
        # A camera that turns on the spot at the origin says nothing of the scene's size; any distance serves it.
        distance = self.cameras.centers[place].norm().item() or 1.0
        return align_median_depth(estimate, distance, inverse=inverse).apply(estimate)

    def _fitted_to_ground(
        self,
        estimate: Tensor,  # [H, W]
        frame: int,
        subject_depth: Tensor,  # [H, W]
        opacity: Tensor,  # [H, W]
        seen: Tensor,  # [H, W]
        inverse: bool,
    ) -> Tensor | None:
        """z-depth `(H, W)`, fitted in inverse depth to the subject, the plane under it, and what earlier anchors saw.

        A plane's inverse depth is linear in the picture, so a scale and a shift bring a horizon that is too high or too low
        to where the camera has it. `None` if the plane is not known or not seen, or if a part does not agree with the fit.
        """
        ground = self._ground_depth(self.window.frames.index(frame)).to(estimate)
        clear = opacity < _CLEAR
        subject_agrees = _AGREES if self.settings.render_subject else _SUBJECT_AGREES
        parts = (
            (opacity > _OPAQUE, subject_depth, 1.0, subject_agrees),
            (clear & seen.isfinite(), seen, _SURROUNDINGS, _AGREES),
            (clear & ground.isfinite() & ~seen.isfinite(), ground, _SURROUNDINGS, _AGREES),
        )
        seen_enough = bool(parts[1][0].any()) or parts[2][0].float().mean().item() >= _LEAST_GROUND
        if not (ground.isfinite().any() and seen_enough and (inverse or (estimate > 0).all())):
            return None
        reference, weights = torch.ones_like(estimate), torch.zeros_like(estimate)
        for there, depth, weight, _ in parts:
            reference = torch.where(there, depth, reference)
            weights[there] = weight / max(int(there.sum()), 1)
        disparity = estimate if inverse else 1 / estimate
        try:
            fitted = align_depth(disparity, reference, mask=weights > 0, weights=weights, inverse=True).apply(
                disparity
            )
        except MVCustomError as error:
            logger.info(f"Depth of anchor frame {frame} is not fitted to the ground under the subject: {error}")
            return None
        for name, (there, depth, _, agrees) in zip(("subject", "earlier anchors", "ground"), parts):
            off = ((fitted - depth) / depth).abs()[there].median().item() if there.any() else 0.0
            if not off <= agrees:
                logger.info(
                    f"Depth of anchor frame {frame} is not fitted to the ground under the subject: that would put the "
                    f"depth of the {name} off by {100 * off:.0f} %."
                )
                return None
        return fitted

    def _ground_depth(self, place: int) -> Tensor:
        """z-depth `(H, W)` of the plane under the subject; infinite where it is not seen, or not known."""
        camera, views = self.cameras[place : place + 1], self.views
        if views.ground_height is None and self.subject is not None and not _fills_everything(self.subject.opacity):
            views.ground_height = ground_height(self.subject.depth, self.subject.opacity, self.cameras)
        if views.ground_height is None:
            return torch.full((camera.height, camera.width), torch.inf)
        return plane_depth(camera, views.ground_height)[0]


def _fills_everything(opacity: Tensor) -> bool:
    """Whether a subject cannot be told from its surroundings, as an untrained one."""
    return bool((opacity > LEFT_OUT).float().mean() > _EVERYTHING)


# --- pipelines/pipeline_part.py: What the parts of `MVCustomPipeline` find on the pipeline: diffusers' components and methods, declared.


class PipelinePart:
    """Base of the mixins. It holds nothing: all that is declared here comes from `AnimateDiffPipeline` and its bases."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNetMotionModel
    scheduler: SchedulerMixin
    depth_estimator: PreTrainedModel | None
    depth_image_processor: BaseImageProcessor | None

    components: dict[str, Any]
    config: FrozenDict
    vae_scale_factor: int
    guidance_scale: float
    cross_attention_kwargs: dict[str, Any] | None
    interrupt: bool
    free_noise_enabled: bool

    check_inputs: Callable[..., None]
    maybe_convert_prompt: Callable[..., Any]
    _prepare_latents_free_noise: Callable[..., Tensor]
    progress_bar: Callable[..., Any]
    register_to_config: Callable[..., None]
    load_textual_inversion: Callable[..., None]
    unload_textual_inversion: Callable[..., None]
    load_lora_weights: Callable[..., None]
    load_lora_into_unet: Callable[..., None]
    lora_state_dict: Callable[..., Any]
    unload_lora_weights: Callable[..., None]
    delete_adapters: Callable[..., None]
    _upload_folder: Callable[..., Any]

    if TYPE_CHECKING:

        def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
            """See `AnimateDiffPipeline.encode_prompt`."""

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
            """See `DiffusionPipeline.from_pretrained`."""

        def prepare_latents(self, *args: Any, **kwargs: Any) -> Tensor:
            """See `AnimateDiffPipeline.prepare_latents`."""

        def save_pretrained(
            self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any
        ) -> None:
            """See `DiffusionPipeline.save_pretrained`."""


# --- pipelines/attention_window.py: The reach of the motion modules' attention: set, saved with the pipeline and restored.


class TrainedAttention(NamedTuple):
    """What motion modules were trained with.

    Args:
        window (`int`, `None` or `dict`): Their attention window.
        temporal_heads (`int`): How many of their heads attend along time alone.
    """

    window: WindowSetting
    temporal_heads: int


class AttentionWindowMixin(PipelinePart):
    """Holds the attention window in the motion modules and in the pipeline's configuration."""

    _trained_attention: TrainedAttention

    def set_attention_window(
        self, window: WindowSetting | Literal["auto"], temporal_heads: int | Literal["auto"] | None = None
    ) -> None:
        """Sets how far the motion modules' attention reaches.

        Args:
            window (`int`, `None`, `dict` or `"auto"`): Spatial window, as `attention_window` of the pipeline. `"auto"` goes
                back to what the motion modules were trained with, as their configuration or, without that, the loaded
                pipeline's says, and to their `temporal_heads` if these are not given.
            temporal_heads (`int` or `"auto"`, *optional*): Heads that attend along time alone; as they are if not given.

        Raises:
            MVCustomError: for values that cannot be; nothing has changed then.
        """
        trained = self._trained_attention
        resolved = trained.window if window == "auto" else window
        if temporal_heads is None:
            temporal_heads = "auto" if window == "auto" else self.config.temporal_heads
        heads = trained.temporal_heads if temporal_heads == "auto" else temporal_heads
        enable_spatio_temporal_attention(self.unet, AttentionWindows(resolved), heads)
        self.register_to_config(attention_window=resolved, temporal_heads=heads)

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: FreeNoise rebuilds the motion modules with one-dimensional attention.

        Raises:
            MVCustomError: always.
        """
        raise MVCustomError(
            "enable_free_noise: FreeNoise replaces the dense spatio-temporal attention that keeps the surroundings "
            "consistent. Pass views_at_a_time= to generate long camera paths, or take AnimateDiffPipeline."
        )


def trained_attention(
    unet: UNet2DConditionModel | UNetMotionModel | None,
    motion_adapter: MotionAdapter | None,
    saved: TrainedAttention,
) -> TrainedAttention:
    """What the motion modules were trained with.

    That which their configuration says, else what was `saved` with the pipeline, as diffusers' U-Net has no place for it.
    """
    for component in (motion_adapter, unet):
        if component is not None and "attention_window" in component.config:
            return TrainedAttention(component.config["attention_window"], component.config.get("temporal_heads", 0))
    return saved


# --- hooks/known_views.py: Views that are known before a run: they stay as they are, and the others are generated around them.


@dataclass(kw_only=True, eq=False)
class KnownViews(DenoisingHook):
    """Keeps the latents of known views at the noise level of every step, and at the known latents at the end.

    `x_t[f] ← alpha_t x_0[f] + sigma_t noise[f]` for every known frame f, the noise being the one that the run starts
    from, so that a known view moves along one path as the others do. What the U-Net sees in these frames is right at
    every step, and attention and depth-aware rendering carry it into the other views. With `end` below 1 the views
    are let go after that share of the steps, and may change from there.

    `pipe(..., anchor_image=...)` and the windows of `views_at_a_time` use it. It holds latents of a call, not settings,
    so it is not saved with a pipeline.

    Args:
        frames (`tuple` of `int`): Which frames of the run are known.
        latents (`torch.Tensor` of shape `(batch, channels, len(frames), h, w)`): Their clean latents, scaled as the U-Net
            takes them; a batch of 1 serves all of the run's batch.

    Raises:
        MVCustomError: for frames named twice, or latents that are not one map per frame.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.hooks import KnownViews
        >>> KnownViews(frames=(0, 3), latents=torch.zeros(1, 4, 2, 16, 16)).frames
        (0, 3)
    """

    frames: tuple[int, ...]
    latents: Tensor  # [1 or B, C, K, h, w]

    name: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.frames = tuple(self.frames)
        if not self.frames or len(set(self.frames)) != len(self.frames):
            raise MVCustomError(f"KnownViews.frames: expected one or more different frames, got {list(self.frames)}.")
        if self.latents.ndim != 5 or self.latents.shape[2] != len(self.frames):
            raise MVCustomError(
                f"KnownViews.latents: expected shape (batch, channels, {len(self.frames)}, h, w), one map per frame, got "
                f"{tuple(self.latents.shape)}."
            )
        if not self.latents.isfinite().all():
            raise MVCustomError("KnownViews.latents: expected finite numbers, got NaN or infinity.")

    def prepare(self, run: DenoisingRun) -> None:
        """Puts the known views' noisy latents in their places."""
        batch, channels, count, height, width = run.latents.shape
        outside = [frame for frame in self.frames if not 0 <= frame < count]
        if outside:
            raise MVCustomError(f"KnownViews.frames: expected frames from 0 to {count - 1}, got {outside}.")
        expected = (batch, channels, len(self.frames), height, width)
        if self.latents.shape[0] not in (1, batch) or self.latents.shape[1:] != expected[1:]:
            raise MVCustomError(
                f"KnownViews.latents: expected shape {expected} (or a batch of 1), got {tuple(self.latents.shape)}."
            )
        noise = run.latents[:, :, list(self.frames)] / run.scheduler.init_noise_sigma
        run.state[id(self)] = (self.latents.to(run.latents).expand(expected), noise)
        self._put(run, 0)

    def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Puts them back, at the level the step starts from."""
        self._put(run, step.index)  # whatever else changed the latents since the last step

    def after_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Puts them back, at the level the step arrives at."""
        if run.covers(self, step.index):
            self._put(run, step.index + 1)

    def to_dict(self) -> dict[str, Any]:
        """Not supported: there are no settings to be written down."""
        raise MVCustomError("KnownViews holds the latents of a call, which are no settings.")

    def _put(self, run: DenoisingRun, index: int) -> None:
        """Sets the known frames to the level at which step `index` starts; past the last one, to the clean latents."""
        known, noise = run.state[id(self)]
        if index < len(run.timesteps):
            if not run.covers(self, index):
                return
            known = run.noise_levels.add_noise(known, noise, index)
        latents = run.latents.clone()
        latents[:, :, list(self.frames)] = known
        run.latents = latents


# --- cameras/conventions.py: Converters at the border: other camera conventions in and out.


CONVENTIONS = {
    "opencv": "camera-to-world; x right, y down, z forward (this package)",
    "opencv_w2c": "world-to-camera; x right, y down, z forward (OpenCV, gsplat, VGGT)",
    "colmap": "world-to-camera; x right, y down, z forward",
    "opengl": "camera-to-world; x right, y up, z backward",
    "blender": "as opengl",
    "nerfstudio": "as opengl",
    "pytorch3d": "world-to-view as row vectors; x left, y up, z forward (`[R | 0; T | 1]`)",
}
"""Names of conventions for `(N, 4, 4)` poses, and what they mean."""


def cameras_from_convention(
    poses: Tensor,  # [N, 4, 4]
    intrinsics: Tensor,  # [N, 3, 3] or [3, 3]
    height: int,
    width: int,
    *,
    convention: str,
) -> Cameras:
    """Cameras from poses of a named convention.

    Args:
        poses (`torch.Tensor` of shape `(N, 4, 4)`): Poses.
        intrinsics (`torch.Tensor` of shape `(N, 3, 3)` or `(3, 3)`): In pixels, first pixel's centre at (0.5, 0.5).
        height (`int`), width (`int`): Image size in pixels.
        convention (`str`): A name of `CONVENTIONS`.
    """
    return Cameras(camera_to_world_from(poses, convention), intrinsics, height, width)


def camera_to_world_from(
    poses: Tensor,  # [N, 4, 4]
    convention: str,
) -> Tensor:
    """Camera-to-world matrices with OpenCV axes, `(N, 4, 4)`, from poses of a named convention; not checked yet.

    Raises:
        CamerasError: for another shape, numbers that are not finite, or matrices that have no inverse where one is needed.
    """
    poses = as_float_tensor("cameras", poses)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise CamerasError(f"cameras: expected poses of shape (N, 4, 4), got {tuple(poses.shape)}.")
    if not poses.isfinite().all():
        raise CamerasError("cameras: expected finite poses, got NaN or infinity.")
    _check_convention(convention)
    if convention == "pytorch3d":
        poses = torch.diag(poses.new_tensor([-1.0, -1.0, 1.0, 1.0])) @ poses.transpose(1, 2)
    if convention in ("opencv_w2c", "colmap", "pytorch3d"):
        if (torch.linalg.det(poses[:, :3, :3]).abs() < 1e-8).any():
            raise CamerasError("cameras: expected invertible world-to-camera matrices, got a singular one.")
        poses = torch.linalg.inv(poses)
    elif convention in ("opengl", "blender", "nerfstudio"):
        poses = poses * poses.new_tensor([1.0, -1.0, -1.0, 1.0])
    return poses


def camera_to_world_in(cameras: Cameras, convention: str) -> Tensor:
    """Poses `(N, 4, 4)` in a named convention (world-to-camera ones where that is what it stores)."""
    check_kind("cameras", cameras, Cameras)
    _check_convention(convention)
    if convention == "opencv":
        return cameras.camera_to_world
    if convention in ("opengl", "blender", "nerfstudio"):
        return cameras.camera_to_world * cameras.camera_to_world.new_tensor([1.0, -1.0, -1.0, 1.0])
    poses = cameras.world_to_camera
    if convention == "pytorch3d":
        poses = (torch.diag(poses.new_tensor([-1.0, -1.0, 1.0, 1.0])) @ poses).transpose(1, 2)
    return poses


def cameras_from_pytorch3d(
    rotation: Tensor,  # [N, 3, 3]
    translation: Tensor,  # [N, 3]
    focal_length: Tensor,  # [N, 2]
    principal_point: Tensor,  # [N, 2]
    height: int,
    width: int,
    *,
    intrinsics_in: str = "ndc_isotropic",
) -> Cameras:
    """Cameras from PyTorch3D's tensors: `X_view = X_world @ R + T`, axes left, up, forward.

    Args:
        rotation (`torch.Tensor` of shape `(N, 3, 3)`): R.
        translation (`torch.Tensor` of shape `(N, 3)`): T.
        focal_length (`torch.Tensor` of shape `(N, 2)`), principal_point (`torch.Tensor` of shape `(N, 2)`):
            In the units of `intrinsics_in`.
        height (`int`), width (`int`): Image size in pixels.
        intrinsics_in (`str`): `"ndc_isotropic"` (the shorter side spans [-1, 1]), `"ndc_norm_image_bounds"` (each side
            spans [-1, 1]; older CO3D) or `"screen"` (pixels).
    """
    rotation, translation = as_float_tensor("rotation", rotation), as_float_tensor("translation", translation)
    if rotation.ndim != 3 or rotation.shape[1:] != (3, 3) or translation.shape != (len(rotation), 3):
        raise CamerasError(
            f"rotation, translation: expected shapes (N, 3, 3) and (N, 3), got {tuple(rotation.shape)} and "
            f"{tuple(translation.shape)}."
        )
    poses = torch.eye(4, dtype=rotation.dtype).repeat(len(rotation), 1, 1)
    poses[:, :3, :3] = rotation
    poses[:, 3, :3] = translation
    focal_length, principal_point = (
        torch.as_tensor(value, dtype=rotation.dtype) for value in (focal_length, principal_point)
    )
    if focal_length.shape != (len(rotation), 2) or principal_point.shape != (len(rotation), 2):
        raise CamerasError(
            f"focal_length, principal_point: expected shape ({len(rotation)}, 2), got {tuple(focal_length.shape)} and "
            f"{tuple(principal_point.shape)}."
        )
    scale, center = _ndc(height, width, intrinsics_in, rotation.dtype)
    intrinsics = torch.eye(3, dtype=rotation.dtype).repeat(len(rotation), 1, 1)
    intrinsics[:, [0, 1], [0, 1]] = focal_length * scale.abs()
    intrinsics[:, :2, 2] = center + principal_point * scale
    return cameras_from_convention(poses, intrinsics, height, width, convention="pytorch3d")


def cameras_to_pytorch3d(
    cameras: Cameras, *, intrinsics_in: str = "ndc_isotropic"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PyTorch3D's `(R, T, focal_length, principal_point)`, of shapes `(N, 3, 3)`, `(N, 3)`, `(N, 2)`, `(N, 2)`."""
    poses = camera_to_world_in(cameras, "pytorch3d")
    scale, center = _ndc(cameras.height, cameras.width, intrinsics_in, cameras.dtype)
    principal_point = (cameras.intrinsics[:, :2, 2] - center) / scale
    return poses[:, :3, :3], poses[:, 3, :3], cameras.focal / scale.abs(), principal_point


def _ndc(height: int, width: int, intrinsics_in: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pixels in one unit along x and y (NDC axes point left and up), and the pixel at the unit's origin."""
    if intrinsics_in == "screen":
        return torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype)
    center = torch.tensor([width / 2, height / 2], dtype=dtype)
    if intrinsics_in == "ndc_isotropic":
        return -torch.full((2,), min(height, width) / 2, dtype=dtype), center
    if intrinsics_in == "ndc_norm_image_bounds":
        return -center, center
    raise CamerasError(
        f"intrinsics_in: expected 'ndc_isotropic', 'ndc_norm_image_bounds' or 'screen', got {intrinsics_in!r}."
    )


def _check_convention(convention: str) -> None:
    if not isinstance(convention, str) or convention not in CONVENTIONS:
        raise CamerasError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}.")


# --- cameras/camera_path_json.py: nerfstudio's camera_path.json: the path that its viewer exports, OpenGL camera-to-world matrices with a field of view.


def is_camera_path(content: Any) -> bool:
    """Whether JSON is a camera path rather than a transforms.json."""
    return isinstance(content, dict) and "camera_path" in content and "frames" not in content


def read_camera_path_json(
    file: Path, height: int | None = None, width: int | None = None, convention: str | None = None
) -> Capture:
    """Reads a camera path, in the world that nerfstudio trained in.

    The lens is the vertical field of view `fov`, in degrees, of an image of `render_height` × `render_width`, with square
    pixels; `aspect` is the viewer's window, and does not count, as in nerfstudio.

    Args:
        file (`Path`): The file.
        height (`int`, *optional*), width (`int`, *optional*): Image size of a file that does not say `render_height` and
            `render_width`.
        convention (`str`, *optional*): Axes of the poses, a name of `CONVENTIONS`; OpenGL if not given.

    Raises:
        MVCustomError: naming the file and the field that cannot be used.
    """
    content = read_json(file)
    if not is_camera_path(content):
        raise CamerasError(f"{file}: camera_path: expected a JSON object that has it.")
    kind = content.get("camera_type", "perspective")
    if not isinstance(kind, str) or kind.lower() != "perspective":
        raise CamerasError(f"{file}: camera_type: expected perspective, got {kind!r}. Set it so in the viewer.")
    path = content["camera_path"]
    if not isinstance(path, list) or not path or not all(isinstance(camera, dict) for camera in path):
        raise CamerasError(
            f"{file}: camera_path: expected a list of at least one camera. The viewer writes one for a path of two "
            "keyframes or more."
        )
    height = _size(file, content, "render_height", height)
    width = _size(file, content, "render_width", width)
    poses, intrinsics = [], []
    for i, camera in enumerate(path):
        where = f"{file}: camera_path[{i}]"
        poses.append(_pose(where, camera.get("camera_to_world")))
        fov = camera.get("fov")
        if not is_finite_number(fov) or not 1e-4 < fov < 180:
            raise CamerasError(f"{where}: fov: expected degrees between 0 and 180, got {fov!r}.")
        focal = height / 2 / math.tan(math.radians(fov) / 2)
        intrinsics.append([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    try:
        camera_to_world = camera_to_world_from(torch.stack(poses), convention or "opengl")
        cameras = Cameras(camera_to_world, torch.tensor(intrinsics, dtype=torch.float64), height, width)
    except CamerasError as error:
        raise CamerasError(f"{file}: {error}") from error
    names = tuple(f"{i:04d}" for i in range(len(path)))
    return Capture(cameras, names, (None,) * len(path), (None,) * len(path))


def _size(file: Path, content: dict[str, Any], name: str, given: int | None) -> int:
    value = content.get(name)
    if value is None:
        if given is None:
            raise CamerasError(
                f"{file}: {name}: expected a size in pixels, which this file lacks; write it there, or pass height= and "
                "width= (--height and --width)."
            )
        return as_size(name.removeprefix("render_"), given)
    if not is_finite_number(value) or value < 1 or value != int(value) or value > 2**20:
        raise CamerasError(f"{file}: {name}: expected a size in pixels, got {value!r}.")
    return int(value)


def _pose(where: str, value: Any) -> torch.Tensor:
    if not isinstance(value, list) or len(value) != 16 or not all(map(is_finite_number, value)):
        raise CamerasError(f"{where}: camera_to_world: expected 16 finite numbers, the rows of a 4 × 4 matrix.")
    return torch.tensor(value, dtype=torch.float64).reshape(4, 4)


# --- cameras/co3d.py: CO3Dv2: frame_annotations.jgz, gzipped JSON with PyTorch3D cameras.


_LARGEST_RATIO = 50
"""How many times its size a file may unpack to: numbers in JSON shrink to a quarter or so, only bombs to a thousandth."""
_LEAST_LIMIT, _PIECE = 2**20, 2**20


def read_co3d(file: Path, sequence: str | None = None) -> Capture:
    """Reads one sequence of a CO3Dv2 category.

    Args:
        file (`Path`): The category's `frame_annotations.jgz`. Image paths in it start from the folder above its own.
        sequence (`str`, *optional*): The sequence's name; may be left out if there is only one.

    Raises:
        MVCustomError: naming the file and what cannot be used; lists the sequences if one has to be named.
    """
    frames = _read(file)
    names = list(dict.fromkeys(str(frame.get("sequence_name")) for frame in frames))
    if sequence is None and len(names) == 1:
        sequence = names[0]
    if sequence not in names:
        raise CamerasError(
            f"{file}: expected sequence= one of its {len(names)} sequences ({', '.join(names[:8])} ...), got {sequence!r}."
        )
    frames = [frame for frame in frames if str(frame.get("sequence_name")) == sequence]
    batches: dict[str, list[torch.Tensor]] = {"R": [], "T": [], "focal_length": [], "principal_point": []}
    sizes, formats, images, masks = [], set(), [], []
    for i, frame in enumerate(frames):
        try:
            view, image = frame["viewpoint"], frame["image"]
            for name, values in batches.items():
                values.append(torch.tensor(view[name], dtype=torch.float64))
            height, width = image["size"][:2]
            sizes.append((as_size("height", height), as_size("width", width)))
            formats.add(view.get("intrinsics_format", "ndc_norm_image_bounds"))
            images.append(image["path"])
            masks.append((frame.get("mask") or {}).get("path"))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, OverflowError) as error:
            raise MVCustomError(f"{file}: frame {i} of {sequence!r}: expected a CO3D annotation: {error!r}") from error
    if len(formats) != 1:
        raise CamerasError(f"{file}: expected one intrinsics_format in {sequence!r}, got {sorted(map(str, formats))}.")
    height, width = one_size(file, sizes)
    root = file.parent.parent
    try:
        rotation, translation, focal, principal = (torch.stack(values) for values in batches.values())
        cameras = cameras_from_pytorch3d(
            rotation, translation, focal, principal, height, width, intrinsics_in=formats.pop()
        )
    except (CamerasError, RuntimeError) as error:
        raise CamerasError(f"{file}: {sequence!r}: {error}") from error
    return Capture(
        cameras=cameras,
        names=tuple(str(path) for path in images),
        image_paths=tuple(inside_folder(root, path, file) for path in images),
        mask_paths=tuple(None if path is None else inside_folder(root, path, file) for path in masks),
    )


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        if not file.is_file():
            raise FileNotFoundError("there is no such file")
        # Read piece by piece: the memory is what is there, not what may be.
        most = _LEAST_LIMIT + _LARGEST_RATIO * file.stat().st_size
        data = bytearray()
        with gzip.open(file) as stream:
            while len(data) <= most and (piece := stream.read(_PIECE)):
                data += piece
    except (OSError, EOFError, zlib.error) as error:
        raise MVCustomError(f"{file}: expected gzipped JSON: {error}") from error
    if len(data) > most:
        raise MVCustomError(
            f"{file}: unpacks to more than {_LARGEST_RATIO} times its size, as no annotations do. A decompression bomb?"
        )
    frames = parse_json(file, bytes(data))
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise MVCustomError(f"{file}: expected a list of frame annotations.")
    return frames


# --- cameras/colmap_model.py: What COLMAP's files hold, whichever way they are written.


CAMERA_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
}
"""COLMAP's numbers, names and parameter counts of the models that are read."""


@dataclass(frozen=True)
class ColmapCamera:
    """One entry of the cameras file."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One entry of the images file: world-to-camera quaternion (w, x, y, z) and translation."""

    image_id: int
    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]
    camera_id: int
    name: str


@dataclass(frozen=True, eq=False)
class Observations:
    """Which photo sees which point, and where.

    Args:
        photo (`torch.Tensor` of shape `(O,)`, int64): Index of the photo, in the order of the cameras.
        point (`torch.Tensor` of shape `(O,)`, int64): Index of the point.
        pixel (`torch.Tensor` of shape `(O, 2)`): Where the photo shows it, (x, y), the first pixel's centre at (0.5, 0.5).
    """

    photo: Tensor  # [O]
    point: Tensor  # [O]
    pixel: Tensor  # [O, 2]

    @classmethod
    def none(cls) -> Observations:
        """Points that no photo is said to see."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2).double())

    def by_photo(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Points `(K,)` and pixels `(K, 2)` of each of `count` photos."""
        order = self.photo.argsort(stable=True)
        sizes = self.photo.bincount(minlength=count).tolist()
        return list(zip(self.point[order].split(sizes), self.pixel[order].double().split(sizes)))

    def tracks(self, count: int) -> list[Tensor]:
        """For each of `count` points the photos that see it and its place in each one's list, `(L, 2)`."""
        order = self.photo.argsort(stable=True)
        photo, sizes = self.photo[order], self.photo.bincount()
        place = torch.arange(len(photo)) - (sizes.cumsum(0) - sizes)[photo]
        by_point = self.point[order].argsort(stable=True)
        rows = torch.stack([photo, place], dim=1)[by_point]
        return list(rows.split(self.point.bincount(minlength=count).tolist()))


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model as its files have it. Observations are written, but not read."""

    cameras: Mapping[int, ColmapCamera]
    images: Sequence[ColmapImage]
    points: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))  # [P, 3]
    colors: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.uint8))  # [P, 3]
    observations: Observations = field(default_factory=Observations.none)


# --- cameras/colmap_binary.py: COLMAP's .bin files. Counts are checked against the file's size before anything is made of them.


_POINT = struct.Struct("<Q3d3BdQ")
_NAME_LIMIT = 4096


class _Reader:
    """Little-endian values from a file's bytes; never reads beyond them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        if file.exists() and not file.is_file():
            raise MVCustomError(f"{file}: expected a file, got a folder or a device.")
        try:
            self.data = file.read_bytes()
        except OSError as error:
            raise MVCustomError(f"{file}: cannot be read: {error}") from error
        self.position = 0

    def take(self, layout: struct.Struct | str) -> tuple:
        layout = struct.Struct("<" + layout) if isinstance(layout, str) else layout
        if self.position + layout.size > len(self.data):
            raise MVCustomError(f"{self.file}: ends at byte {len(self.data)} in the middle of an entry. Truncated?")
        values = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return values

    def count(self, what: str, least: int) -> int:
        """A number of entries of at least `least` bytes each."""
        (count,) = self.take("Q")
        if count * least > len(self.data) - self.position:
            raise MVCustomError(
                f"{self.file}: claims {count} {what}, but only {len(self.data) - self.position} bytes follow. Truncated, or "
                "no COLMAP file?"
            )
        return count

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.position:
            raise MVCustomError(f"{self.file}: ends at byte {len(self.data)} in the middle of an entry. Truncated?")
        self.position += size

    def name(self) -> str:
        end = self.data.find(b"\0", self.position, self.position + _NAME_LIMIT)
        if end < 0:
            raise MVCustomError(f"{self.file}: expected an image name that ends within {_NAME_LIMIT} bytes.")
        try:
            name = self.data[self.position : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise MVCustomError(f"{self.file}: expected an image name in UTF-8: {error}") from error
        self.position = end + 1
        return name


def read_binary_cameras(file: Path) -> dict[int, ColmapCamera]:
    """Entries of cameras.bin by camera id."""
    reader = _Reader(file)
    cameras = {}
    for _ in range(reader.count("cameras", 24)):
        camera_id, model_id, width, height = reader.take("IiQQ")
        if model_id not in CAMERA_MODELS:
            known = ", ".join(name for name, _ in CAMERA_MODELS.values())
            raise MVCustomError(f"{file}: camera {camera_id} has COLMAP model {model_id}; {known} are read.")
        model, parameters = CAMERA_MODELS[model_id]
        cameras[camera_id] = ColmapCamera(model, width, height, reader.take(f"{parameters}d"))
    return cameras


def read_binary_images(file: Path) -> list[ColmapImage]:
    """Entries of images.bin; their observations are skipped."""
    reader = _Reader(file)
    images = []
    for _ in range(reader.count("images", 73)):
        image_id, *pose, camera_id = reader.take("I7dI")
        name = reader.name()
        reader.skip(24 * reader.count("observations", 24))
        images.append(ColmapImage(image_id, tuple(pose[:4]), tuple(pose[4:]), camera_id, name))
    return images


def read_binary_points(file: Path) -> tuple[Tensor, Tensor]:
    """Positions `(P, 3)` and colours `(P, 3)` of points3D.bin."""
    reader = _Reader(file)
    positions, colors = [], []
    for _ in range(reader.count("points", _POINT.size)):
        _, *values, track = reader.take(_POINT)
        positions.append(values[:3])
        colors.append(values[3:6])
        reader.skip(8 * track)
    return (
        torch.tensor(positions, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(colors, dtype=torch.uint8).reshape(-1, 3),
    )


def write_binary_cameras(file: Path, cameras: Mapping[int, ColmapCamera]) -> None:
    """Writes cameras.bin."""
    numbers = {name: number for number, (name, _) in CAMERA_MODELS.items()}
    parts = [struct.pack("<Q", len(cameras))]
    for camera_id, camera in cameras.items():
        head = struct.pack("<IiQQ", camera_id, numbers[camera.model], camera.width, camera.height)
        parts += [head, struct.pack(f"<{len(camera.params)}d", *camera.params)]
    file.write_bytes(b"".join(parts))


def write_binary_images(file: Path, model: ColmapModel) -> None:
    """Writes images.bin. Points are numbered from 1."""
    layout = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
    parts = [struct.pack("<Q", len(model.images))]
    for image, (points, pixels) in zip(model.images, model.observations.by_photo(len(model.images))):
        pose = struct.pack("<I7dI", image.image_id, *image.quaternion, *image.translation, image.camera_id)
        seen = np.zeros(len(points), dtype=layout)
        seen["pixel"], seen["point"] = pixels.numpy(), points.numpy() + 1
        parts += [pose, image.name.encode("utf-8") + b"\0", struct.pack("<Q", len(seen)), seen.tobytes()]
    file.write_bytes(b"".join(parts))


def write_binary_points(file: Path, model: ColmapModel) -> None:
    """Writes points3D.bin."""
    numbers = np.array([image.image_id for image in model.images])
    parts = [struct.pack("<Q", len(model.points))]
    rows = zip(model.points.tolist(), model.colors.tolist(), model.observations.tracks(len(model.points)))
    for i, (point, color, track) in enumerate(rows, 1):
        photos, places = track.T.numpy()
        seen_in = np.stack([numbers[photos], places], axis=1).astype("<u4")
        parts += [_POINT.pack(i, *point, *color, 0.0, len(seen_in)), seen_in.tobytes()]
    file.write_bytes(b"".join(parts))


# --- cameras/colmap_text.py: COLMAP's .txt files.


_LARGEST = 2**33
"""Bytes; images.txt holds the observations of every photo."""


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments; empty ones are kept (an image without observations has one)."""
    lines = read_text(file, largest=_LARGEST).splitlines()
    return ((number, line) for number, line in enumerate(lines, 1) if not line.startswith("#"))


def _wrong(file: Path, number: int, expected: str, line: str) -> MVCustomError:
    return MVCustomError(f"{file}: line {number}: expected {expected}, got {line[:80]!r}.")


def read_text_cameras(file: Path) -> dict[int, ColmapCamera]:
    """Entries of cameras.txt by camera id."""
    counts = dict(CAMERA_MODELS.values())
    cameras = {}
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            camera = ColmapCamera(model, int(width), int(height), tuple(map(float, params)))
            cameras[int(camera_id)] = camera
        except ValueError as error:
            raise _wrong(file, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", line) from error
        if counts.get(model) != len(params):
            raise _wrong(file, number, f"a model of {', '.join(counts)} with its parameters", line)
    return cameras


def read_text_images(file: Path) -> list[ColmapImage]:
    """Entries of images.txt; every second line, the observations, is skipped."""
    images = []
    lines = _lines(file)
    for number, line in lines:
        if not line.strip():
            continue
        fields = line.split(maxsplit=9)
        try:
            image_id, *pose, camera_id, name = fields
            qw, qx, qy, qz, tx, ty, tz = map(float, pose)
            quaternion, translation = (qw, qx, qy, qz), (tx, ty, tz)
            images.append(ColmapImage(int(image_id), quaternion, translation, int(camera_id), name.strip()))
        except ValueError as error:
            raise _wrong(file, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", line) from error
        next(lines, None)
    return images


def read_text_points(file: Path) -> tuple[Tensor, Tensor]:
    """Positions `(P, 3)` and colours `(P, 3)` of points3D.txt."""
    positions, colors = [], []
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            _, x, y, z, *rgb = line.split()[:7]
            positions.append([float(x), float(y), float(z)])
            color = [int(value) for value in rgb]
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError(color)
            colors.append(color)
        except ValueError as error:
            raise _wrong(file, number, "POINT3D_ID X Y Z R G B ERROR TRACK[]", line) from error
    return (
        torch.tensor(positions, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(colors, dtype=torch.uint8).reshape(-1, 3),
    )


def write_text_cameras(file: Path, cameras: Mapping[int, ColmapCamera]) -> None:
    """Writes cameras.txt."""
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
    for camera_id, camera in cameras.items():
        lines.append(
            f"{camera_id} {camera.model} {camera.width} {camera.height} " + " ".join(map(repr, camera.params))
        )
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_text_images(file: Path, model: ColmapModel) -> None:
    """Writes images.txt. Points are numbered from 1."""
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for image, (points, pixels) in zip(model.images, model.observations.by_photo(len(model.images))):
        pose = " ".join(map(repr, (*image.quaternion, *image.translation)))
        seen = " ".join(f"{x!r} {y!r} {point + 1}" for (x, y), point in zip(pixels.tolist(), points.tolist()))
        lines += [f"{image.image_id} {pose} {image.camera_id} {image.name}", seen]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_text_points(file: Path, model: ColmapModel) -> None:
    """Writes points3D.txt."""
    lines = ["# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    rows = zip(model.points.tolist(), model.colors.tolist(), model.observations.tracks(len(model.points)))
    for i, (point, color, track) in enumerate(rows, 1):
        seen_in = [f"{model.images[photo].image_id} {place}" for photo, place in track.tolist()]
        lines.append(" ".join([str(i), *map(repr, point), *map(str, color), "0.0", *seen_in]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- cameras/colmap.py: COLMAP sparse models: cameras, images and points, as .bin or .txt.


_READERS = {
    ".bin": (read_binary_cameras, read_binary_images, read_binary_points),
    ".txt": (read_text_cameras, read_text_images, read_text_points),
}
_WRITERS = {
    ".bin": (write_binary_cameras, write_binary_images, write_binary_points),
    ".txt": (write_text_cameras, write_text_images, write_text_points),
}


def find_model(path: Path) -> tuple[Path, str] | None:
    """The folder of a sparse model at or below `path` (`.`, `sparse/0`, `sparse`, `colmap`) and its suffix, if any."""
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap"):
        for suffix in (".bin", ".txt"):
            if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
                return folder, suffix
    return None


def read_colmap(path: Path) -> Capture:
    """Reads the cameras of a sparse model, in the order of the photos' names.

    Photos are looked for in `images/` beside the model's folder or one or two levels above it.

    Raises:
        MVCustomError: naming the file, if it is truncated, claims more than it holds, or has another camera model.
    """
    found = find_model(path)
    if found is None:
        raise MVCustomError(f"{path}: expected a COLMAP model (cameras and images, .bin or .txt), found none.")
    folder, suffix = found
    model = read_colmap_model(folder, suffix)
    images = sorted(model.images, key=lambda image: image.name)
    if not images:
        raise CamerasError(f"{folder / ('images' + suffix)}: expected at least one registered image, got none.")
    lenses = []
    for image in images:
        if image.camera_id not in model.cameras:
            raise CamerasError(
                f"{folder}: image {image.name!r} refers to camera {image.camera_id}, which is not there."
            )
        lenses.append(model.cameras[image.camera_id])
    height, width = one_size(folder, [(lens.height, lens.width) for lens in lenses])
    unpacked = [_unpack(folder, lens) for lens in lenses]
    distortions = {distortion for _, distortion in unpacked}
    if len(distortions) != 1:
        raise CamerasError(f"{folder}: expected one lens for all photos, got {len(distortions)} sets of distortion.")
    poses = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    quaternions = torch.tensor([image.quaternion for image in images], dtype=torch.float64)
    length = quaternions.norm(dim=-1)
    if not (length.isfinite().all() and (length > 1e-9).all()):
        raise CamerasError(f"{folder}: expected finite quaternions that are not zero.")
    poses[:, :3, :3] = quaternion_to_rotation(quaternions)
    poses[:, :3, 3] = torch.tensor([image.translation for image in images], dtype=torch.float64)
    try:
        cameras = cameras_from_convention(
            poses, torch.stack([matrix for matrix, _ in unpacked]), height, width, convention="colmap"
        )
    except CamerasError as error:
        raise CamerasError(f"{folder}: {error}") from error
    distortion = next(iter(distortions))
    photos = next((p / "images" for p in (folder, *list(folder.parents)[:2]) if (p / "images").is_dir()), None)
    paths = [None if photos is None else inside_folder(photos, image.name, folder) for image in images]
    return Capture(
        cameras=cameras,
        names=tuple(image.name for image in images),
        image_paths=tuple(paths),
        mask_paths=(None,) * len(images),
        distortion=None if distortion.is_none else distortion,
    )


def read_colmap_model(folder: Path, suffix: str) -> ColmapModel:
    """Cameras and images of a model, and its points if there are any."""
    read_cameras, read_images, read_points = _READERS[suffix]
    cameras = read_cameras(folder / f"cameras{suffix}")
    images = read_images(folder / f"images{suffix}")
    points_file = folder / f"points3D{suffix}"
    if not points_file.is_file():
        return ColmapModel(cameras, images)
    return ColmapModel(cameras, images, *read_points(points_file))


def write_colmap(
    folder: Path,
    cameras: Cameras,
    names: Sequence[str],
    *,
    binary: bool = True,
    points: tuple[Tensor, Tensor] | None = None,  # [P, 3] and [P, 3]
    observations: Observations | None = None,
) -> None:
    """Writes a sparse model of pinhole cameras into an existing folder.

    Args:
        folder (`Path`): The model's folder.
        cameras ([`Cameras`]): One per photo. Photos with the same intrinsics share a camera.
        names (sequence of `str`): The photos' names.
        binary (`bool`, defaults to `True`): .bin or .txt.
        points (tuple of `torch.Tensor` of shape `(P, 3)`, *optional*): Positions, and colours in 0 to 255.
        observations ([`Observations`], *optional*): Which photo sees which of the points.
    """
    poses = camera_to_world_in(cameras.to(dtype=torch.float64), "colmap")
    quaternions = rotation_to_quaternion(poses[:, :3, :3])
    lenses: dict[tuple[float, ...], int] = {}
    images = []
    for i, (name, matrix) in enumerate(zip(names, cameras.intrinsics.double())):
        params = tuple(matrix[r, c].item() for r, c in ((0, 0), (1, 1), (0, 2), (1, 2)))
        camera_id = lenses.setdefault(params, len(lenses) + 1)
        images.append(
            ColmapImage(i + 1, tuple(quaternions[i].tolist()), tuple(poses[i, :3, 3].tolist()), camera_id, str(name))
        )
    lists = {
        number: ColmapCamera("PINHOLE", cameras.width, cameras.height, params) for params, number in lenses.items()
    }
    model = ColmapModel(lists, images)
    if points is not None:
        seen = Observations.none() if observations is None else observations
        model = ColmapModel(lists, images, points[0].double().cpu(), points[1].to("cpu", torch.uint8), seen)
    suffix = ".bin" if binary else ".txt"
    write_cameras, write_images, write_points = _WRITERS[suffix]
    write_cameras(folder / f"cameras{suffix}", model.cameras)
    write_images(folder / f"images{suffix}", model)
    write_points(folder / f"points3D{suffix}", model)


def quaternion_to_rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrices `(N, 3, 3)` of quaternions (w, x, y, z) `(N, 4)`, of any length above 0."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotation_to_quaternion(rotation: Tensor) -> Tensor:
    """Quaternions (w, x, y, z) `(N, 4)` with w >= 0 of rotation matrices `(N, 3, 3)`.

    The largest eigenvector of a symmetric matrix of the entries (Bar-Itzhack 2000): no case distinctions.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = ([entry for entry in row.unbind(-1)] for row in rotation.unbind(-2))
    rows = [
        [xx - yy - zz, yx + xy, zx + xz, zy - yz],
        [yx + xy, yy - xx - zz, zy + yz, xz - zx],
        [zx + xz, zy + yz, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]
    symmetric = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2) / 3
    x, y, z, w = torch.linalg.eigh(symmetric).eigenvectors[..., -1].unbind(-1)
    quaternion = torch.stack([w, x, y, z], dim=-1)
    return torch.where(w[:, None] < 0, -quaternion, quaternion)


def _unpack(folder: Path, lens: ColmapCamera) -> tuple[Tensor, Distortion]:
    """Pixel intrinsics and distortion of an entry of the cameras file."""
    params = list(lens.params)
    single = lens.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
    fx, fy = (params[0], params[0]) if single else params[:2]
    cx, cy, *rest = params[1:] if single else params[2:]
    fisheye = lens.model.endswith("FISHEYE")
    radial, tangential = tuple(rest), (0.0, 0.0)
    if lens.model == "OPENCV":
        k1, k2, p1, p2 = rest
        radial, tangential = (k1, k2), (p1, p2)
    while radial and radial[-1] == 0:
        radial = radial[:-1]
    try:
        distortion = Distortion(radial, tangential, fisheye)
    except CamerasError as error:
        raise CamerasError(f"{folder}: {error}") from error
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64), distortion


# --- cameras/polycam.py: Polycam's raw data: one JSON file per keyframe, with ARKit's pose and the pixel intrinsics.


_KEYFRAME_FOLDERS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))
"""Cameras and their photos; the corrected ones, which the app optimised afterwards, first."""
_SUFFIXES = (".jpg", ".jpeg", ".png")


def find_keyframes(path: Path) -> tuple[Path, Path] | None:
    """The folders of cameras and photos at `path` or in its `keyframes/`, if there are some."""
    for folder in (path / "keyframes", path):
        for cameras, images in _KEYFRAME_FOLDERS:
            files = (folder / cameras).glob("*.json") if (folder / images).is_dir() else ()
            if any(_looks_like_polycam(file) for file in files):
                return folder / cameras, folder / images
    return None


def read_polycam(path: Path) -> Capture:
    """Reads the keyframes of a Polycam export (raw data), in the order of their names.

    `t_00` to `t_23` are the rows of the camera-to-world matrix: camera axes x right, y up, z backward, world +Y up, metres.

    Raises:
        MVCustomError: naming the file and the entry that cannot be used.
    """
    found = find_keyframes(path)
    if found is None:
        raise MVCustomError(f"{path}: expected Polycam's raw data (keyframes/ with cameras/ and images/), found none.")
    cameras_folder, images_folder = found
    images = {file.stem: file for file in sorted(images_folder.iterdir()) if file.suffix.lower() in _SUFFIXES}
    # The app drops keyframes: a camera without a photo is none of ours.
    files = [file for file in sorted(cameras_folder.glob("*.json")) if file.stem in images]
    if not files:
        raise MVCustomError(f"{cameras_folder}: expected a photo in {images_folder} for some camera, found none.")
    poses, intrinsics, sizes = [], [], []
    for file in files:
        frame = _read_keyframe(file)
        pose = torch.eye(4, dtype=torch.float64)
        rows = [[_keyframe_number(file, frame, f"t_{i}{j}") for j in range(4)] for i in range(3)]
        pose[:3] = torch.tensor(rows, dtype=torch.float64)
        fx, fy, cx, cy = (_keyframe_number(file, frame, name) for name in ("fx", "fy", "cx", "cy"))
        poses.append(pose)
        intrinsics.append(torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64))
        sizes.append((int(_keyframe_number(file, frame, "height")), int(_keyframe_number(file, frame, "width"))))
    height, width = one_size(cameras_folder, sizes)
    try:
        cameras = cameras_from_convention(
            torch.stack(poses), torch.stack(intrinsics), height, width, convention="opengl"
        )
    except CamerasError as error:
        raise CamerasError(f"{cameras_folder}: {error}") from error
    return Capture(
        cameras=cameras,
        names=tuple(images[file.stem].name for file in files),
        image_paths=tuple(images[file.stem] for file in files),
        mask_paths=(None,) * len(files),
    )


def _looks_like_polycam(file: Path) -> bool:
    try:
        content = read_json(file)
    except MVCustomError:
        return False
    return isinstance(content, dict) and {"t_00", "t_23", "fx"} <= content.keys()


def _read_keyframe(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise MVCustomError(f"{file}: expected a JSON object, got {type(content).__name__}.")
    return content


def _keyframe_number(file: Path, frame: dict[str, Any], name: str) -> float:
    value: Any = frame.get(name)
    if not is_finite_number(value):
        raise CamerasError(f"{file}: {name}: expected a finite number, got {value!r}.")
    return float(value)


# --- cameras/real_estate10k.py: RealEstate10K and CameraCtrl text files: a line per frame, intrinsics divided by the image size.


_COLUMNS = 19


def read_real_estate10k(file: Path, height: int, width: int) -> Capture:
    """Reads a trajectory. The file does not know its image size, so it has to be given.

    Args:
        file (`Path`): A URL line, then 19 columns a line: timestamp, fx, fy, cx, cy divided by width and height, 0 0, and
            the 3 × 4 world-to-camera matrix.
        height (`int`), width (`int`): Image size in pixels.
    """
    height, width = as_size("height", height), as_size("width", width)
    lines = read_text(file).splitlines()
    rows, names = [], []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields = line.split()
        try:
            row = [float(value) for value in fields[1:]]
            if len(fields) != _COLUMNS or not all(map(math.isfinite, row)):
                raise ValueError(len(fields))
        except ValueError as error:
            raise CamerasError(
                f"{file}: line {number}: expected {_COLUMNS} finite numbers, got {line[:80]!r}."
            ) from error
        rows.append(row)
        names.append(fields[0])
    if not rows:
        raise CamerasError(f"{file}: expected a URL line and at least one camera.")
    table = torch.tensor(rows, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(rows), 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = table[:, 0] * width, table[:, 1] * height
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = table[:, 2] * width, table[:, 3] * height
    poses = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    poses[:, :3] = table[:, 6:].reshape(-1, 3, 4)
    try:
        cameras = cameras_from_convention(poses, intrinsics, height, width, convention="opencv_w2c")
    except CamerasError as error:
        raise CamerasError(f"{file}: {error}") from error
    return Capture(cameras, tuple(names), (None,) * len(rows), (None,) * len(rows))


def write_real_estate10k(file: Path, cameras: Cameras, names: Sequence[str]) -> None:
    """Writes a trajectory; `names` are the timestamps where they are numbers, else the frames are counted."""
    numbers = names if all(name.isdigit() for name in names) else [str(i) for i in range(len(cameras))]
    poses = camera_to_world_in(cameras.to(dtype=torch.float64), "opencv_w2c")[:, :3].flatten(1)
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
    focal, center = cameras.focal.double() / size, cameras.intrinsics[:, :2, 2].double() / size
    lines = ["https://"]
    for number, *row in zip(numbers, focal.tolist(), center.tolist(), poses.tolist()):
        values = [*row[0], *row[1], 0.0, 0.0, *row[2]]
        lines.append(" ".join([number, *map(repr, values)]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- cameras/transforms_json.py: nerfstudio's transforms.json: OpenGL camera-to-world matrices with intrinsics per frame or for all.


_INTRINSIC_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_RADIAL = ("k1", "k2", "k3", "k4", "k5", "k6")
_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


def read_transforms_json(
    file: Path, height: int | None = None, width: int | None = None, convention: str | None = None
) -> Capture:
    """Reads a transforms.json, frames in the file's order, poses in the world before `applied_transform`.

    Args:
        file (`Path`): The file.
        height (`int`, *optional*), width (`int`, *optional*): Image size of a file that does not say `h` and `w`, such as
            Blender's.
        convention (`str`, *optional*): Axes of the poses, a name of `CONVENTIONS`; OpenGL, as nerfstudio defines the file,
            if not given.

    Raises:
        MVCustomError: naming the file and the field that cannot be used.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise MVCustomError(f"{file}: expected a JSON object, got {type(content).__name__}.")
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise CamerasError(f"{file}: frames: expected a list of at least one frame.")
    per_frame = [any(name in frame for name in ("fl_x", "camera_angle_x")) for frame in frames]
    if any(per_frame) and not all(per_frame):
        raise CamerasError(
            f"{file}: expected intrinsics in all frames or in none, got them in {sum(per_frame)} of {len(frames)}."
        )
    poses, intrinsics, sizes, distortions = [], [], [], []
    for i, frame in enumerate(frames):
        holder = {**content, **frame} if per_frame[0] else content
        where = f"{file}: frames[{i}]" if per_frame[0] else f"{file}"
        matrix, size = _intrinsics(where, holder, height, width)
        intrinsics.append(matrix)
        sizes.append(size)
        distortions.append(_distortion(where, holder))
        poses.append(_matrix(f"{file}: frames[{i}]: transform_matrix", frame.get("transform_matrix"), (4, 4)))
    if len(set(distortions)) != 1:
        raise CamerasError(
            f"{file}: expected one lens for all frames, got {len(set(distortions))} sets of distortion."
        )
    applied = torch.eye(4, dtype=torch.float64)
    if "applied_transform" in content:
        applied[:3] = _matrix(f"{file}: applied_transform", content["applied_transform"], (3, 4))
        if torch.linalg.det(applied).abs() < 1e-8:
            raise CamerasError(f"{file}: applied_transform: expected an invertible matrix.")
    height, width = one_size(file, sizes)
    try:
        camera_to_world = torch.linalg.inv(applied) @ camera_to_world_from(torch.stack(poses), convention or "opengl")
        cameras = Cameras(camera_to_world, torch.stack(intrinsics), height, width)
    except CamerasError as error:
        raise CamerasError(f"{file}: {error}") from error
    folder = file.parent
    named = [frame.get("file_path") for frame in frames]
    return Capture(
        cameras=cameras,
        names=tuple(str(name) if name is not None else f"{i:04d}" for i, name in enumerate(named)),
        image_paths=tuple(None if name is None else _image(folder, name, file) for name in named),
        mask_paths=tuple(
            None if frame.get("mask_path") is None else inside_folder(folder, frame["mask_path"], file)
            for frame in frames
        ),
        distortion=None if distortions[0].is_none else distortions[0],
    )


def write_transforms_json(
    file: Path,
    cameras: Cameras,
    names: Sequence[str],
    point_cloud: str | None = None,
    mask_names: Sequence[str | None] | None = None,
) -> None:
    """Writes cameras as a transforms.json.

    `names` become the frames' `file_path`, `mask_names` their `mask_path`, `point_cloud` the `ply_file_path`.
    """
    poses = camera_to_world_in(cameras.to(dtype=torch.float64), "opengl")
    intrinsics = cameras.intrinsics.double()
    shared = bool((intrinsics == intrinsics[0]).all())
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    if point_cloud is not None:
        content["ply_file_path"] = point_cloud
    if shared:
        content |= _intrinsics_to_dict(intrinsics[0], cameras)
    content["frames"] = [
        {
            "file_path": name,
            **({} if mask is None else {"mask_path": mask}),
            **({} if shared else _intrinsics_to_dict(matrix, cameras)),
            "transform_matrix": pose.tolist(),
        }
        for name, mask, pose, matrix in zip(names, mask_names or [None] * len(names), poses, intrinsics)
    ]
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _number(where: str, name: str, value: Any) -> float:
    if not is_finite_number(value):
        raise CamerasError(f"{where}: {name}: expected a finite number, got {value!r}.")
    return float(value)


def _matrix(where: str, value: Any, shape: tuple[int, int]) -> torch.Tensor:
    rows = value if isinstance(value, list) else []
    if len(rows) != shape[0] or not all(isinstance(row, list) and len(row) == shape[1] for row in rows):
        raise CamerasError(f"{where}: expected {shape[0]} rows of {shape[1]} numbers.")
    return torch.tensor([[_number(where, "entry", entry) for entry in row] for row in rows], dtype=torch.float64)


def _intrinsics(
    where: str, holder: dict[str, Any], given_height: int | None, given_width: int | None
) -> tuple[torch.Tensor, tuple[int, int]]:
    size = []
    for name, argument, given in (("h", "height", given_height), ("w", "width", given_width)):
        if holder.get(name) is None:
            if given is None:
                raise CamerasError(
                    f"{where}: {name}: expected the {argument} in pixels, which this file lacks; write h and w there, or "
                    "pass height= and width= (--height and --width)."
                )
            size.append(as_size(argument, given))
            continue
        value = _number(where, name, holder[name])
        if value < 1 or value != int(value) or value > 2**20:
            raise CamerasError(f"{where}: {name}: expected a size in pixels, got {value}.")
        size.append(int(value))
    height, width = size
    if "fl_x" in holder:
        fl_x = _number(where, "fl_x", holder["fl_x"])
        fl_y = _number(where, "fl_y", holder.get("fl_y", fl_x))
    elif "camera_angle_x" in holder:
        fl_x = width / 2 / math.tan(_angle(where, "camera_angle_x", holder) / 2)
        fl_y = (
            height / 2 / math.tan(_angle(where, "camera_angle_y", holder) / 2) if "camera_angle_y" in holder else fl_x
        )
    else:
        raise CamerasError(f"{where}: fl_x: expected fl_x (and fl_y) or camera_angle_x, got neither.")
    cx = _number(where, "cx", holder.get("cx", width / 2))
    cy = _number(where, "cy", holder.get("cy", height / 2))
    return torch.tensor([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]], dtype=torch.float64), (height, width)


def _angle(where: str, name: str, holder: dict[str, Any]) -> float:
    angle = _number(where, name, holder[name])
    if not 1e-6 < angle < math.pi:
        raise CamerasError(f"{where}: {name}: expected radians between 0 and pi, got {angle}.")
    return angle


def _distortion(where: str, holder: dict[str, Any]) -> Distortion:
    model = holder.get("camera_model", "OPENCV")
    if model not in _PINHOLE + _FISHEYE:
        raise CamerasError(f"{where}: camera_model: expected one of {', '.join(_PINHOLE + _FISHEYE)}, got {model!r}.")
    radial = [_number(where, name, holder.get(name, 0.0)) for name in _RADIAL]
    while radial and radial[-1] == 0:
        radial.pop()
    p1, p2 = (_number(where, name, holder.get(name, 0.0)) for name in ("p1", "p2"))
    try:
        return Distortion(tuple(radial), (p1, p2), fisheye=model in _FISHEYE)
    except CamerasError as error:
        raise CamerasError(f"{where}: {error}") from error


def _image(folder: Path, name: Any, file: Path) -> Path:
    path = inside_folder(folder, name, file)
    if path.suffix == "":  # Blender's datasets leave the suffix out
        path = next(
            (path.with_suffix(suffix) for suffix in (".png", ".jpg") if path.with_suffix(suffix).exists()), path
        )
    return path


def _intrinsics_to_dict(intrinsics: torch.Tensor, cameras: Cameras) -> dict[str, float]:
    fl_x, fl_y, cx, cy = (intrinsics[i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return dict(zip(_INTRINSIC_KEYS, (fl_x, fl_y, cx, cy, cameras.width, cameras.height)))


# --- cameras/files.py: Camera files by name and content: one call to read any of them, one to write.


FORMATS = ("transforms_json", "camera_path_json", "colmap", "co3d", "polycam", "real_estate10k")
_JSON_READERS = {"transforms_json": read_transforms_json, "camera_path_json": read_camera_path_json}


def load_capture(
    path: str | PathLike[str],
    format: str | None = None,
    *,
    sequence: str | None = None,
    height: int | None = None,
    width: int | None = None,
    convention: str | None = None,
) -> Capture:
    """Reads cameras with the names and files of their photos.

    Args:
        path (`str` or path): A `transforms.json` (or a folder with one), a `camera_path.json` of nerfstudio's viewer, the
            folder of a COLMAP model (or one that holds it as `sparse/0`, `sparse` or `colmap`), a CO3Dv2
            `frame_annotations.jgz`, the folder of a Polycam export (raw data), or a RealEstate10K .txt.
        format (`str`, *optional*): A name of `FORMATS`; recognised by name and content if not given.
        sequence (`str`, *optional*): The sequence of a CO3Dv2 file.
        height (`int`, *optional*), width (`int`, *optional*): Image size of a file that has none: RealEstate10K always,
            JSON files at times. They stand in for what the file lacks and are no size to resize to: cameras of a file that
            says its size have that one, whatever is given here; [`Cameras.resize`] and [`Cameras.cover`] change it.
        convention (`str`, *optional*): A name of `CONVENTIONS`, for a JSON file whose poses are not OpenGL's, as nerfstudio
            defines them.

    Raises:
        MVCustomError: naming the file and what cannot be used.
    """
    path = Path(path)
    if format is None:
        format = recognise_format(path)
        if format is None:
            raise MVCustomError(
                f"{path}: expected a folder with transforms.json, a COLMAP model (cameras and images), "
                "frame_annotations.jgz or Polycam's keyframes."
            )
    _check_format(format)
    if format in _JSON_READERS:
        file = path / "transforms.json" if path.is_dir() else path
        return _JSON_READERS[format](file, height, width, convention)
    if convention is not None:
        raise CamerasError(
            f"{path}: convention: only for JSON files; a file of {format} has its own, got {convention!r}."
        )
    if format == "colmap":
        return read_colmap(path.parent if path.is_file() else path)
    if format == "co3d":
        return read_co3d(path / "frame_annotations.jgz" if path.is_dir() else path, sequence)
    if format == "polycam":
        return read_polycam(path)
    if height is None or width is None:
        raise CamerasError(f"{path}: height, width: a RealEstate10K file does not know its image size; give both.")
    return read_real_estate10k(path, height, width)


def load_cameras(path: str | PathLike[str], format: str | None = None, **options: Any) -> Cameras:
    """Reads the cameras of a file, in the image size that the file has.

    `format`, `sequence`, `height`, `width` and `convention` are those of [`load_capture`]. A `height` and `width` are for
    files that lack them and resize nothing: `load_cameras(file).cover(height, width)` does.

    Raises:
        CamerasError: also if the photos are distorted: their cameras are only right for undistorted photos.
    """
    capture = load_capture(path, format, **options)
    if capture.distortion is not None:
        raise CamerasError(
            f"{path}: these cameras belong to undistorted photos, and the lens has distortion {capture.distortion}. Undo it "
            "first (colmap image_undistorter, or load_capture and undistort_image)."
        )
    return capture.cameras


def save_cameras(
    path: str | PathLike[str],
    cameras: Cameras,
    format: str | None = None,
    *,
    names: Sequence[str] | None = None,
    mask_names: Sequence[str | None] | None = None,
    points: tuple[Tensor, Tensor] | None = None,  # [P, 3] and [P, 3]
) -> None:
    """Writes cameras. What is there is replaced only after all is written.

    Args:
        path (`str` or path): A .json or .txt file, or the folder of a COLMAP model.
        cameras ([`Cameras`]): What to write.
        format (`str`, *optional*): `"transforms_json"`, `"colmap"` (.bin), `"colmap_text"` or `"real_estate10k"`; by the
            name's ending if not given.
        names (sequence of `str`, *optional*): One per camera: the photos' paths from the file.
        mask_names (sequence of `str` or `None`, *optional*): One per camera: the masks' paths from the file. Only
            transforms_json holds them; in other formats they are left out.
        points (tuple of `torch.Tensor` of shape `(P, 3)`, *optional*): Positions and colours (0 to 255), for COLMAP.
    """
    path = Path(path)
    check_kind("cameras", cameras, Cameras)
    if names is None:
        names = [f"{i:04d}.png" for i in range(len(cameras))]
    _check_names("names", names, len(cameras))
    if mask_names is not None:
        _check_names("mask_names", mask_names, len(cameras))
    if format is None:
        format = {".json": "transforms_json", ".txt": "real_estate10k", "": "colmap"}.get(path.suffix)
    if format not in ("transforms_json", "colmap", "colmap_text", "real_estate10k"):
        raise CamerasError(
            f"format: expected transforms_json, colmap, colmap_text or real_estate10k, got {format!r} for {path.name!r}."
        )
    if points is not None and not format.startswith("colmap"):
        raise CamerasError(f"points: {format} holds none; write a COLMAP model.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        written = Path(temporary) / path.name
        if format.startswith("colmap"):
            written.mkdir()
            write_colmap(written, cameras, names, binary=format == "colmap", points=points)
            path.mkdir(exist_ok=True)
            for old in [
                f"{stem}{suffix}" for stem in ("cameras", "images", "points3D") for suffix in (".bin", ".txt")
            ]:
                (path / old).unlink(missing_ok=True)
            for file in written.iterdir():
                shutil.move(file, path / file.name)
            return
        if format == "transforms_json":
            write_transforms_json(written, cameras, names, mask_names=mask_names)
        else:
            write_real_estate10k(written, cameras, names)
        os.replace(written, path)


def _check_names(argument: str, names: Sequence[str | None], count: int) -> None:
    if len(names) != count:
        raise CamerasError(f"{argument}: expected one per camera ({count}), got {len(names)}.")
    for name in names:
        if name is not None and (not name or any(ord(letter) < 32 for letter in name)):
            raise CamerasError(
                f"{argument}: expected names of photos, got {name!r}, which would break a line of the file."
            )


def recognise_format(path: Path) -> str | None:
    """The format of a camera file, or of the cameras in a folder; `None` for a folder without any."""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise MVCustomError(f"{path}: cannot be read: {error}") from error
    if not is_folder and not is_file:
        raise MVCustomError(f"{path}: there is no such file or folder.")
    if is_folder:
        if (path / "transforms.json").is_file():
            return "transforms_json"
        if find_model(path) is not None:
            return "colmap"
        if (path / "frame_annotations.jgz").is_file():
            return "co3d"
        if find_keyframes(path) is not None:
            return "polycam"
        return None
    if path.suffix == ".jgz":
        return "co3d"
    if path.suffix == ".bin" or path.name in ("cameras.txt", "images.txt"):
        return "colmap"
    if path.suffix == ".txt":
        return "real_estate10k"
    # A large capture, which a transforms.json by that name may be, is not read twice.
    return (
        "camera_path_json" if path.name != "transforms.json" and is_camera_path(read_json(path)) else "transforms_json"
    )


def _check_format(format: str) -> None:
    if not isinstance(format, str) or format not in FORMATS:
        raise CamerasError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}.")


# --- pipelines/inputs.py: What users give a call, checked and brought into one form before anything expensive happens.


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


# --- models/pose_conditioned_block.py: The pose-conditioned transformer block: a stock block that mixes rendered subject features into its hidden states.


class PoseConditioning:
    """What the pose-conditioned blocks of one subject are told during a U-Net call.

    All blocks of a subject share one instance. Outside its context managers it is empty and the blocks are exactly
    the stock blocks. With gradient checkpointing the context must stay open during the backward pass, which runs the
    blocks again.
    """

    def __init__(self) -> None:
        self._rendered: Mapping[str, Tensor] | None = None
        self._collected: dict[str, Tensor] | None = None

    @contextmanager
    def rendered(self, features: Mapping[str, Tensor]) -> Iterator[None]:
        """Mixes `features` into the blocks for the length of the context.

        Args:
            features (mapping of `str` to `torch.Tensor`): rendered subject features X_y by block name, each of shape
                `(batch, height * width, channels)` in the batch order of the U-Net call (frames innermost). A zero
                row means that the references are dropped for this batch element.
        """
        with self._holding("_rendered", features):
            yield

    def replace_rendered(self, features: Mapping[str, Tensor]) -> None:
        """Other features for the rest of the open [`~PoseConditioning.rendered`] context.

        A training step opens the context around forward and backward pass and renders inside of it.
        """
        if self._rendered is None:
            raise RuntimeError("PoseConditioning: replace_rendered needs an open rendered() context.")
        self._rendered = features

    @contextmanager
    def collecting(self) -> Iterator[dict[str, Tensor]]:
        """Records every block's hidden states before its feed-forward, `(batch, height * width, channels)` by name."""
        collected: dict[str, Tensor] = {}
        with self._holding("_collected", collected):
            yield collected

    @contextmanager
    def _holding(self, attribute: str, value: Mapping[str, Tensor]) -> Iterator[None]:
        if self._rendered is not None or self._collected is not None:
            raise RuntimeError("PoseConditioning: one U-Net call at a time; this subject's blocks are already in use.")
        setattr(self, attribute, value)
        try:
            yield
        finally:
            setattr(self, attribute, None)

    @property
    def active(self) -> bool:
        """Whether a call conditions or collects just now."""
        return self._rendered is not None or self._collected is not None

    def __call__(self, block: PoseConditionedTransformerBlock, hidden_states: Tensor) -> Tensor:
        """Conditions the block on rendered features, or collects its input."""
        if self._collected is not None:
            self._collected[block.block_name] = hidden_states
            return hidden_states
        if self._rendered is None:
            return hidden_states
        features = self._rendered.get(block.block_name)
        if features is None:
            raise MVCustomError(
                f"features: expected rendered features for block {block.block_name!r}, got {sorted(self._rendered)}."
            )
        if features.shape != hidden_states.shape:
            raise MVCustomError(
                f"features[{block.block_name!r}]: expected shape {tuple(hidden_states.shape)} (batch * frames, "
                f"height * width, channels), got {tuple(features.shape)}. Rendered for other cameras or another size?"
            )
        return block.pose_conditioner.projection(hidden_states, features)


class PoseProjection(nn.Module):
    """`x ← P [x ; X_y]`, P a linear layer without bias, initialised to `[I | 0]` (so it starts as the identity).

    P is stored as its difference from `[I | 0]`, and the mixed states are computed as `x + D [x ; X_y]`. That is the
    same map, but the identity is exact in every dtype: a fresh projection returns `x` bit for bit.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.difference = nn.Linear(2 * channels, channels, bias=False)
        nn.init.zeros_(self.difference.weight)

    def forward(
        self,
        hidden_states: Tensor,  # [..., C]
        features: Tensor,  # [..., C]
    ) -> Tensor:
        """The states mixed with the features, of their shape."""
        features = features.to(hidden_states.dtype)
        return hidden_states + self.difference(torch.cat([hidden_states, features], dim=-1))


class PoseConditioner(nn.Module):
    """What a pose-conditioned block has beyond its stock block: the FeatureNeRF and the projection."""

    def __init__(self, feature_nerf: FeatureNeRF) -> None:
        super().__init__()
        self.feature_nerf = feature_nerf
        self.projection = PoseProjection(feature_nerf.channels)


class PoseConditionedTransformerBlock(BasicTransformerBlock):
    """A stock transformer block with `x ← P [x ; X_y]` between its attentions and its feed-forward.

    It shares every submodule with the stock block that it stands in for, under the same names, so LoRA, IP-Adapter
    and offloading see the block they know; the stock block can be put back at any time.

    Source: the pose-conditioned transformer block of CustomDiffusion360 (arXiv 2404.12333), as used by MVCustom.
    """

    block_name: str
    conditioning: PoseConditioning

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Use PoseConditionedTransformerBlock.from_block(block, ...).")

    @classmethod
    def from_block(
        cls,
        block: BasicTransformerBlock,
        pose_conditioner: PoseConditioner,
        conditioning: PoseConditioning,
        block_name: str,
    ) -> PoseConditionedTransformerBlock:
        """Builds the block around `block`'s own submodules. `block` itself is not changed.

        Raises:
            MVCustomError: if `block` is not a text-conditioned block of a stock U-Net's spatial layers (with plain layer
                norms, and without the positional embedding of motion modules or GLIGEN's fuser), or has other channels
                than `pose_conditioner`.
        """
        if isinstance(block, PoseConditionedTransformerBlock):
            raise MVCustomError(f"block {block_name!r} already belongs to an attached subject; detach that first.")
        problem = _why_not_text_conditioned(block)
        if problem is not None:
            raise MVCustomError(
                f"block {block_name!r}: expected a text-conditioned BasicTransformerBlock of a U-Net's spatial layers, "
                f"got {problem}."
            )
        channels = pose_conditioner.feature_nerf.channels
        if channels != block.dim:
            raise MVCustomError(
                f"block {block_name!r}: expected a pose conditioner of the block's {block.dim} channels, got {channels}."
            )
        conditioned = cls.__new__(cls)
        nn.Module.__init__(conditioned)
        conditioned.__dict__.update(block.__dict__)
        conditioned.__dict__.pop("forward", None)  # left behind by hooks that were on the block and are off again
        conditioned._modules = dict(block._modules)  # our own registry over the same submodules
        conditioned.pose_conditioner = pose_conditioner
        conditioned.conditioning = conditioning
        conditioned.block_name = block_name
        # Not `conditioned.train`: the submodules are the stock block's, and may be in different modes.
        pose_conditioner.train(block.training)
        return conditioned

    def forward(
        self,
        hidden_states: Tensor,  # [B, P, C]
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,  # [B, L, D]
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict | None = None,
    ) -> Tensor:
        """As the stock block's, with the projection between attentions and feed-forward."""
        if not self.conditioning.active:
            return super().forward(
                hidden_states,
                attention_mask=attention_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                timestep=timestep,
                cross_attention_kwargs=cross_attention_kwargs,
                class_labels=class_labels,
                added_cond_kwargs=added_cond_kwargs,
            )
        cross_attention_kwargs = cross_attention_kwargs or {}
        attended = self.attn1(
            self.norm1(hidden_states),
            encoder_hidden_states=encoder_hidden_states if self.only_cross_attention else None,
            attention_mask=attention_mask,
            **cross_attention_kwargs,
        )
        hidden_states = attended + hidden_states
        attended = self.attn2(
            self.norm2(hidden_states),
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask,
            **cross_attention_kwargs,
        )
        hidden_states = self.conditioning(self, attended + hidden_states)
        normed = self.norm3(hidden_states)
        if self._chunk_size is None:
            return self.ff(normed) + hidden_states
        return _chunked_feed_forward(self.ff, normed, self._chunk_dim, self._chunk_size) + hidden_states

    def attend_text(
        self,
        features: Tensor,  # [B, P, C]
        encoder_hidden_states: Tensor,  # [B, L, D]
    ) -> Tensor:
        """The block's own text cross-attention with its residual, for FeatureNeRF's point features, `(B, P, C)`.

        Runs the attention's weights (LoRA included) with a plain processor: an IP-Adapter's processor expects image
        states beside the text, which the subject's features have none of.
        """
        return features + AttnProcessor2_0()(
            self.attn2, self.norm2(features), encoder_hidden_states=encoder_hidden_states
        )


def _why_not_text_conditioned(block: nn.Module) -> str | None:
    if not isinstance(block, BasicTransformerBlock):
        return type(block).__name__
    if block.norm_type != "layer_norm":
        return f"one with norm_type {block.norm_type!r}"
    if block.attn2 is None or not block.attn2.is_cross_attention:
        return "one without text attention"
    if block.pos_embed is not None:
        return "one with a positional embedding (of a motion module?)"
    if hasattr(block, "fuser"):
        return "one with GLIGEN's fuser"
    return None


# --- cameras/normalization.py: The subject frame: origin at the subject, +Y up, farthest camera at distance 1.


Up = str | Sequence[float] | Tensor | None
"""World up: `"auto"`, a vector, or `None` for that of the cameras' own world."""


@dataclass(frozen=True, eq=False)
class SubjectFrame:
    """The similarity that maps subject coordinates to the user's world: `x_user = scale * rotation @ x + translation`.

    Args:
        scale (`float`): User units in one unit of the subject frame.
        rotation (`torch.Tensor` of shape `(3, 3)`): From subject to user axes.
        translation (`torch.Tensor` of shape `(3,)`): The subject's origin in the user's world.
    """

    scale: float
    rotation: Tensor  # [3, 3]
    translation: Tensor  # [3]

    def __post_init__(self) -> None:
        try:
            rotation = torch.as_tensor(self.rotation, dtype=torch.float64)
            translation = torch.as_tensor(self.translation, dtype=torch.float64)
            scale = float(self.scale)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise MVCustomError(f"subject_frame: expected numbers that a float can hold: {error}") from error
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise MVCustomError(
                "subject_frame: expected a rotation of shape (3, 3) and a translation of shape (3,), got "
                f"{tuple(rotation.shape)} and {tuple(translation.shape)}."
            )
        finite = rotation.isfinite().all() and translation.isfinite().all() and math.isfinite(scale)
        if not (finite and scale > 0):
            raise MVCustomError(f"subject_frame: expected finite numbers and a scale above 0, got scale {scale}.")
        skew = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
        if not skew <= 1e-4 or torch.det(rotation) < 0:  # NaN of an overflow too
            raise MVCustomError(f"subject_frame: expected a rotation matrix, got {rotation.tolist()}.")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def identity(cls) -> SubjectFrame:
        """The frame of cameras that need no change."""
        return cls(1.0, torch.eye(3), torch.zeros(3))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubjectFrame) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.scale, *self.translation.tolist()))

    def to_user(self, cameras: Cameras) -> Cameras:
        """Cameras of the subject frame in the user's world."""
        check_kind("cameras", cameras, Cameras)
        rotation, translation = self.rotation.to(cameras.camera_to_world), self.translation.to(cameras.camera_to_world)
        poses = cameras.camera_to_world.clone()
        poses[:, :3, :3] = rotation @ cameras.camera_to_world[:, :3, :3]
        poses[:, :3, 3] = self.scale * cameras.centers @ rotation.T + translation
        return replace(cameras, camera_to_world=poses)

    def points_to_user(
        self,
        points: Tensor,  # [..., 3]
    ) -> Tensor:
        """Points of the subject frame in the user's world, `(..., 3)`."""
        return self.scale * points @ self.rotation.to(points).T + self.translation.to(points)

    def to_subject(self, cameras: Cameras) -> Cameras:
        """Cameras of the user's world in the subject frame."""
        check_kind("cameras", cameras, Cameras)
        rotation, translation = self.rotation.to(cameras.camera_to_world), self.translation.to(cameras.camera_to_world)
        poses = cameras.camera_to_world.clone()
        poses[:, :3, :3] = rotation.T @ cameras.camera_to_world[:, :3, :3]
        poses[:, :3, 3] = (cameras.centers - translation) @ rotation / self.scale
        return replace(cameras, camera_to_world=poses)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; exact."""
        return {
            "scale": self.scale,
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SubjectFrame:
        """The inverse of [`~SubjectFrame.to_dict`]."""
        if not isinstance(values, Mapping) or set(values) != {"scale", "rotation", "translation"}:
            raise MVCustomError(f"subject_frame: expected scale, rotation and translation, got {values!r}.")
        return cls(**values)


def normalize_cameras(
    cameras: Cameras,
    *,
    up: Up = "auto",
) -> tuple[Cameras, SubjectFrame]:
    """Brings cameras into the subject frame.

    The origin is the optical axes' nearest common point, world up becomes +Y, and the farthest camera stands at distance
    1. The horizontal axes are those nearest to the user's own.

    Args:
        cameras ([`Cameras`]): At least two cameras that look at the subject from different directions.
        up (`str`, vector or `None`, defaults to `"auto"`): World up; `"auto"` estimates it, see [`estimate_up`]; `None`
            keeps the orientation.

    Returns:
        The cameras in the subject frame, and the [`SubjectFrame`] that maps them back.

    Raises:
        CamerasError: if the optical axes have no common point (all parallel, or a single camera).
    """
    check_kind("cameras", cameras, Cameras)
    exact = cameras.to(dtype=torch.float64)
    center = nearest_point_to_axes(exact)
    if up is None:
        rotation = torch.eye(3, dtype=torch.float64)
    else:
        vertical = estimate_up(exact) if isinstance(up, str) and up == "auto" else _checked_up(up)
        rotation = _rotation_to_up(vertical.to(exact.device))
    scale = (exact.centers - center).norm(dim=-1).max().item()
    if not scale > 0:
        raise CamerasError("cameras: expected cameras at a distance from the subject, got all at one point.")
    frame = SubjectFrame(scale, rotation.cpu(), center.cpu())
    return frame.to_subject(exact).to(dtype=cameras.dtype), frame


def nearest_point_to_axes(cameras: Cameras) -> Tensor:
    """The point with the least sum of squared distances to all optical axes, `(3,)`.

    Raises:
        CamerasError: if the axes are too parallel to fix one.
    """
    axes = cameras.optical_axes
    across = torch.eye(3).to(axes) - axes[:, :, None] * axes[:, None, :]  # projections off each axis
    system = across.sum(dim=0)
    if torch.linalg.eigvalsh(system)[0] < 1e-4 * len(cameras):
        raise CamerasError(
            f"cameras: expected optical axes that meet near the subject, got {len(cameras)} (nearly) parallel one(s). "
            "One photo, or a camera that only moved sideways? Take photos from around the subject."
        )
    return torch.linalg.solve(system, (across @ cameras.centers[:, :, None]).sum(dim=0)).squeeze(-1)


def estimate_up(cameras: Cameras) -> Tensor:
    """World up from the cameras alone, a unit vector `(3,)`, also if some were held turned by 90° or 180°.

    Three habits of people with a camera decide. They hold it level or turned by a quarter, so up, seen in the image, lies
    near one of the four image axes (the mean of the cameras' own "up" says nothing then). They look at an object from
    above more than from below. And they walk around it at much the same height.
    """
    check_kind("cameras", cameras, Cameras)
    poses = cameras.camera_to_world[:, :3, :3].double()
    candidates = torch.cat(
        [_directions(8000).to(poses), *(sign * poses[:, :, axis] for sign in (1, -1) for axis in (0, 1))]
    )
    best = candidates[_disagreement(candidates, poses).argmin()]
    generator = torch.Generator().manual_seed(0)
    for spread in (0.05, 0.02, 0.005, 0.001):
        around = best + spread * torch.randn(256, 3, generator=generator, dtype=torch.float64).to(poses)
        around = torch.cat([best[None], torch.nn.functional.normalize(around, dim=-1)])
        best = around[_disagreement(around, poses).argmin()]
    return best


def _disagreement(candidates: Tensor, poses: Tensor) -> Tensor:
    """How badly each direction `(K, 3)` fits as up to cameras `(N, 3, 3)`, `(K,)`; bounded for each camera."""
    seen = candidates @ poses  # [N, K, 3]: the direction in each camera's axes
    length = seen[..., :2].norm(dim=-1)
    off_axis = seen[..., :2].abs().amin(dim=-1) / length.clamp(min=1e-9)  # sine of the angle to the nearest image axis
    # A camera that looks along the direction sees little of it; one that is 15° off has no vote.
    level = length * (1 - (off_axis / math.sin(math.radians(15))).clamp(max=1) ** 2)
    elevation = -seen[..., 2]  # sine of how far each camera looks down
    return elevation.std(dim=0) - 0.5 * elevation.mean(dim=0) - level.mean(dim=0)


def _directions(count: int) -> Tensor:
    """Evenly spread unit vectors `(count, 3)` (a Fibonacci lattice)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), height, radius * angle.sin()], dim=-1)


def _rotation_to_up(up: Tensor) -> Tensor:
    """Columns are the subject's axes in the user's world: +Y along `up`, the others nearest to the user's X and Z."""
    basis = torch.eye(3).to(up)
    side = basis[0] if up[0].abs() < 0.9 else basis[2]
    x = torch.nn.functional.normalize(side - (side @ up) * up, dim=0)
    return torch.stack([x, up, torch.linalg.cross(x, up, dim=-1)], dim=-1)


def _checked_up(up: str | Sequence[float] | Tensor) -> Tensor:
    try:
        vector = torch.as_tensor(up, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CamerasError(f"up: expected 'auto', None or a vector of 3 numbers, got {up!r}.") from error
    if vector.shape != (3,) or not vector.isfinite().all() or vector.norm() < 1e-9:
        raise CamerasError(f"up: expected a vector of 3 finite numbers that is not zero, got {up!r}.")
    return vector / vector.norm()


# --- package_versions.py: Versions of packages, also of one that runs from its source folder.


def package_version(name: str, missing: str = "unknown") -> str:
    """The version of an installed package; of one that is imported without being installed, its `__version__`.

    Args:
        name (`str`): The package's name as it is installed by, such as `"diffusers-mvcustom"`.
        missing (`str`, *optional*, defaults to `"unknown"`): What to return for a package that is neither.
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return getattr(sys.modules.get(name.replace("-", "_")), "__version__", missing)


# --- subjects/placeholders.py: Texts in which the subject's word and class noun are filled in: `{token}` and `{noun}`, and nothing else.


def placeholders(text: str, name: str) -> set[str]:
    """Which of `token` and `noun` a text has, as `str.format` fills them in.

    Args:
        text (`str`): The text.
        name (`str`): Whose text it is, for messages.

    Raises:
        MVCustomError: for other placeholders, unpaired braces, and formats: `{token:>99999999}` would fill the memory, and
            `{token.x}` look into the program.
    """
    try:
        parsed = string.Formatter().parse(text)
        parts = [(field, format, conversion) for _, field, format, conversion in parsed if field is not None]
    except ValueError as error:
        raise MVCustomError(f"{name}: {text!r}: {error}.") from error
    if any(field not in ("token", "noun") or format or conversion for field, format, conversion in parts):
        raise MVCustomError(
            f"{name}: expected no other placeholders than {{token}} and {{noun}}, without formats, got {text!r}."
        )
    return {field for field, _, _ in parts}


# --- subjects/subject_config.py: What a subject's folder says about it in words and numbers: `subject_config.json`.


FORMAT_VERSION = 1
SUBJECT_CONFIG_NAME = "subject_config.json"


@dataclass(frozen=True)
class SubjectConfig:
    """A subject's settings.

    Args:
        token (`str`): The new word that stands for the subject in prompts, such as `"<my-mug>"`. No spaces.
        class_noun (`str`): What kind of thing it is, such as `"mug"`.
        initializer_token (`str`): The known word whose embedding the new one started from.
        pose_conditioned_blocks (`dict[str, int]`): Channels of each pose-conditioned transformer block by its module
            name in the U-Net, in the order in which the U-Net runs them.
        feature_nerf ([`FeatureNeRFConfig`]): Settings of every block's FeatureNeRF.
        subject_frame ([`SubjectFrame`], *optional*): The similarity between the photos' world and the subject frame,
            in which all cameras are given. `None` if the photos' world already is the subject frame.
        reference_prompt (`str`): The text that the reference views are seen with; `{token}` and `{noun}` are filled
            in.
        num_references (`int`, *optional*, defaults to 8): How many reference views a generation uses.
        reference_timestep (`int`, *optional*, defaults to 0): Noise level at which the U-Net sees the reference views;
            0 leaves them clean.
        base_model (`str`, *optional*): Hub id of the model that the subject was trained on.
        versions (`dict[str, str]`, *optional*): Versions of the packages that made the subject.
        training (`dict`, *optional*): The trainer's settings, for the record.

    Raises:
        MVCustomError: naming the field, what was expected and what came.
    """

    token: str
    class_noun: str
    initializer_token: str
    pose_conditioned_blocks: Mapping[str, int]
    feature_nerf: FeatureNeRFConfig
    subject_frame: SubjectFrame | None = None
    reference_prompt: str = "a photo of a {token} {noun}"
    num_references: int = 8
    reference_timestep: int = 0
    base_model: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("token", "class_noun", "initializer_token", "reference_prompt"):
            _check(self, name, lambda value: isinstance(value, str) and value.strip(), "a text that is not empty")
        _check(self, "token", lambda value: not any(c.isspace() for c in value), "one word without spaces")
        _check(self, "base_model", lambda value: value is None or isinstance(value, str), "a text or null")
        _check(self, "num_references", lambda value: _is_int(value) and value >= 1, "a whole number of at least 1")
        _check(self, "reference_timestep", lambda value: _is_int(value) and value >= 0, "a whole number of at least 0")
        _check(
            self,
            "pose_conditioned_blocks",
            lambda value: (
                isinstance(value, Mapping)
                and value
                and all(_is_int(c) and 0 < c <= LARGEST_WIDTH for c in value.values())
            ),
            f"channels (at most {LARGEST_WIDTH:,}) by block name, at least one block",
        )
        _check(
            self,
            "versions",
            lambda value: isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()),
            "texts by package name",
        )
        _check(self, "training", lambda value: isinstance(value, Mapping), "settings by name")
        if "token" not in placeholders(self.reference_prompt, "reference_prompt"):
            raise MVCustomError(
                "reference_prompt: expected a text with {token} and, if wanted, {noun}, got "
                f"{self.reference_prompt!r}."
            )

    @property
    def reference_prompt_text(self) -> str:
        """The reference prompt with the subject's token and class noun."""
        return self.reference_prompt.format(token=self.token, noun=self.class_noun)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["feature_nerf"] = self.feature_nerf.to_dict()
        values["subject_frame"] = None if self.subject_frame is None else self.subject_frame.to_dict()
        for name in ("pose_conditioned_blocks", "versions", "training"):
            values[name] = dict(values[name])
        return {"format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SubjectConfig:
        """The inverse of [`~SubjectConfig.to_dict`]. Every key has to be there, and no other.

        Raises:
            MVCustomError: naming the key.
        """
        if not isinstance(values, Mapping):
            raise MVCustomError(f"expected an object with the subject's settings, got {type(values).__name__}.")
        version = values.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            newer = (
                " Made by a newer version of this package?" if _is_int(version) and version > FORMAT_VERSION else ""
            )
            raise MVCustomError(f"format_version: expected {FORMAT_VERSION}, got {version!r}.{newer}")
        known = {"format_version", *(entry.name for entry in fields(cls))}
        if missing := sorted(known - values.keys()):
            raise MVCustomError(f"expected the keys {sorted(known)}, but {missing} are missing.")
        if unknown := sorted(values.keys() - known):
            raise MVCustomError(f"expected the keys {sorted(known)}, got unknown keys {unknown}.")
        values = {name: value for name, value in values.items() if name != "format_version"}
        values["feature_nerf"] = _part("feature_nerf", FeatureNeRFConfig, values["feature_nerf"])
        if values["subject_frame"] is not None:
            values["subject_frame"] = _part("subject_frame", SubjectFrame, values["subject_frame"])
        return cls(**values)

    def save(self, file: str | PathLike[str]) -> None:
        """Writes the settings as JSON."""
        try:
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise MVCustomError(f"training: expected values that JSON can hold: {error}.") from error
        Path(file).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: str | PathLike[str]) -> SubjectConfig:
        """Reads the settings.

        Raises:
            MVCustomError: naming the file and the key that is missing, unknown or of another kind than expected.
        """
        file = Path(file)
        absent = ", so the folder is no subject's"
        if (file.parent / "subject" / file.name).is_file():
            absent += f"; {file.parent / 'subject'} is one"
        elif (file.parent / "transforms.json").is_file():
            absent += " but photos with cameras, of which `mvcustom train-lora --data` makes a subject"
        values = read_json(file, absent=absent)
        try:
            return cls.from_dict(values)
        except MVCustomError as error:
            raise MVCustomError(f"{file}: {error}") from error


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(config: SubjectConfig, name: str, accept: Any, expected: str) -> None:
    value = getattr(config, name)
    if not accept(value):
        raise MVCustomError(f"{name}: expected {expected}, got {value!r}.")


def _part(name: str, part: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise MVCustomError(f"{name}: expected an object, got {value!r}.")
    try:
        return part.from_dict(value)
    except (TypeError, ValueError, KeyError) as error:
        raise MVCustomError(f"{name}: {str(error).removeprefix(name + ': ')}") from error


# --- subjects/replaceable_blocks.py: The U-Net's blocks whose places pose-conditioned blocks take: found, checked and replaced.


def replaceable_blocks(unet: ModelMixin, config: SubjectConfig) -> dict[str, BasicTransformerBlock]:
    """The blocks of a U-Net that a subject conditions on the camera, by name.

    Args:
        unet (`UNetMotionModel`): A U-Net of the shapes that the subject was made for.
        config ([`SubjectConfig`]): The subject's settings, with the names and channels of its blocks.

    Raises:
        MVCustomError: if another subject has them, one is missing or has other channels, or they carry hooks of offloading,
            are compiled, or have no weights.
    """
    others = [name for name, module in unet.named_modules() if isinstance(module, PoseConditionedTransformerBlock)]
    if others:
        raise MVCustomError(f"another subject is attached to this U-Net (at {others}); detach it first.")
    available = text_conditioned_blocks(unet)
    expected = config.pose_conditioned_blocks
    if missing := [name for name in expected if name not in available]:
        raise MVCustomError(
            f"subject {config.token!r}: made for the base model {config.base_model}, and this one differs: "
            f"the U-Net lacks the blocks {enumerated(missing, 3)}; it has {enumerated(available, 3)}."
        )
    other = {name: available[name] for name in expected if available[name] != expected[name]}
    if other:
        name, channels = next(iter(other.items()))
        raise MVCustomError(
            f"subject {config.token!r}: made for the base model {config.base_model}, and this one differs: "
            f"expected blocks with the channels {expected[name]} in {name}, the U-Net has {channels} "
            f"({len(other)} of {len(expected)} blocks do not fit)."
        )
    blocks = {name: unet.get_submodule(name) for name in expected}
    for name, block in blocks.items():
        _check_replaceable(name, block)
    return blocks


def put_block(unet: nn.Module, name: str, block: nn.Module) -> None:
    """Puts a block into a place of a U-Net, by the place's name."""
    parent, _, index = name.rpartition(".")
    setattr(unet.get_submodule(parent), index, block)  # of a ModuleList


def _check_replaceable(name: str, block: nn.Module) -> None:
    """Refuses blocks whose forward was taken over: the block that stands in would be bypassed, or never moved."""
    hooked = any(
        hasattr(module, "_hf_hook") or getattr(getattr(module, "_diffusers_hook", None), "hooks", None)
        for module in block.modules()
    )
    forward = block.__dict__.get("forward")  # a removed hook leaves the class's own here
    if hooked or getattr(forward, "__func__", forward) not in (None, type(block).forward):
        raise MVCustomError(
            f"block {name!r} carries hooks (of CPU or group offloading, or of a cache); load the subject before "
            "enabling them."
        )
    if getattr(block, "_compiled_call_impl", None) is not None:
        raise MVCustomError(f"block {name!r} is compiled; load the subject before compiling.")
    if any(parameter.is_meta for parameter in block.parameters()):
        raise MVCustomError(
            f"block {name!r} has no weights (meta device); load the subject after the U-Net's weights."
        )


# --- files/whole.py: What is written is there as a whole or not at all.


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well, and is gone when it does not.

    After an error, a full disk or Ctrl-C `folder` is what it was before.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{uuid4().hex}.new")
    try:
        new.mkdir()
        yield new
        take_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def replaced_file(file: Path) -> Iterator[Path]:
    """A path beside `file`, to write to; it takes the file's place when the block ends well, and is gone otherwise."""
    new = file.with_name(f".{file.name}.{uuid4().hex}.new")
    try:
        yield new
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replaced_file(file) as new:
        new.write_text(text, encoding="utf-8")


def take_place(new: Path, place: Path) -> None:
    """Renames a file or folder to `place`. What was there is gone then, or back if that is stopped half way."""
    if not place.is_dir():
        os.replace(new, place)
        return
    old = place.with_name(f".{place.name}.{uuid4().hex}.old")
    try:
        place.rename(old)
        new.rename(place)
    finally:
        if old.exists() and not place.exists():  # stopped between the two renames
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)


# --- subjects/subject_files.py: The subject's folder: writing it as a whole, reading it strictly, and the Hub.


FEATURE_NERF_NAME = "feature_nerf.safetensors"
LORA_NAME = "pytorch_lora_weights.safetensors"
EMBEDDINGS_NAME = "learned_embeds.safetensors"
REFERENCES_FOLDER = "references"
SAMPLES_FOLDER = "samples"
MODEL_CARD_NAME = "README.md"
FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a subject's weights may be stored in."""
_DOWNLOADED = (  # and nothing else: no code, and not a whole model by mistake
    SUBJECT_CONFIG_NAME,
    FEATURE_NERF_NAME,
    LORA_NAME,
    EMBEDDINGS_NAME,
    MODEL_CARD_NAME,
    f"{REFERENCES_FOLDER}/*.json",
    f"{REFERENCES_FOLDER}/*.png",
)


def save_subject_files(
    adapter: SubjectAdapter, folder: str | PathLike[str], samples: Mapping[str, Image.Image] | None = None
) -> None:
    """Writes the subject's folder. See [`SubjectAdapter.save_pretrained`]."""
    folder = Path(folder)
    _check_save_directory(folder)
    try:
        with replaced_folder(folder) as new:
            adapter.config.save(new / SUBJECT_CONFIG_NAME)
            save_file(_conditioner_weights(adapter), new / FEATURE_NERF_NAME, metadata={"format": "pt"})
            if adapter.learned_embeddings:
                save_file(adapter.learned_embeddings, new / EMBEDDINGS_NAME, metadata={"format": "pt"})
            if adapter.lora_state_dict:
                save_file(adapter.lora_state_dict, new / LORA_NAME, metadata={"format": "pt"})
            adapter.references.save(new / REFERENCES_FOLDER)
            for name, picture in (samples or {}).items():
                (new / SAMPLES_FOLDER).mkdir(exist_ok=True)
                picture.save(new / SAMPLES_FOLDER / f"{name}.png")
            _model_card(adapter, list(samples or ())).save(new / MODEL_CARD_NAME)
    except (OSError, SafetensorError) as error:
        raise MVCustomError(
            f"save_directory: {folder} could not be written: {error}. What was there is as it was. Is the disk full?"
        ) from error


def load_subject_files(
    cls: type[SubjectAdapter],
    source: str | PathLike[str],
    *,
    subfolder: str | None,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
) -> SubjectAdapter:
    """Reads a subject's folder. See [`SubjectAdapter.from_pretrained`]."""
    part = None if subfolder is None else inside(Path("subfolder"), subfolder)
    folder = Path(source)
    if not _is_folder(folder):
        folder = _download(str(source), part, revision, cache_dir, token, local_files_only)
    if part is not None:
        folder = folder / part
    config = SubjectConfig.load(folder / SUBJECT_CONFIG_NAME)
    references = ReferenceViews.load(folder / REFERENCES_FOLDER)
    _check_weights(cls, config, references, folder / FEATURE_NERF_NAME)
    adapter = cls(config, references)
    _load_conditioner_weights(adapter, folder / FEATURE_NERF_NAME)
    if (file := folder / EMBEDDINGS_NAME).exists():
        embeddings = _read_tensors(file)
        if list(embeddings) != [config.token]:
            raise MVCustomError(f"{file}: expected one embedding, of {config.token!r}, got {sorted(embeddings)}.")
        with _naming(file):
            adapter.token_embedding = embeddings[config.token]
    if (file := folder / LORA_NAME).exists():
        weights = _read_tensors(file)
        _check_lora_scale(file)
        with _naming(file):
            adapter.lora_state_dict = weights
    return adapter


def save_and_upload_subject(
    adapter: SubjectAdapter, repo_id: str, *, samples: Mapping[str, Image.Image] | None = None, **kwargs: Any
) -> str:
    """Writes the folder to a temporary place and uploads it. See [`SubjectAdapter.push_to_hub`]."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "subject"
        save_subject_files(adapter, folder, samples)
        return upload_subject(folder, repo_id, **kwargs)


def upload_subject(
    folder: str | PathLike[str],
    repo_id: str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload subject",
    revision: str | None = None,
    create_pr: bool = False,
    endpoint: str | None = None,
) -> str:
    """Uploads a subject's folder as one commit; files of an earlier subject in the repository are deleted by it."""
    api = HfApi(endpoint=endpoint, token=token)
    repo_id = api.create_repo(repo_id or Path(folder).name, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
        delete_patterns=[
            *(f"{REFERENCES_FOLDER}/{part}" for part in ("*.png", "*.json")),
            *(LORA_NAME, EMBEDDINGS_NAME, f"{SAMPLES_FOLDER}/*.png"),
        ],
    )
    return commit.commit_url


# --- writing ---


def _check_save_directory(folder: Path) -> None:
    """Refuses to write over anything but a subject."""
    if folder.exists() and not folder.is_dir():
        raise MVCustomError(f"save_directory: {folder} is a file; expected a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUBJECT_CONFIG_NAME).is_file():
        raise MVCustomError(
            f"save_directory: {folder} holds other things than a subject (there is no {SUBJECT_CONFIG_NAME}), and "
            "saving replaces the folder as a whole. Name a new folder, for example one inside of it."
        )


def _conditioner_weights(adapter: SubjectAdapter) -> dict[str, Tensor]:
    return {
        f"{block}.{name}": weight.detach().cpu().contiguous()
        for block in adapter.block_names
        for name, weight in adapter.conditioner(block).state_dict().items()
    }


def _model_card(adapter: SubjectAdapter, samples: list[str]) -> ModelCard:
    config, references = adapter.config, adapter.references
    # A name without an owner is one of the commands' own, such as tiny, which Python does not know.
    named = config.base_model is not None and "/" in config.base_model
    data = ModelCardData(
        base_model=config.base_model if named and _is_hub_id(config.base_model) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["diffusers", "diffusers-mvcustom", "multi-view", "text-to-image"],
    )
    parts = ["FeatureNeRF"] + ["LoRA"] * bool(adapter.lora_state_dict) + ["token"] * bool(adapter.learned_embeddings)
    prompt = f"a {config.token} {config.class_noun} on a mossy rock by a lake"
    focal = references.cameras.focal.mean(dim=0).tolist()
    lines = [
        f"# {config.token}: one {config.class_noun}, from any camera",
        "",
        f"A subject for diffusers-mvcustom, learned from {len(references)} posed photos.",
        "",
        "| | |",
        "|---|---|",
        f"| token | `{config.token}` |",
        f"| class | {config.class_noun} |",
        f"| base model | {config.base_model or 'not recorded'} |",
        f"| reference views | {len(references)} of {references.width} × {references.height} pixels, "
        f"{'with' if references.masks is not None else 'without'} masks |",
        f"| their cameras | mean focal length {focal[0]:.1f}, {focal[1]:.1f} pixels; at "
        f"{references.cameras.centers.norm(dim=-1).min():.2f} to "
        f"{references.cameras.centers.norm(dim=-1).max():.2f} from the subject |",
        f"| learned parts | {', '.join(parts)} |",
        f"| pose-conditioned blocks | {len(adapter.block_names)} |",
        "",
        "```python",
        "from diffusers_mvcustom import Cameras, MVCustomPipeline",
        "",
        f'pipe = MVCustomPipeline.from_pretrained("{config.base_model if named else "your/base-model"}")',
        'pipe.load_subject("this/repository")',
        f"out = pipe({prompt!r}, cameras=Cameras.orbit(16))",
        "```",
        "",
    ]
    for name in samples:
        lines += [f"![{name}]({SAMPLES_FOLDER}/{name}.png)", ""]
    if config.training.get("command"):
        lines += ["Trained with:", "", "```bash", str(config.training["command"]), "```", ""]
    if config.training:
        settings = json.dumps(dict(config.training), indent=2, ensure_ascii=False)
        lines += ["Training settings:", "", "```json", settings, "```", ""]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines))


def _is_hub_id(name: str | None) -> bool:
    """Whether the Hub accepts it as a base model: a folder's path would make it refuse the card."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return True


# --- reading ---


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for one
        return False


def _download(
    repo_id: str,
    part: PathLike[str] | None,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    prefix = "" if part is None else f"{part}/"
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=[prefix + pattern for pattern in _DOWNLOADED],
        )
    except HFValidationError as error:
        raise MVCustomError(f"{repo_id}: there is no such folder, and it is no Hub id either: {error}") from error
    except LocalEntryNotFoundError as error:
        raise MVCustomError(
            f"{repo_id}: there is no such folder, and as a Hub id it is not in the cache and cannot be fetched: {error}"
        ) from error
    except HfHubHTTPError as error:
        raise MVCustomError(f"{repo_id}: there is no such folder, and the Hub answers: {error}") from error
    return Path(folder)


@contextmanager
def _opened(file: Path) -> Iterator[safe_open]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except FileNotFoundError as error:
        raise MVCustomError(f"{file}: there is no such file; is the folder a complete subject's folder?") from error
    except (SafetensorError, OSError) as error:
        raise MVCustomError(f"{file}: not a complete safetensors file ({error}). An interrupted download?") from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    with _opened(file) as tensors:
        return {name: tensors.get_tensor(name) for name in list(tensors.keys())}


def _check_weights(cls: type[SubjectAdapter], config: SubjectConfig, references: ReferenceViews, file: Path) -> None:
    """Compares the file's header with what the settings ask for, before any memory is asked for by either."""
    with _opened(file) as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in list(tensors.keys())}
    held = {name.partition(".feature_nerf.")[0] for name in shapes}
    if unheld := [block for block in config.pose_conditioned_blocks if block not in held]:
        raise MVCustomError(f"{file}: the weights of {len(unheld)} blocks are missing: {unheld[:5]}.")
    with torch.device("meta"):
        adapter = cls(config, references)
    expected = {
        f"{block}.{name}": tuple(weight.shape)
        for block in adapter.block_names
        for name, weight in adapter.conditioner(block).state_dict().items()
    }
    if missing := sorted(expected.keys() - shapes.keys()):
        raise MVCustomError(f"{file}: {len(missing)} weights are missing: {missing[:5]}.")
    if unknown := sorted(shapes.keys() - expected.keys()):
        raise MVCustomError(f"{file}: {len(unknown)} weights are unknown: {unknown[:5]}.")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise MVCustomError(
                f"{file}: {name}: expected shape {expected[name]} for the settings in {SUBJECT_CONFIG_NAME}, got {shape}."
            )


def _load_conditioner_weights(adapter: SubjectAdapter, file: Path) -> None:
    weights = _read_tensors(file)
    for name, weight in weights.items():
        if weight.dtype not in FLOATING_DTYPES or not weight.isfinite().all():
            raise MVCustomError(f"{file}: {name}: expected finite floating-point numbers, got {weight.dtype}.")
    dtypes = {weight.dtype for weight in weights.values()}
    if len(dtypes) == 1:  # as saved: a half-precision subject stays one
        adapter.to(dtype=dtypes.pop())
    for block in adapter.block_names:
        part = {name.removeprefix(f"{block}."): w for name, w in weights.items() if name.startswith(f"{block}.")}
        adapter.conditioner(block).load_state_dict(part)


def _check_lora_scale(file: Path) -> None:
    """Weights are applied as they are: a file made elsewhere with another `lora_alpha` would have a wrong scale."""
    with _opened(file) as tensors:
        metadata = tensors.metadata() or {}
    settings = parse_json(f"{file}: lora_adapter_metadata", metadata.get("lora_adapter_metadata", "{}"))
    if not isinstance(settings, dict):
        raise MVCustomError(f"{file}: lora_adapter_metadata: expected a JSON object, got {settings!r}.")
    for name, alpha in settings.items():
        if name.endswith(".lora_alpha") and alpha != settings.get(name.removesuffix("lora_alpha") + "r"):
            raise MVCustomError(
                f"{file}: expected a lora_alpha equal to the rank, got {alpha} ({name}). Scale the LoRA's weights by "
                "lora_alpha / r, and drop the metadata."
            )


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except MVCustomError as error:
        raise MVCustomError(f"{file}: {error}") from error


# --- subjects/target_cameras.py: Whether target cameras can show a subject at all, found out before they cost a run.


logger = logging.get_logger(__name__)

_STRAYS = 0.1
"""Share of a capture's cameras that may look elsewhere, and it is a capture of the subject all the same."""

_RADIUS = 0.3
"""How far from the origin something of the subject is taken to be: six tenths of what a photo of 50° shows at distance 1.

Only pictures that miss all of it are taken for mistakes; a close-up of a part passes.
"""

_WIDEST = 170.0
"""Field of view, in degrees, above which a subject at distance 1 covers a few hundredths of the picture."""


def check_target_cameras(cameras: Cameras, *, far: float, subject_frame: SubjectFrame | None = None) -> None:
    """Raises if none of the cameras can show the subject, and warns of those that cannot.

    A camera cannot if it has the subject behind it, stands farther from it than `far`, has a picture that nothing within
    0.3 of the origin is in, or a field of view above 170°, in which the subject is a speck.

    Args:
        cameras ([`Cameras`]): Target cameras in the subject frame.
        far (`float`): Distance from the subject up to which it is rendered.
        subject_frame ([`SubjectFrame`], *optional*): The way to the world of the subject's photos. With it, cameras of that
            world are recognised.

    Raises:
        CamerasError: if none of them can, saying how many for which reason, with the likely cause.
    """
    check_kind("cameras", cameras, Cameras)
    away, past, wide, beyond = blind = _blind(cameras, far)
    unseen = torch.stack(blind).any(dim=0)
    if not unseen.any():
        return
    cause = None
    if subject_frame is not None:
        moved = torch.stack(_blind(subject_frame.to_subject(cameras), far)).any(dim=0)
        if moved.float().mean() <= _STRAYS:
            cause = (
                "They are where cameras of the photos' own world would be: subject.config.subject_frame.to_subject(cameras), "
                "or --cameras-frame user of the command, brings them into the subject frame."
            )
    counts = ((away, "look away from it"), (past, "look past it"), (wide, f"have a field of view above {_WIDEST:g}°"))
    reasons = [f"{int(kind.sum())} {what}" for kind, what in counts if kind.any()]
    if beyond.any():
        reasons.append(f"{int(beyond.sum())} are more than {far:g} from it, farther than it is rendered")
    if not unseen.all():
        logger.warning(
            "cameras: %d of %d will not show the subject: %s.%s",
            int(unseen.sum()),
            len(cameras),
            ", and ".join(reasons),
            "" if cause is None else f" {cause}",
        )
        return
    if wide.all():
        fx, fy = cameras.focal[0].tolist()
        message = (
            f"cameras: all {len(cameras)} have a field of view above {_WIDEST:g}° (focal lengths {fx:.3g}, {fy:.3g} of a "
            f"picture of {cameras.width} × {cameras.height}); the subject would be a speck."
        )
        cause = (
            "Intrinsics divided by the image's width and height? They are in pixels here: multiply their first row by the "
            "width, their second by the height."
        )
    elif away.all():
        message = f"cameras: all {len(cameras)} look away from the subject, which is at the origin."
        cause = cause or (
            "Axes of another convention, or world-to-camera instead of camera-to-world? Cameras have OpenCV axes, and a "
            "transforms.json is read as OpenGL, as nerfstudio defines it; load_cameras(file, convention='opencv') takes "
            "one that was written otherwise."
        )
    elif past.all():
        message = (
            f"cameras: all {len(cameras)} look past the subject, which is at the origin: none of the pictures shows a "
            f"point nearer to it than {_miss(cameras).min():.2g}."
        )
        cause = cause or _cause_of_looking_past(cameras)
    elif beyond.all():
        message = (
            f"cameras: all are more than {far:g} from the subject (the nearest at {_distance(cameras).min():.3g}), farther "
            "than it is rendered."
        )
        cause = cause or "In the subject frame the farthest photo is at distance 1; are these cameras in another unit?"
    else:
        message = f"cameras: none of {len(cameras)} can show the subject: {', and '.join(reasons)}."
        cause = cause or "Are these cameras of another world? They have to be in the subject frame."
    raise CamerasError(f"{message} {cause}")


def _blind(cameras: Cameras, far: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which cameras look away from the subject, look past it, are too wide for it, and are too far, `(N,)` each."""
    away = _looks_away(cameras)
    past = ~away & (_miss(cameras) > _RADIUS)
    return away, past, (cameras.field_of_view > _WIDEST).any(dim=-1), _distance(cameras) > far


def _cause_of_looking_past(cameras: Cameras) -> str:
    size = cameras.intrinsics.new_tensor([cameras.width, cameras.height])
    point = cameras.intrinsics[:, :2, 2]
    if ((point < 0) | (point > size)).any(dim=-1).all():
        x, y = point[0].tolist()
        return (
            f"Their principal point ({x:g}, {y:g}) lies outside of the picture of {cameras.width} × {cameras.height}: "
            "intrinsics of another image size? Width and height have to be those of the image that the intrinsics are of."
        )
    return "Poses of another convention, or of another world? They have to be in the subject frame, with OpenCV axes."


def _distance(cameras: Cameras) -> Tensor:
    """From the subject, `(N,)`."""
    return cameras.centers.norm(dim=-1)


def _looks_away(cameras: Cameras) -> Tensor:
    """Which cameras have the subject behind them, `(N,)`; one inside of it has not."""
    in_front = (-cameras.centers * cameras.optical_axes).sum(dim=-1)  # the origin's z in the camera
    return (in_front <= 0) & (_distance(cameras) > 1e-3)


def _miss(cameras: Cameras) -> Tensor:
    """How near the pictures' rays come to the origin, `(N,)`, for cameras that do not look away from it."""
    origin = cameras.world_to_camera[:, :3, 3]
    seen = origin[:, :2] / origin[:, 2:].clamp(min=1e-6)  # at depth 1
    point, focal = cameras.intrinsics[:, :2, 2], cameras.focal
    size = point.new_tensor([cameras.width, cameras.height])
    nearest = seen.clamp(min=-point / focal, max=(size - point) / focal)
    ray = torch.nn.functional.normalize(torch.nn.functional.pad(nearest, (0, 1), value=1.0), dim=-1)
    return torch.linalg.cross(origin, ray, dim=-1).norm(dim=-1)


# --- subjects/subject_adapter.py: `SubjectAdapter`: everything that a pipeline needs to show one subject from any camera.


class SubjectAdapter(nn.Module):
    """A subject: its word, LoRA, reference views, and a FeatureNeRF and projection for each pose-conditioned block.

    Its modules enter a U-Net with [`~SubjectAdapter.attach`] and leave it with [`~SubjectAdapter.detach`], which puts
    the U-Net's own blocks back. Fresh from [`~SubjectAdapter.create`] it changes no output at all.

    Args:
        config ([`SubjectConfig`]): The subject's settings.
        references ([`ReferenceViews`]): Posed photos in the subject frame.
        token_embedding (`torch.Tensor` of shape `(D,)` or `(K, D)`, *optional*): Learned embedding(s) of the token.
        lora_state_dict (`dict[str, torch.Tensor]`, *optional*): LoRA weights under diffusers' names, to be applied as
            they are (that is, with `lora_alpha` equal to the rank).

    Attributes:
        conditioning ([`PoseConditioning`]): What the attached blocks are told during a U-Net call.
    """

    def __init__(
        self,
        config: SubjectConfig,
        references: ReferenceViews,
        *,
        token_embedding: Tensor | None = None,
        lora_state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.references = references
        self.conditioning = PoseConditioning()
        self.token_embedding = token_embedding
        self.lora_state_dict = lora_state_dict
        self._conditioners = nn.ModuleDict(
            {
                _escape(name): PoseConditioner(FeatureNeRF(channels, config.feature_nerf))
                for name, channels in config.pose_conditioned_blocks.items()
            }
        )
        self._stock_blocks: dict[
            str, BasicTransformerBlock
        ] = {}  # the U-Net's own blocks while ours stand in for them

    @classmethod
    def create(
        cls,
        unet: ModelMixin,
        references: ReferenceViews,
        token: str,
        class_noun: str,
        *,
        initializer_token: str | None = None,
        token_embedding: Tensor | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        blocks: str | Sequence[str] | None = None,
        feature_nerf: FeatureNeRFConfig | None = None,
        subject_frame: SubjectFrame | None = None,
        base_model: str | None = None,
        **settings: Any,
    ) -> SubjectAdapter:
        """A subject before training. Attached, it leaves the U-Net's outputs as they are, bit for bit.

        Args:
            unet (`UNetMotionModel`): The U-Net that it is made for. Not changed.
            references ([`ReferenceViews`]): Posed photos in the subject frame.
            token (`str`): The new word, such as `"<my-mug>"`.
            class_noun (`str`): What kind of thing it is, such as `"mug"`.
            initializer_token (`str`, *optional*): The known word that the new one starts from; `class_noun` by default.
            token_embedding (`torch.Tensor` of shape `(D,)` or `(K, D)`, *optional*): What the new word starts as.
            text_encoder (`CLIPTextModel`, *optional*), tokenizer (`CLIPTokenizer`, *optional*): If given instead of
                `token_embedding`, the new word starts as `initializer_token`; see [`initial_token_embedding`].
            blocks (`str` or `list[str]`, *optional*): Which transformer blocks are pose-conditioned; see
                [`select_blocks`].
            feature_nerf ([`FeatureNeRFConfig`], *optional*): Settings of every block's FeatureNeRF.
            subject_frame ([`SubjectFrame`], *optional*): How the subject frame was made from the photos' world.
            base_model (`str`, *optional*): Hub id of the base model, for the record.
            settings: Further fields of [`SubjectConfig`].

        Raises:
            MVCustomError: for unknown blocks (the message lists those that there are) and malformed settings.
        """
        if (text_encoder is None) != (tokenizer is None):
            raise MVCustomError("text_encoder, tokenizer: expected both or neither.")
        initializer_token = class_noun if initializer_token is None else initializer_token
        config = SubjectConfig(
            token=token,
            class_noun=class_noun,
            initializer_token=initializer_token,
            pose_conditioned_blocks=select_blocks(unet, blocks),
            feature_nerf=FeatureNeRFConfig() if feature_nerf is None else feature_nerf,
            subject_frame=subject_frame,
            base_model=base_model,
            versions={name: package_version(name) for name in ("diffusers-mvcustom", "diffusers", "torch")},
            **settings,
        )
        if token_embedding is None and text_encoder is not None:
            token_embedding = initial_token_embedding(tokenizer, text_encoder, initializer_token)
        return cls(config, references, token_embedding=token_embedding)

    # --- parts ---

    @property
    def block_names(self) -> list[str]:
        """The pose-conditioned blocks in the order in which the U-Net runs them."""
        return list(self.config.pose_conditioned_blocks)

    def conditioner(self, block_name: str) -> PoseConditioner:
        """The FeatureNeRF and projection of a block."""
        return cast(PoseConditioner, self._conditioners[_escape(block_name)])  # a ModuleDict knows no types

    @property
    def token_embedding(self) -> Tensor | None:
        """The learned embedding(s) of the token, `(D,)` or `(K, D)`, on the CPU."""
        return self._token_embedding

    @token_embedding.setter
    def token_embedding(self, value: Tensor | None) -> None:
        if value is not None:
            if value.ndim not in (1, 2) or 0 in value.shape or value.dtype not in FLOATING_DTYPES:
                raise MVCustomError(
                    f"token_embedding: expected shape (D,) or (K, D), got {tuple(value.shape)} of {value.dtype}."
                )
            if not value.isfinite().all():
                raise MVCustomError("token_embedding: expected finite numbers, got NaN or infinity.")
            value = _own(value)
        self._token_embedding = value

    @property
    def learned_embeddings(self) -> dict[str, Tensor]:
        """`{token: embedding}` as `load_textual_inversion` takes it; empty before there is an embedding."""
        return {} if self._token_embedding is None else {self.config.token: self._token_embedding}

    @property
    def lora_state_dict(self) -> dict[str, Tensor] | None:
        """LoRA weights as `load_lora_weights` takes them, on the CPU; `None` if there are none."""
        return self._lora_state_dict

    @lora_state_dict.setter
    def lora_state_dict(self, value: Mapping[str, Tensor] | None) -> None:
        foreign = sorted(name for name in value or () if "lora" not in name)
        if foreign:
            raise MVCustomError(f"lora_state_dict: expected LoRA weights only, got {foreign}.")
        other = sorted(name for name, weight in (value or {}).items() if not _is_lora_weight(weight))
        if other:
            raise MVCustomError(
                f"lora_state_dict: expected matrices of finite floating-point numbers, not so {other[:5]}."
            )
        self._lora_state_dict = {name: _own(weight) for name, weight in value.items()} if value else None

    def check_cameras(self, cameras: Cameras) -> None:
        """Raises for target cameras that cannot show the subject: the likely cause is another convention or unit.

        Raises:
            CamerasError: if every camera looks away from the subject or past it, has it beyond the far bound of the rays, or
                a field of view that no lens has.
        """
        check_target_cameras(cameras, far=self.config.feature_nerf.far, subject_frame=self.config.subject_frame)

    # --- in and out of a U-Net ---

    @property
    def is_attached(self) -> bool:
        """Whether a U-Net wears the adapter just now."""
        return bool(self._stock_blocks)

    def attach(self, unet: ModelMixin) -> None:
        """Puts pose-conditioned blocks in the places of the U-Net's own; moves the adapter to its device and dtype.

        The new blocks share every submodule with the old ones. Nothing is changed if an error is raised.

        Args:
            unet (`UNetMotionModel`): A U-Net of the shapes that the subject was made for.

        Raises:
            MVCustomError: if the subject is attached already, another subject is, the U-Net lacks a block or has other
                channels there, or its blocks carry hooks of offloading or are compiled.
        """
        if self.is_attached:
            raise MVCustomError(f"subject {self.config.token!r} is already attached to a U-Net; detach it first.")
        blocks = replaceable_blocks(unet, self.config)
        training = {module: module.training for block in blocks.values() for module in block.modules()}
        try:
            replacements = {
                name: PoseConditionedTransformerBlock.from_block(
                    block, self.conditioner(name), self.conditioning, name
                )
                for name, block in blocks.items()
            }
        finally:
            for module, was_training in training.items():
                module.training = was_training
        self.to(device=unet.device, dtype=unet.dtype)
        for name, replacement in replacements.items():
            replacement.__dict__.pop("forward", None)  # a removed hook's trace on the stock block, bound to it
            put_block(unet, name, replacement)
        self._stock_blocks = blocks

    def detach(self, unet: nn.Module) -> None:
        """Puts the U-Net's own blocks back: modules, state dict and outputs are as before [`~SubjectAdapter.attach`].

        Raises:
            MVCustomError: if the subject is not attached to this U-Net.
        """
        modules = dict(unet.named_modules())
        ours: dict[str, Any] = {name: modules.get(name) for name in self._stock_blocks}
        if not ours or any(getattr(block, "conditioning", None) is not self.conditioning for block in ours.values()):
            raise MVCustomError(f"subject {self.config.token!r} is not attached to this U-Net.")
        for name, block in self._stock_blocks.items():
            block.training = ours[name].training
            block.set_chunk_feed_forward(ours[name]._chunk_size, ours[name]._chunk_dim)
            put_block(unet, name, block)
        self._stock_blocks = {}

    # --- files ---

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        samples: Mapping[str, Image.Image] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes the subject's folder: settings, LoRA, embedding, FeatureNeRF, reference views and a model card.

        Everything is written beside the folder first and moved into place at the end; an existing subject's folder is
        replaced as a whole, and stays as it was if anything fails.

        Args:
            save_directory (`str` or path): The folder. If it exists, it has to be empty or a subject's.
            samples (`dict[str, PIL.Image.Image]`, *optional*): Pictures for the model card, by name.
            push_to_hub (`bool`, *optional*, defaults to `False`): Whether to upload it too.
            kwargs: For [`~SubjectAdapter.push_to_hub`]; `repo_id` is the folder's name by default.

        Raises:
            MVCustomError: if the folder holds something that is not a subject.
        """
        save_subject_files(self, save_directory, samples)
        if push_to_hub:
            upload_subject(save_directory, **kwargs)
        elif kwargs:
            raise MVCustomError(f"save_pretrained: {sorted(kwargs)} only apply with push_to_hub=True.")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> SubjectAdapter:
        """Loads a subject from its folder or from the Hub (there, from the cache when offline). Runs no code from it.

        Args:
            pretrained_model_name_or_path (`str` or path): A folder, or a Hub id such as `"you/my-mug"`.
            subfolder (`str`, *optional*): The subject's folder inside of it.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            cache_dir (`str` or path, *optional*): Where downloads are kept.
            token (`str` or `bool`, *optional*): Access token for the Hub.
            local_files_only (`bool`, *optional*, defaults to `False`): Whether to use the cache only.

        Raises:
            MVCustomError: naming the file and what is wrong with it.
        """
        return load_subject_files(
            cls,
            pretrained_model_name_or_path,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        samples: Mapping[str, Image.Image] | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload subject",
        revision: str | None = None,
        create_pr: bool = False,
        endpoint: str | None = None,
    ) -> str:
        """Uploads the subject's folder to the Hub, as one commit. Returns the commit's address."""
        return save_and_upload_subject(
            self,
            repo_id,
            samples=samples,
            private=private,
            token=token,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            endpoint=endpoint,
        )


def initial_token_embedding(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, initializer_token: str) -> Tensor:
    """The text encoder's embedding of a known word, from which a new token starts.

    Args:
        tokenizer (`CLIPTokenizer`): The tokenizer.
        text_encoder (`CLIPTextModel`): The text encoder.
        initializer_token (`str`): A known word. One that is split into K pieces gives the mean of their embeddings.

    Returns:
        `torch.Tensor` of shape `(D,)`.
    """
    pieces = tokenizer(initializer_token, add_special_tokens=False)["input_ids"]
    if not pieces:
        raise MVCustomError(f"initializer_token: expected a word, got {initializer_token!r}.")
    return text_encoder.get_input_embeddings().weight[pieces].detach().float().mean(dim=0).cpu()


def _is_lora_weight(weight: Tensor) -> bool:
    return weight.dtype in FLOATING_DTYPES and 0 not in weight.shape and bool(weight.isfinite().all())


def _own(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _escape(block_name: str) -> str:
    return block_name.replace(".", "/")  # a module's name cannot hold dots


# --- pipelines/device_hooks.py: Accelerate's hooks, off while modules change places and on again.


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


# --- pipelines/lora_layers.py: The LoRA layers of a model: which adapters act, how strongly, and whether they are fused into the weights.


LoraScalings = dict[str, float]
"""Strength of one adapter by the name of its layer."""


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Names and modules of a model's LoRA layers."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def active_loras(model: nn.Module) -> list[str]:
    """Names of the adapters that act, in order."""
    return next((list(layer.active_adapters) for _, layer in lora_layers(model)), [])


def set_active_loras(model: nn.Module, names: Sequence[str]) -> None:
    """Lets exactly these adapters act; their strengths stay as they are. Nothing of them is to be trained."""
    for _, layer in lora_layers(model):
        layer.set_adapter(list(names), inference_mode=True)


def fused_loras(model: nn.Module) -> list[str]:
    """Names of the adapters that `fuse_lora` has added to the weights."""
    return sorted({name for _, layer in lora_layers(model) for name in layer.merged_adapters})


def lora_scalings(model: nn.Module, adapter: str) -> LoraScalings:
    """How strong an adapter is, by layer."""
    return {name: layer.scaling[adapter] for name, layer in lora_layers(model) if adapter in layer.scaling}


def set_lora_scalings(model: nn.Module, adapter: str, scalings: Mapping[str, float]) -> None:
    """Makes an adapter as strong as it was when [`lora_scalings`] looked."""
    for name, layer in lora_layers(model):
        if name in scalings and adapter in layer.scaling:
            layer.scaling[adapter] = scalings[name]


@contextmanager
def lora_scaled(model: nn.Module, scale: float | None) -> Iterator[None]:
    """All adapters times `scale` for the length of the context, as `cross_attention_kwargs={"scale": scale}` has them.

    For what uses a model's layers outside of its own call.
    """
    if scale is None or scale == 1:
        yield
        return
    before = [(layer, dict(layer.scaling)) for _, layer in lora_layers(model)]
    try:
        for layer, scalings in before:
            layer.scaling.update({name: value * scale for name, value in scalings.items()})
        yield
    finally:
        for layer, scalings in before:
            layer.scaling.update(scalings)


# --- pipelines/subject_loading.py: Subjects in the pipeline: loading, switching, taking out, and rendering their features for a call.


@dataclass
class _Restore:
    """Whether the subject that was saved with the pipeline still has to be loaded."""

    pending: bool = True


class SubjectLoadingMixin(PipelinePart):
    """Loads [`SubjectAdapter`]s into the pipeline: several loaded, one active."""

    def _init_subjects(self) -> None:
        _refuse_attached(self.unet)
        self._subjects: dict[str, SubjectAdapter] = {}
        self._active_subject: str | None = None
        self._scalings: dict[str, dict[str, LoraScalings]] = {}  # by subject and component
        self._restore = _Restore()

    @property
    def subjects(self) -> Mapping[str, SubjectAdapter]:
        """The loaded subjects by name."""
        return dict(self._subjects)

    @property
    def subject(self) -> SubjectAdapter | None:
        """The active subject, if any."""
        return None if self._active_subject is None else self._subjects[self._active_subject]

    def load_subject(
        self,
        subject: SubjectAdapter | str | PathLike[str],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads a subject and makes it the active one.

        Args:
            subject ([`SubjectAdapter`], folder or Hub id): What to load.
            adapter_name (`str`, *optional*): The subject's name in this pipeline, by default its token without brackets. Its
                LoRA is called `subject-<adapter_name>`, for `set_adapters` and the like; other LoRA stay active beside it.
            kwargs: For [`SubjectAdapter.from_pretrained`]: `revision`, `subfolder`, `token`, `cache_dir`,
                `local_files_only`.

        Raises:
            MVCustomError: if the name or the token is taken, the subject does not fit this U-Net, or a LoRA is fused into
                the weights. Nothing is changed then.
        """
        if adapter_name is not None and (not isinstance(adapter_name, str) or not adapter_name or "." in adapter_name):
            raise MVCustomError(f"adapter_name: expected a name without dots, got {adapter_name!r}.")
        self._refuse_fused("load_subject")
        if not isinstance(subject, (SubjectAdapter, str, PathLike)):
            other = ", of another module than this pipeline's" if type(subject).__name__ == "SubjectAdapter" else ""
            raise MVCustomError(
                f"subject: expected a SubjectAdapter, a folder or a Hub id, got a {type(subject).__name__}{other}."
            )
        if not isinstance(subject, SubjectAdapter):
            subject = SubjectAdapter.from_pretrained(subject, **kwargs)
        elif kwargs:
            raise MVCustomError(f"load_subject: {sorted(kwargs)} only apply to a folder or Hub id.")
        name = adapter_name or subject.config.token.strip("<>").replace(".", "-")
        if name in self._subjects:
            raise MVCustomError(f"adapter_name: {name!r} is already loaded; pass another name, or unload it first.")
        self._restore.pending = False
        previous = self._active_subject
        with device_hooks_off(self.components.values()):
            self._deactivate()
            self._subjects[name] = subject
            try:
                self._activate(name)
            except Exception:
                del self._subjects[name]
                self._activate(previous)
                raise

    def set_subject(self, adapter_name: str | None) -> None:
        """Makes a loaded subject the active one; `None` makes none active and keeps all loaded."""
        if adapter_name is not None and adapter_name not in self._subjects:
            raise MVCustomError(f"adapter_name: expected one of {sorted(self._subjects)}, got {adapter_name!r}.")
        self._refuse_fused("set_subject")
        self._restore.pending = False
        with device_hooks_off(self.components.values()):
            self._deactivate()
            self._activate(adapter_name)

    def unload_subject(self, adapter_name: str | None = None) -> None:
        """Takes a subject out (by default the active one): U-Net, text encoder and tokenizer are as before it."""
        name = adapter_name or self._active_subject
        self._restore.pending = False
        if name is None:
            return
        if name not in self._subjects:
            raise MVCustomError(f"adapter_name: expected one of {sorted(self._subjects)}, got {name!r}.")
        if name == self._active_subject:
            self._refuse_fused("unload_subject")
            with device_hooks_off(self.components.values()):
                self._deactivate()
        del self._subjects[name]
        self._scalings.pop(name, None)

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers' `load_lora_weights`; beside an active subject, LoRA that act stay active, its own among them.

        Diffusers makes the LoRA that was loaded last the only active one, and a subject without its LoRA is half a subject.
        """
        before = {name: active_loras(model) for name, model in self._lora_models().items()}
        super().load_lora_weights(*args, **kwargs)
        if self._active_subject is not None:
            self._keep_active(before)

    @contextmanager
    def without_subject(self) -> Iterator[None]:
        """The pipeline's components as they are without the active subject, for the length of the context."""
        active = self._active_subject
        if active is not None:
            self._refuse_fused("without_subject")
        with device_hooks_off(self.components.values()):
            self._deactivate()
        try:
            yield
        finally:
            with device_hooks_off(self.components.values()):
                self._activate(active)

    def render_subject(
        self,
        prompt_embeds: Tensor,  # [T, L, D]
        cameras: Cameras,
        num_references: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image_embeds: list[Tensor] | None = None,  # each [T, images, D]
    ) -> SubjectRendering:
        """The active subject's features X_y at the target cameras, for each of T texts. Independent of the noise.

        Args:
            prompt_embeds (`torch.Tensor` of shape `(T, L, D)`): Text states.
            cameras ([`Cameras`]): Target cameras at the size of the views.
            num_references (`int`, *optional*): Reference views used; by default the subject's setting.
            generator (`torch.Generator`, *optional*): For noise on the references, if the subject wants any.
            image_embeds (list of `torch.Tensor`, *optional*): IP-Adapter's states of this call. The references are seen
                with zeros in their place.
        """
        size = (cameras.height, cameras.width)
        return self.subject_renderer(prompt_embeds, size, num_references, generator, image_embeds)(cameras)

    def subject_renderer(
        self,
        prompt_embeds: Tensor,  # [T, L, D]
        size: tuple[int, int],
        num_references: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image_embeds: list[Tensor] | None = None,  # each [T, images, D]
    ) -> Callable[[Cameras], SubjectRendering]:
        """Looks at the references once, and returns what renders the subject at any cameras of this size.

        Args:
            size (`tuple[int, int]`): Height and width of the views in pixels.
            prompt_embeds, num_references, generator, image_embeds: See [`~MVCustomPipeline.render_subject`].

        Raises:
            MVCustomError: if there is no active subject.
        """
        subject = self.subject
        if subject is None:
            raise MVCustomError("subject: there is none to render; call load_subject or set_subject first.")
        height, width = size
        device, dtype = prompt_embeds.device, prompt_embeds.dtype
        count = subject.config.num_references if num_references is None else num_references
        references = subject.references.select(count)
        factor = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        references = references.fit_area(height * width, factor)
        pixels = references.images.to(device=device, dtype=self.vae.dtype) * 2 - 1
        latents = torch.cat([self.vae.encode(image[None]).latent_dist.mode() for image in pixels])
        latents = (latents * self.vae.config.scaling_factor).to(dtype)
        added_cond_kwargs = None
        if image_embeds is not None:
            added_cond_kwargs = {
                "image_embeds": [states.new_zeros(len(latents), *states.shape[1:]) for states in image_embeds]
            }
        reference_embeds, _ = self.encode_prompt(subject.config.reference_prompt_text, device, 1, False)
        generator = generator[0] if isinstance(generator, list) else generator
        reference_features = collect_reference_features(
            subject,
            self.unet,
            latents,
            reference_embeds,
            scheduler=self.scheduler,
            generator=generator,
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=getattr(self, "_cross_attention_kwargs", None),  # of the call, if in one
        )
        latent_size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        lora_scale = (getattr(self, "_cross_attention_kwargs", None) or {}).get("scale")

        def render(cameras: Cameras) -> SubjectRendering:
            with lora_scaled(self._plain_unet, lora_scale):  # a FeatureNeRF asks the U-Net's text attention
                return render_features(
                    subject,
                    self.unet,
                    reference_features,
                    references,
                    prompt_embeds,
                    cameras,
                    latent_size,
                    generator=generator,
                )

        return render

    @property
    def _plain_unet(self) -> UNetMotionModel:
        """The U-Net itself if `torch.compile(pipe.unet)` has wrapped it: blocks change places inside of it."""
        return self.unet._orig_mod if is_compiled_module(self.unet) else self.unet

    def _activate(self, name: str | None) -> None:
        if name is None:
            return
        subject = self._subjects[name]
        token = subject.config.token
        if subject.learned_embeddings and token in self.tokenizer.get_vocab():
            raise MVCustomError(
                f"token: {token!r} is a word of this tokenizer already, by load_textual_inversion or the model's own; "
                "take it out with unload_textual_inversion, or train the subject under another word."
            )
        before = {part: active_loras(model) for part, model in self._lora_models().items()}
        subject.attach(self._plain_unet)
        try:
            if subject.learned_embeddings:
                self.load_textual_inversion(dict(subject.learned_embeddings), token=token)
            if subject.lora_state_dict:
                self._load_lora(dict(subject.lora_state_dict), _lora_name(name))
                self._keep_active(before)
                for part, scalings in self._scalings.get(name, {}).items():
                    set_lora_scalings(self._lora_models()[part], _lora_name(name), scalings)
        except Exception as error:
            self._take_out(name)
            if isinstance(error, MVCustomError):
                raise
            raise MVCustomError(
                f"subject {token!r}: its LoRA or its embedding does not fit this model: {error}"
            ) from error
        self._active_subject = name

    def _load_lora(self, weights: dict[str, Tensor], name: str) -> None:
        if any(weight.startswith("text_encoder") for weight in weights):
            super().load_lora_weights(weights, adapter_name=name)
        else:  # which is usual, and of which load_lora_weights warns
            state, alphas = self.lora_state_dict(weights)
            self.load_lora_into_unet(state, alphas, self.unet, adapter_name=name, _pipeline=self)

    def _deactivate(self) -> None:
        if self._active_subject is not None:
            name, self._active_subject = self._active_subject, None
            models = self._lora_models().items()
            self._scalings[name] = {part: lora_scalings(model, _lora_name(name)) for part, model in models}
            self._take_out(name)

    def _take_out(self, name: str) -> None:
        subject = self._subjects[name]
        subject.detach(self._plain_unet)
        if subject.config.token in self.tokenizer.get_vocab():
            self.unload_textual_inversion(subject.config.token)
            # diffusers leaves the configuration at the larger vocabulary, and a saved text encoder would not load.
            self.text_encoder.config.vocab_size = self.text_encoder.get_input_embeddings().num_embeddings
        if _lora_name(name) in getattr(self.unet, "peft_config", {}):
            left = {
                part: [lora for lora in active_loras(model) if lora != _lora_name(name)]
                for part, model in self._lora_models().items()
            }
            self.delete_adapters(_lora_name(name))
            for part, model in self._lora_models().items():
                set_active_loras(model, left[part])  # peft lets another one act where none is left that did
        # No LoRA of the user's is left: the plain layers come back. One that did not fit has left its layers, too.
        wrapped = any(isinstance(module, BaseTunerLayer) for module in self.unet.modules())
        if wrapped and not getattr(self.unet, "peft_config", None):
            self.unload_lora_weights()

    def _lora_models(self) -> dict[str, nn.Module]:
        """The components that LoRA is put into."""
        return {"unet": self._plain_unet, "text_encoder": self.text_encoder}

    def _keep_active(self, before: Mapping[str, list[str]]) -> None:
        """Lets LoRA that acted before act beside what is active now."""
        for part, model in self._lora_models().items():
            set_active_loras(model, list(dict.fromkeys([*before[part], *active_loras(model)])))

    def _refuse_fused(self, call: str) -> None:
        fused = sorted({name for model in self._lora_models().values() for name in fused_loras(model)})
        if fused:
            raise MVCustomError(
                f"{call}: LoRA {enumerated(fused)} is fused into the weights, and the subject's could be put in or taken out "
                "beside it only in part; call unfuse_lora first."
            )


def _refuse_attached(unet: UNetMotionModel | None) -> None:
    """Raises for a U-Net that another pipeline has put a subject into."""
    if unet is None:
        return
    attached = any(isinstance(module, PoseConditionedTransformerBlock) for module in unet.modules())
    if attached or any(name.startswith(_lora_name("")) for name in getattr(unet, "peft_config", {})):
        raise MVCustomError(
            "unet: expected one without a subject, got one that another pipeline has loaded a subject into; call its "
            "unload_subject first, and load the subject into the new pipeline."
        )


def _lora_name(subject_name: str) -> str:
    return f"subject-{subject_name}"


# --- pipelines/call_checks.py: Everything about a call that can be refused before a model runs.


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class CallChecksMixin(SubjectLoadingMixin):
    """The checks of [`MVCustomPipeline`]'s call, beyond diffusers' own `check_inputs`."""

    def check_call(
        self,
        cameras: Cameras,
        hooks: Sequence[DenoisingHook],
        *,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        ip_adapter_image: Any,
        ip_adapter_image_embeds: list[Tensor] | None,
        num_images_per_prompt: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
        anchor_depth: Tensor | None,
        views_at_a_time: int | None,
        output_type: str,
        cross_attention_kwargs: dict[str, Any] | None,
        clip_skip: int | None,
        callback_on_step_end_tensor_inputs: list[str],
        counts: dict[str, int | None],
        scales: dict[str, float | None],
        pose_guidance: tuple[float, float],
    ) -> tuple[int, ...]:
        """Refuses what cannot be used before anything expensive happens.

        Returns:
            `tuple[int, ...]`: The shape of the latents, `(batch, channels, frames, h, w)`.

        Raises:
            MVCustomError: naming the argument.
        """
        check_view_size(cameras.height, cameras.width, max(8, self.vae_scale_factor))
        counts = {"num_images_per_prompt": num_images_per_prompt, "views_at_a_time": views_at_a_time, **counts}
        for name, count in counts.items():
            check_count(name, count)
        check_num_frames(len(cameras), self.unet.config.motion_max_seq_length, views_at_a_time)
        for name, scale in scales.items():
            check_scale(name, scale)
        check_share("pose_guidance", *pose_guidance)
        check_attention_kwargs(cross_attention_kwargs)
        self._check_clip_skip(clip_skip)
        self._check_scheduler(counts["num_inference_steps"])
        if output_type not in OUTPUT_TYPES:
            raise MVCustomError(f"output_type: expected one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        check_prompts(prompt, negative_prompt, None if self.subject is None else self.subject.config.token)
        self.check_inputs(
            prompt,
            cameras.height,
            cameras.width,
            None,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            ip_adapter_image,
            ip_adapter_image_embeds,
            callback_on_step_end_tensor_inputs,
        )
        self._check_embeds(prompt_embeds, negative_prompt_embeds)
        self._check_ip_adapter(ip_adapter_image, ip_adapter_image_embeds)
        prompts = prompt if prompt is not None else prompt_embeds
        assert prompts is not None  # check_inputs wants one of them
        num_prompts = 1 if isinstance(prompts, str) else len(prompts)
        batch_size = num_prompts * num_images_per_prompt
        factor = self.vae_scale_factor
        shape = (
            batch_size,
            self.unet.config.in_channels,
            len(cameras),
            cameras.height // factor,
            cameras.width // factor,
        )
        check_latents(latents, shape)
        check_generator(generator, batch_size)
        self._check_subject(cameras, prompt, scales.get("reference_guidance_scale"), counts.get("num_references"))
        self._check_hooks(hooks, len(cameras), anchor_depth, views_at_a_time)
        return shape

    def plan_views(
        self,
        cameras: Cameras,
        hooks: Sequence[DenoisingHook],
        anchor: AnchorSettings,
        views_at_a_time: int | None,
        anchor_image: AnchorImages | None,
        anchor_depth: Tensor | None,
        batch_size: int,
        num_images_per_prompt: int,
    ) -> tuple[ViewPlan, Tensor | None, Tensor | None]:
        """The windows of a call, the anchors' images `(batch, A, 3, H, W)` and their depth `(batch, A, H, W)`, if given.

        Raises:
            MVCustomError: naming the argument, see [`plan_windows`], [`resolve_anchor_images`] and
                [`resolve_anchor_depth`].
        """
        needs_geometry = any(hook.needs_geometry for hook in hooks)
        plan = plan_windows(
            cameras,
            views_at_a_time,
            self.unet.config.motion_max_seq_length,
            anchor,
            anchors_wanted=needs_geometry or anchor_image is not None or anchor_depth is not None,
            anchors_are_given=anchor_image is not None,
            # Where depth cannot be estimated only the call's anchors have one, so the first goes through every window.
            keep_first=anchor.keep_first or (needs_geometry and not self._can_estimate_depth),
        )
        if anchor_image is not None:
            anchor_image = resolve_anchor_images(
                anchor_image,
                num_prompts=batch_size // num_images_per_prompt,
                num_images_per_prompt=num_images_per_prompt,
                num_anchors=len(plan.anchors),
                height=cameras.height,
                width=cameras.width,
            )
        if anchor_depth is not None:
            anchor_depth = resolve_anchor_depth(anchor_depth, batch_size, len(plan.anchors))
        return plan, anchor_image, anchor_depth

    @property
    def _can_estimate_depth(self) -> bool:
        return self.depth_estimator is not None and self.depth_image_processor is not None

    def _check_embeds(self, prompt_embeds: Tensor | None, negative_prompt_embeds: Tensor | None) -> None:
        width = self.unet.config.cross_attention_dim
        for name, embeds in (
            ("prompt_embeds", prompt_embeds),
            ("negative_prompt_embeds", negative_prompt_embeds),
        ):
            if embeds is None:
                continue
            if embeds.ndim != 3 or embeds.shape[-1] != width or 0 in embeds.shape:
                raise MVCustomError(
                    f"{name}: expected shape (batch, length, {width}) as the U-Net takes them, got {tuple(embeds.shape)}."
                )
            if not embeds.isfinite().all():
                raise MVCustomError(f"{name}: expected finite numbers, got NaN or infinity among them.")

    def _check_clip_skip(self, clip_skip: int | None) -> None:
        if clip_skip is None or self.text_encoder is None:  # without one texts come encoded
            return
        layers = getattr(self.text_encoder.config, "num_hidden_layers", None)
        whole = isinstance(clip_skip, int) and not isinstance(clip_skip, bool)
        if not (whole and 0 <= clip_skip <= (layers or clip_skip)):
            raise MVCustomError(f"clip_skip: expected a number of layers from 0 to {layers}, got {clip_skip!r}.")

    def _check_scheduler(self, num_inference_steps: int | None) -> None:
        name = type(self.scheduler).__name__
        if not hasattr(self.scheduler, "init_noise_sigma"):
            raise MVCustomError(
                f"scheduler: expected one that starts from scaled noise, such as DDIM, Euler, DPM++ or LCM, got {name}. "
                "Flow-matching schedulers do not fit this model."
            )
        trained = self.scheduler.config.get("num_train_timesteps")
        if trained is not None and num_inference_steps is not None and num_inference_steps > trained:
            raise MVCustomError(
                f"num_inference_steps: expected at most the {trained} steps that {name} was trained with, got "
                f"{num_inference_steps}."
            )

    def _check_ip_adapter(self, image: Any, embeds: list[Tensor] | None) -> None:
        given = image is not None or embeds is not None
        loaded = self.unet.config.encoder_hid_dim_type == "ip_image_proj"
        if given and not loaded:
            raise MVCustomError("ip_adapter_image: there is no IP-Adapter to see it; call load_ip_adapter first.")
        if loaded and not given:
            raise MVCustomError(
                "ip_adapter_image: an IP-Adapter is loaded and needs an image (or ip_adapter_image_embeds); or call "
                "unload_ip_adapter."
            )

    def _check_subject(
        self,
        cameras: Cameras,
        prompt: str | list[str] | None,
        reference_guidance_scale: float | None,
        num_references: int | None,
    ) -> None:
        if self.subject is None:
            if reference_guidance_scale is not None:
                raise MVCustomError(
                    "reference_guidance_scale: there are no references to guide by; call load_subject first."
                )
            return
        self.subject.check_cameras(cameras)
        there = len(self.subject.references)
        if num_references is not None and num_references > there:
            raise MVCustomError(
                f"num_references: expected at most the subject's {there} photos, got {num_references}."
            )
        if prompt is not None and self.subject.learned_embeddings:
            self._check_token(self.subject.config.token, [prompt] if isinstance(prompt, str) else prompt)

    def _check_token(self, token: str, prompts: Sequence[str]) -> None:
        """Raises unless the text encoder will see the subject's word in every prompt."""
        number = self.tokenizer.added_tokens_encoder.get(token)
        if number is None:
            raise MVCustomError(
                f"prompt: the tokenizer does not know the subject's token {token!r} any more (unload_textual_inversion?); "
                "set_subject with the subject's name brings it back."
            )
        length = self.tokenizer.model_max_length
        for i, text in enumerate(prompts):
            if number not in self.tokenizer(text, truncation=True, max_length=length).input_ids:
                raise MVCustomError(
                    f"prompt: expected the subject's token {token!r} among the first {length} tokens, which are all that the "
                    f"text encoder reads, got it later at index {i}. Name the subject earlier."
                )

    def _check_hooks(
        self,
        hooks: Sequence[DenoisingHook],
        num_frames: int,
        anchor_depth: Tensor | None,
        views_at_a_time: int | None,
    ) -> None:
        if anchor_depth is not None and num_frames > 1 and not any(hook.needs_geometry for hook in hooks):
            raise MVCustomError(
                "anchor_depth: none of the hooks looks at it; leave it out, or pass DepthAwareFeatureRendering or "
                "ConsistentAwareLatentCompletion."
            )
        for hook in hooks:
            if isinstance(hook, KnownViews) and num_frames > (views_at_a_time or num_frames):
                raise MVCustomError(
                    "hooks: KnownViews names frames of one window, and this path is generated in several "
                    "(views_at_a_time). Pass anchor= and anchor_image= instead."
                )
        if not any(hook.needs_geometry for hook in hooks):
            return
        if anchor_depth is None and not self._can_estimate_depth:
            raise MVCustomError(
                "hooks: depth-aware rendering and completion need the anchor's depth, and this pipeline has no "
                "depth_estimator and depth_image_processor. Load it with them, pass anchor_depth=, or hooks=[]."
            )


# --- pipelines/denoising.py: The denoising loop: guided prediction, scheduler, hooks; the preview pass; decoding.


class DenoisingMixin(SubjectLoadingMixin):
    """The steps of [`MVCustomPipeline`] in which its models run over and over."""

    _reference_guidance_scale: float | None
    _split_guidance: bool
    _num_inference_steps: int

    @property
    def reference_guidance_scale(self) -> float | None:
        """The running call's guidance by the references."""
        return self._reference_guidance_scale

    def predict_noise(
        self,
        latents: Tensor,  # [B, C, F, h, w]
        timestep: Tensor,
        scheduler: SchedulerMixin,
        conditions: Conditions,
        references: bool,
    ) -> Tensor:
        """The guided prediction of the U-Net at one timestep, of the shape of `latents`."""
        num_frames = latents.shape[2]
        references = references and conditions.features is not None
        branches, scales = guidance_branches(self.guidance_scale, self.reference_guidance_scale, references)
        groups = [[branch] for branch in branches] if self._split_guidance else [branches]
        predictions = []
        for group in groups:
            model_input = torch.cat([latents] * len(group)) if len(group) > 1 else latents
            conditioning: AbstractContextManager[Any] = nullcontext()
            if references:
                assert self.subject is not None  # whose features they are
                conditioning = self.subject.conditioning.rendered(conditions.subject_features(group))
            with conditioning:
                output = self.unet(
                    scheduler.scale_model_input(model_input, timestep),
                    timestep,
                    encoder_hidden_states=conditions.text_states(group, num_frames),
                    cross_attention_kwargs=self.cross_attention_kwargs,
                    added_cond_kwargs=conditions.image_states(group),
                ).sample
            predictions.extend(output.chunk(len(group)))
        return combine(predictions, scales)

    def denoise(
        self,
        run: PlainRun,
        conditions: Conditions,
        hooks: Sequence[DenoisingHook] = (),
        extra_step_kwargs: dict[str, Any] | None = None,
        pose_guidance: tuple[float, float] = (0.0, 1.0),
        on_step_end: Callable[[int, Tensor, Tensor], Tensor] | None = None,
        description: str = "denoise",
    ) -> Tensor:
        """Runs the schedule from `run.latents`; returns the final latents `(batch, channels, frames, h, w)`.

        Hooks act in a [`DenoisingRun`]; a [`PlainRun`] has nothing for them to see.
        `on_step_end(index, timestep, latents)` is called after each step and returns the latents to go on with.
        """
        seen = run if isinstance(run, DenoisingRun) else None  # by hooks
        steps = len(run.timesteps)
        begin, end = (share * steps for share in pose_guidance)
        warm_up = steps - self._num_inference_steps * run.scheduler.order
        with self.progress_bar(total=steps) as progress:
            progress.set_description(description)
            for index, timestep in enumerate(run.timesteps):
                if self.interrupt:
                    continue
                with ExitStack() as during_unet_call:
                    step = DenoisingStep(index, timestep, during_unet_call)
                    if seen is not None:
                        for hook in hooks:
                            hook.before_step(seen, step)
                    prediction = self.predict_noise(
                        run.latents, timestep, run.scheduler, conditions, references=begin <= index < end
                    )
                if hooks and seen is not None:
                    step.predicted_original = seen.noise_levels.predict_original(prediction, run.latents, index)
                run.latents = run.scheduler.step(
                    prediction, timestep, run.latents, **(extra_step_kwargs or {})
                ).prev_sample
                if seen is not None:
                    for hook in hooks:
                        hook.after_step(seen, step)
                if on_step_end is not None:
                    run.latents = on_step_end(index, timestep, run.latents)
                if index == steps - 1 or ((index + 1) > warm_up and (index + 1) % run.scheduler.order == 0):
                    progress.update()
        return run.latents

    def decode_latents(self, latents: Tensor, decode_chunk_size: int = 4) -> Tensor:
        """Decodes `(batch, channels, frames, h, w)` to `(batch, 3, frames, H, W)` in [-1, 1], in chunks of frames."""
        frames = latents.transpose(1, 2).flatten(0, 1)
        chunks = frames.split(decode_chunk_size)
        with self.progress_bar(total=len(chunks)) as progress:
            progress.set_description("decode")
            decoded = []
            for chunk in chunks:
                # The order of operations is AnimateDiffPipeline's, so that results agree to the last bit.
                decoded.append(self.vae.decode(1 / self.vae.config.scaling_factor * chunk).sample)
                progress.update()
        return torch.cat(decoded).unflatten(0, (latents.shape[0], latents.shape[2])).transpose(1, 2).float()

    def preview(
        self,
        num_steps: int,
        latents: Tensor,  # [B, C, F, h, w]
        conditions: Conditions,
        extra_step_kwargs: dict[str, Any],
    ) -> Tensor:
        """A short pass from the same noise without hooks, on a copy of the scheduler; returns final latents."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(num_steps, device=latents.device)
        run = PlainRun(latents=latents, scheduler=scheduler, timesteps=scheduler.timesteps)
        return self.denoise(run, conditions, extra_step_kwargs=extra_step_kwargs, description="preview")


# --- hooks/consistent_aware_latent_completion.py: Consistent-aware latent completion (CLC): new, coherent content where the anchor saw nothing.


@dataclass
class ConsistentAwareLatentCompletion(DenoisingHook):
    """Keeps the disoccluded regions open to new content in the early steps.

    Without it, what the anchor frame did not see tends to repeat what it saw. For the first steps, the latents there
    are replaced by the current prediction of the clean latents, noised again with fresh noise:
    `x_t ← M ⊙ x_t + (1 − M) ⊙ (alpha_t x̂_0 + sigma_t noise)`, M the anchor's visibility at latent resolution.

    x̂_0 is the one that the step has just predicted and t is the level that the step arrives at, so no further U-Net
    call is needed. The last step that acts is never the last of the schedule, which would leave noise in the views.

    Source: MVCustom (arXiv 2510.13702), consistent-aware latent completion.

    Args:
        start (`float`, defaults to 0.0): Share of the steps after which it begins to act.
        end (`float`, defaults to 0.2): Share of the steps after which it ends (τ of the paper: 10 of 50 steps).
    """

    start: float = 0.0
    end: float = 0.2

    name: ClassVar[str] = "consistent_aware_latent_completion"
    needs_several_frames: ClassVar[bool] = True
    needs_geometry: ClassVar[bool] = True

    def prepare(self, run: DenoisingRun) -> None:
        """Takes the anchor's visibility at the latents' size."""
        height, width = run.latents.shape[-2:]
        run.state[id(self)] = run.anchor_geometry().visibility(height, width)[:, None]  # [B, 1, F, h, w]

    def after_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Opens what the anchor did not see to new content."""
        arrived = step.index + 1
        if not run.covers(self, step.index) or arrived >= len(run.timesteps):
            return
        noise = run.randn(tuple(run.latents.shape))
        assert step.predicted_original is not None  # known after the scheduler's step
        imagined = run.noise_levels.add_noise(step.predicted_original, noise, arrived)
        run.latents = torch.where(run.state[id(self)], run.latents, imagined)


# --- hooks/feature_map_sizes.py: At which size each motion module of a U-Net works.


def motion_module_sizes(unet: UNetMotionModel, height: int, width: int) -> dict[str, tuple[int, int]]:
    """The feature map's (height, width) at every motion module, in execution order, without running the U-Net.

    Args:
        unet (`UNetMotionModel`): The motion U-Net.
        height (`int`), width (`int`): The latents' size.

    Returns:
        `dict` from module name (as in `unet.named_modules()`) to the size of its input.
    """
    sizes: dict[str, tuple[int, int]] = {}
    levels = []
    for i, block in enumerate(unet.down_blocks):
        levels.append((height, width))
        sizes.update({f"down_blocks.{i}.motion_modules.{j}": levels[-1] for j in range(len(block.motion_modules))})
        if block.downsamplers is not None:  # stride 2 with padding 1: sizes are rounded up
            height, width = (height + 1) // 2, (width + 1) // 2
    for j in range(len(getattr(unet.mid_block, "motion_modules", None) or ())):
        sizes[f"mid_block.motion_modules.{j}"] = (height, width)
    for i, block in enumerate(unet.up_blocks):
        size = levels[len(levels) - 1 - i]
        sizes.update({f"up_blocks.{i}.motion_modules.{j}": size for j in range(len(block.motion_modules))})
    return sizes


# --- hooks/depth_aware_feature_rendering.py: Depth-aware feature rendering (DFR): the anchor's features, rendered into every other view through its depth.


_UP_BLOCK = re.compile(r"up_blocks\.(\d+)\.motion_modules\.\d+")


@dataclass
class DepthAwareFeatureRendering(DenoisingHook):
    """Replaces, in chosen layers, what the anchor saw by the anchor's own features seen from each camera.

    `F̂_n = M_n ⊙ R(F_a, φ_n) + (1 − M_n) ⊙ F_n` for every frame n that is no anchor: F_a are the anchor's features at
    this layer and step, R renders them through the anchor's feature mesh, M_n is where the mesh is visible. The
    replaced features are the inputs of the chosen motion modules, so the dense spatio-temporal attention sees them.
    Mesh, visibility and barycentrics do not depend on the step: a step is a gather.

    The initial noise is rendered in the same way, its variance kept. What the last layers compute becomes the predicted
    noise: with the anchor's features in its place but noise of its own, a view is told another's noise, and what is between
    the two stays in it as blotches. With the anchor's noise the two agree, and fine structure moves with the camera.

    Source: MVCustom (arXiv 2510.13702), depth-aware feature rendering; the noise is not the paper's (docs/method.md).

    Args:
        start (`float`, defaults to 0.0): Share of the steps after which it begins to act.
        end (`float`, defaults to 0.7): Share of the steps after which it ends (35 of 50 in the paper).
        layers (`str`, *optional*): Regular expression that names the motion modules (as in `unet.named_modules()`) whose
            inputs are replaced; by default those of all up blocks, and without `carry_noise` of all but the last.
        carry_noise (`bool`, defaults to `True`): Whether views start from the anchor's noise where the anchor saw them.
    """

    start: float = 0.0
    end: float = 0.7
    layers: str | None = None
    carry_noise: bool = True

    name: ClassVar[str] = "depth_aware_feature_rendering"
    needs_several_frames: ClassVar[bool] = True
    needs_geometry: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.carry_noise, bool):
            raise MVCustomError(
                f"DepthAwareFeatureRendering.carry_noise: expected true or false, got {self.carry_noise!r}."
            )
        try:
            re.compile("" if self.layers is None else self.layers)
        except (re.error, TypeError) as error:
            raise MVCustomError(
                f"DepthAwareFeatureRendering.layers: expected a regular expression, got {self.layers!r} ({error})."
            ) from error

    def prepare(self, run: DenoisingRun) -> None:
        """Finds the motion modules, computes the warps of their sizes, and lets the views start from the anchor's noise."""
        height, width = run.latents.shape[-2:]
        sizes = motion_module_sizes(run.unet, height, width)
        if self.layers is None:
            names = _up_blocks(sizes, but_the_last=not self.carry_noise)
        else:
            names = {name for name in sizes if re.fullmatch(self.layers, name)}
        chosen = {name: size for name, size in sizes.items() if name in names}
        if not chosen:
            raise MVCustomError(
                f"DepthAwareFeatureRendering.layers: {self.layers!r} names no motion module of this U-Net; it has "
                f"{list(sizes)}."
            )
        geometry = run.anchor_geometry()
        for size in set(chosen.values()):
            geometry.warps(*size)
        if self.carry_noise:
            run.latents = geometry.render_noise(run.latents)
        run.state[id(self)] = (list(chosen), geometry)

    def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Renders the anchor's features during the step's U-Net call."""
        if run.covers(self, step.index):
            names, geometry = run.state[id(self)]
            modules = [run.unet.get_submodule(name) for name in names]
            step.during_unet_call.enter_context(motion_inputs_replaced(modules, geometry.render))


def _up_blocks(names: Iterable[str], *, but_the_last: bool) -> set[str]:
    """Those of the motion modules that are in up blocks; `but_the_last` leaves out the last block if there are several."""
    numbers = {name: int(match[1]) for name in names if (match := _UP_BLOCK.fullmatch(name))}
    last = max(numbers.values(), default=0)
    return {name for name, number in numbers.items() if number < last or last == 0 or not but_the_last}


# --- hooks/built_in_hooks.py: The hooks whose settings are saved with a pipeline.


BUILT_IN_HOOKS = (DepthAwareFeatureRendering, ConsistentAwareLatentCompletion)
"""In the order in which they act; hooks of the user's are code, and are not saved."""


# --- pipelines/hook_settings.py: The pipeline's own hooks and anchor: set, saved with the pipeline and restored.


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


# --- pipelines/initial_noise.py: The noise that a call starts from.


class InitialNoiseMixin(PipelinePart):
    """Initial latents of [`MVCustomPipeline`]."""

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        num_frames: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """As `AnimateDiffPipeline`'s, with noise drawn in float32 and rounded: one seed, one picture in every dtype."""
        shape = (batch_size, num_channels_latents, num_frames, height, width)
        if latents is None:
            if self.free_noise_enabled:
                latents = self._prepare_latents_free_noise(*shape, torch.float32, device, generator).to(dtype)
            else:
                factor = self.vae_scale_factor
                latents = draw_noise(
                    (*shape[:3], height // factor, width // factor), generator=generator, device=device, dtype=dtype
                )
        return super().prepare_latents(*shape, dtype, device, generator, latents.to(dtype))


# --- pipelines/persistence.py: Saving and loading a pipeline together with its subject.


SUBJECT_FOLDER = "subject"
_HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")


class PersistenceMixin(SubjectLoadingMixin):
    """`save_pretrained` writes stock components and the active subject; `from_pretrained` restores both."""

    _trained_attention: TrainedAttention

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Loads a pipeline with its hooks' settings and, if one was saved with it, its subject.

        Args:
            pretrained_model_name_or_path (`str` or path): A folder or Hub id in the layout of this pipeline, of
                `AnimateDiffPipeline`, or of Stable Diffusion 1.5 together with `motion_adapter=`.
            kwargs: As in diffusers' `DiffusionPipeline.from_pretrained`, and this pipeline's own settings. Without `dtype`
                all components are float32. A `motion_adapter` takes the place of motion modules that the model has.
        """
        if "torch_dtype" not in kwargs:
            # Else diffusers loads its own models in float32, and those of transformers as they are stored.
            kwargs.setdefault("dtype", torch.float32)
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if isinstance(pipe, PersistenceMixin):
            if kwargs.get("motion_adapter") is not None:
                pipe.load_motion_adapter(kwargs["motion_adapter"])
            pipe._restore_saved_subject(**{name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs})
        return pipe

    def load_motion_adapter(self, motion_adapter: MotionAdapter) -> None:
        """Puts a motion adapter's weights in the place of the motion modules'; the attention window stays as it is.

        `set_attention_window("auto")` takes the one that the adapter was trained with, where its configuration says, and its
        `temporal_heads`.

        `AnimateDiffPipeline` joins an adapter with a 2-D U-Net only, and ignores it beside one that has motion modules.

        Raises:
            MVCustomError: if it is of another shape; nothing has changed then.
        """
        fitting_motion_weights(self.unet, motion_adapter)
        self.unet.load_motion_modules(motion_adapter)
        self._trained_attention = trained_attention(self.unet, motion_adapter, saved=self._trained_attention)

    def _restore_saved_subject(self, **hub_arguments: Any) -> None:
        """Loads the subject saved with the pipeline, unless it was loaded, replaced or taken out before.

        `DiffusionPipeline.from_pretrained` knows nothing of subjects, so a call restores it at the latest.
        """
        if not self._restore.pending:
            return
        self._restore.pending = False
        folder, source = self.config.get("subject_folder"), self.config.get("_name_or_path")
        if folder is not None and source is not None:
            self.load_subject(source, subfolder=folder, **hub_arguments)

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes the components as stock diffusers components, the settings, and the active subject in `subject/`.

        Args:
            save_directory (`str` or path): Folder to write to. One that is new or empty is there as a whole or not at all.
            push_to_hub (`bool`, defaults to `False`): Whether to upload the folder; with `repo_id`, `private`, `token`,
                `commit_message` and `create_pr` as in diffusers.
            kwargs: As in diffusers' `DiffusionPipeline.save_pretrained`.
        """
        if any(
            getattr(self.unet, "peft_config", {}) and not name.startswith("subject-") for name in self._lora_names()
        ):
            raise MVCustomError(
                f"save_pretrained: LoRA {self._lora_names()} is loaded, and its layers would be saved in a form that does "
                "not load again. Call unload_lora_weights() or fuse_lora() and unload_lora_weights() first."
            )
        hub = {
            name: kwargs.pop(name)
            for name in ("repo_id", "private", "token", "commit_message", "create_pr")
            if name in kwargs
        }
        subject, folder = self.subject, Path(save_directory)
        self.register_to_config(subject_folder=None if subject is None else SUBJECT_FOLDER)
        # A folder that holds something already keeps it, as in diffusers: another variant of the weights, say.
        new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        try:
            with replaced_folder(folder) if new else nullcontext(folder) as target:
                with self.without_subject():
                    super().save_pretrained(target, **kwargs)
                if subject is not None:
                    subject.save_pretrained(target / SUBJECT_FOLDER)
        except (OSError, SafetensorError) as error:
            left = "Nothing was written." if new else "What was in it may be replaced in part; save again."
            raise MVCustomError(f"save_directory: {folder} could not be written: {error}. {left}") from error
        if push_to_hub:
            self._push(save_directory, **hub)

    def _push(
        self,
        save_directory: str | PathLike[str],
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        **commit: Any,
    ) -> None:
        from huggingface_hub import create_repo

        repo_id = repo_id or Path(save_directory).name
        repo_id = create_repo(repo_id, exist_ok=True, private=private, token=token).repo_id
        self._upload_folder(save_directory, repo_id, token=token, **commit)

    def _lora_names(self) -> list[str]:
        return sorted(getattr(self.unet, "peft_config", {}))


# --- export/scene_points.py: Points of the scene from the anchors' depth, and which views see them.


_SAME_POINT = 0.02
"""Relative depth within which a view's nearest surface of an anchor is the point itself."""


@dataclass(frozen=True)
class AnchorDepth:
    """What a call's hooks took for the geometry of one set of views.

    Args:
        frames (`tuple` of `int`): The anchors among the views.
        depth (`torch.Tensor` of shape `(anchors, H, W)`): Their z-depth in world units, of any size.
        discontinuity (`float`, *optional*): See [`feature_mesh_from_depth`]; `None` takes its default.
    """

    frames: tuple[int, ...]
    depth: Tensor  # [A, H, W]
    discontinuity: float | None = None


@dataclass(frozen=True, eq=False)
class ScenePoints:
    """Coloured points in the cameras' world, and where views see them.

    Args:
        positions (`torch.Tensor` of shape `(P, 3)`, float64): World points.
        colors (`torch.Tensor` of shape `(P, 3)`, uint8): As the anchor view shows them.
        observations ([`Observations`]): In pixels of the views.
    """

    positions: Tensor  # [P, 3]
    colors: Tensor  # [P, 3]
    observations: Observations


def dense_points(anchors: AnchorDepth, cameras: Cameras, views: Sequence[PIL.Image.Image]) -> tuple[Tensor, Tensor]:
    """Every pixel of the anchor views at its depth.

    Pixels that belong to no triangle of the anchor's mesh, such as those smeared across an edge, are left out.

    Args:
        anchors ([`AnchorDepth`]): The anchors and their depth.
        cameras ([`Cameras`]): Of all views, at their size.
        views (sequence of `PIL.Image.Image`): All views.

    Returns:
        Positions `(P, 3)`, float64, and colours `(P, 3)`, uint8.
    """
    size = (cameras.height, cameras.width)
    exact = cameras.to("cpu", torch.float64)
    positions, colors = [], []
    for frame, mesh in zip(anchors.frames, _meshes(anchors, exact, size)):
        used = mesh.faces.unique()
        positions.append(mesh.vertices[used])
        colors.append(_pixels(views[frame], size)[used])
    return torch.cat(positions), torch.cat(colors)


def observed_points(
    anchors: AnchorDepth,
    cameras: Cameras,
    views: Sequence[PIL.Image.Image],
    most: int = 20_000,
) -> ScenePoints:
    """Points of the anchors on a grid, with the views that see each: what a sparse model holds.

    A view sees a point if the anchor's mesh, rendered into the view, is seen from the front at the four pixels around the
    point's projection and has the point's depth there (between pixels inverse depth is interpolated, which is exact on
    planes), and no other anchor's surface is in front. Points that fewer than two views see are left out, and so are those
    of an anchor's pixels that an earlier anchor has points for.

    Args:
        anchors ([`AnchorDepth`]): The anchors and their depth.
        cameras ([`Cameras`]): Of all views, at their size.
        views (sequence of `PIL.Image.Image`): All views.
        most (`int`, defaults to 20,000): Points of an anchor at most; a view of more pixels is sampled on a coarser grid.

    Returns:
        [`ScenePoints`], whose observations are the exact projections.
    """
    size = _grid(cameras.height, cameras.width, most)
    grid = cameras.to("cpu", torch.float64).resize(*size)
    meshes = _meshes(anchors, grid, size)
    seen = [rasterize(mesh, grid) for mesh in meshes]
    to_view = grid.intrinsics.new_tensor([cameras.width / size[1], cameras.height / size[0]])
    positions, colors, photo, point, pixel = [], [], [], [], []
    count = 0
    for a, (frame, mesh) in enumerate(zip(anchors.frames, meshes)):
        used = mesh.faces.unique()
        used = used[~_told_by(seen[:a], frame, seen[a].depth[frame]).flatten()[used]]
        at, depth = project(mesh.vertices[used], torch.linalg.inv(grid.camera_to_world), grid.intrinsics)
        sees = _shows(seen[a], at, depth) & ~_hidden([other for b, other in enumerate(seen) if b != a], at, depth)
        sees[frame] = True
        tracked = sees.sum(dim=0) >= 2
        sees, at, used = sees[:, tracked], at[:, tracked], used[tracked]
        views_of_points, points_of_views = sees.nonzero(as_tuple=True)
        positions.append(mesh.vertices[used])
        colors.append(_pixels(views[frame], size)[used])
        photo.append(views_of_points)
        point.append(points_of_views + count)
        pixel.append(at[sees] * to_view)
        count += len(used)
    return ScenePoints(
        torch.cat(positions), torch.cat(colors), Observations(torch.cat(photo), torch.cat(point), torch.cat(pixel))
    )


def _grid(height: int, width: int, most: int) -> tuple[int, int]:
    """The largest grid of at most `most` points with the views' aspect ratio, no finer than they are."""
    share = min(1.0, math.sqrt(most / (height * width)))
    return max(2, int(height * share)), max(2, int(width * share))


def _meshes(anchors: AnchorDepth, cameras: Cameras, size: tuple[int, int]) -> list[FeatureMesh]:
    """The anchors' meshes over a grid of `size`, made from the depth as `AnchorGeometry` makes them."""
    discontinuity = DEFAULT_DISCONTINUITY if anchors.discontinuity is None else anchors.discontinuity
    depth = anchors.depth.detach().cpu().double()
    if tuple(depth.shape[-2:]) != size:
        depth = F.interpolate(depth[None], size=size, mode="nearest-exact")[0]
    return [
        feature_mesh_from_depth(of_frame, cameras[frame], discontinuity=discontinuity)
        for frame, of_frame in zip(anchors.frames, depth)
    ]


def _pixels(view: PIL.Image.Image, size: tuple[int, int]) -> Tensor:
    """Colours `(h * w, 3)` of a view, each pixel of a coarser grid the mean of what it covers."""
    height, width = size
    if view.size != (width, height):
        view = view.resize((width, height), PIL.Image.Resampling.BOX)
    return torch.from_numpy(np.array(view.convert("RGB"))).flatten(0, 1)


def _told_by(earlier: Sequence[Rasterization], frame: int, depth: Tensor) -> Tensor:
    """`(h, w)` bool: where the surface of an anchor frame is one that an earlier anchor saw."""
    told = torch.zeros_like(depth, dtype=torch.bool)
    for other in earlier:
        told |= other.visibility[frame] & ((other.depth[frame] / depth - 1).abs() <= SAME_SURFACE)
    return told


def _shows(
    surface: Rasterization,
    at: Tensor,  # [N, P, 2]
    depth: Tensor,  # [N, P]
) -> Tensor:
    """`(N, P)` bool: whether the rendered mesh has the points' depth where they project to."""
    visible = surface.visibility
    inverse = torch.where(visible, 1 / surface.depth, torch.zeros_like(surface.depth))
    inverse, share = _sample(torch.stack([inverse, visible.to(inverse)], dim=1), at).unbind(1)
    return (share > 1 - 1e-6) & ((inverse * depth - 1).abs() <= _SAME_POINT)


def _hidden(
    others: Sequence[Rasterization],
    at: Tensor,  # [N, P, 2]
    depth: Tensor,  # [N, P]
) -> Tensor:
    """`(N, P)` bool: whether another anchor's surface is in front of the points."""
    hidden = torch.zeros_like(depth, dtype=torch.bool)
    for other in others:
        inverse = _sample((1 / other.depth)[:, None], at, mode="nearest")[:, 0]
        hidden |= inverse * depth > 1 + SAME_SURFACE
    return hidden


def _sample(
    maps: Tensor,  # [N, C, h, w]
    at: Tensor,  # [N, P, 2]
    mode: str = "bilinear",
) -> Tensor:
    """Maps at pixel positions, zero outside, `(N, C, P)`."""
    normalized = 2 * at / at.new_tensor([maps.shape[-1], maps.shape[-2]]) - 1
    return F.grid_sample(maps, normalized[:, None], mode=mode, padding_mode="zeros", align_corners=False)[:, :, 0]


# --- export/pictures.py: Views as PIL images, and all of them on one sheet.


Views = Sequence[PIL.Image.Image]
Frames = Sequence[Views] | Views | np.ndarray | torch.Tensor
"""Sets of views, or one set, as the pipeline's output types have them."""

_DECODE = "Latents? They have to be decoded before views can be saved: generate with output_type 'pil', 'np' or 'pt'."
_BEYOND = 0.01
"""How far values of images may lie outside of [0, 1], as those of a resampled image do."""


def views_to_pil(frames: Frames) -> list[list[PIL.Image.Image]]:
    """Sets of views as PIL images.

    Args:
        frames (lists of `PIL.Image.Image`, `np.ndarray` `(batch, N, H, W, 3)` or `torch.Tensor` `(batch, N, 3, H, W)`, in
            [0, 1]): The pipeline's output. One set may be given without its batch: a list of images, `(N, H, W, 3)` or
            `(N, 3, H, W)`.

    Raises:
        MVCustomError: for latents, which are no images, other shapes or values, and sets without a view.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.export import views_to_pil
        >>> sets = views_to_pil(torch.rand(4, 3, 6, 8))
        >>> len(sets), len(sets[0]), sets[0][0].size
        (1, 4, (8, 6))
    """
    if isinstance(frames, (np.ndarray, torch.Tensor)):
        return [
            [PIL.Image.fromarray((view * 255).round().clip(0, 255).astype(np.uint8)) for view in views]
            for views in _images(frames)
        ]
    if not isinstance(frames, Sequence) or isinstance(frames, str):
        raise MVCustomError(f"frames: expected views, got {type(frames).__name__}.")
    if frames and all(isinstance(view, PIL.Image.Image) for view in frames):
        return [_one_set(frames)]
    if not frames:
        raise MVCustomError("frames: expected at least one set of views, got none.")
    return [_one_set(views) for views in frames]


def _one_set(views: Any) -> list[PIL.Image.Image]:
    if not isinstance(views, Sequence) or not all(isinstance(view, PIL.Image.Image) for view in views):
        raise MVCustomError(
            "frames: expected PIL images, one list of them or one for each set, or one array or tensor of all sets, got a "
            f"list of {type(views).__name__}."
        )
    if not views:
        raise MVCustomError("frames: expected at least one view in each set, got none.")
    return list(views)


def _images(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """Sets of images `(batch, N, H, W, 3)` in [0, 1]."""
    batched = frames[None] if frames.ndim == 4 else frames
    channels = 2 if isinstance(frames, torch.Tensor) else -1
    if batched.ndim != 5 or batched.shape[channels] != 3 or 0 in batched.shape:
        raise MVCustomError(
            "frames: expected images as an array (batch, N, H, W, 3) or a tensor (batch, N, 3, H, W), or one set without "
            f"the batch, got {tuple(frames.shape)}. {_DECODE}"
        )
    if isinstance(batched, torch.Tensor):
        batched = batched.detach().float().cpu().movedim(2, -1).numpy()
    low, high = float(batched.min()), float(batched.max())
    if not -_BEYOND <= low <= high <= 1 + _BEYOND:
        cause = "Of 8 bits? Divide them by 255." if low >= 0 and high > 50 else _DECODE
        raise MVCustomError(f"frames: expected values in [0, 1], got some from {low:.3g} to {high:.3g}. {cause}")
    return batched


def contact_sheet(views: Views, columns: int | None = None) -> PIL.Image.Image:
    """All views on one sheet, row by row, as near to square as their number allows."""
    columns = columns or math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    width, height = views[0].size
    sheet = PIL.Image.new("RGB", (columns * width, rows * height), "white")
    for i, view in enumerate(views):
        sheet.paste(view, (i % columns * width, i // columns * height))
    return sheet


# --- export/animations.py: Views as a moving picture: MP4, GIF or WebP.


ANIMATIONS = ("gif", "mp4", "webp")
"""Endings of the moving pictures that are written."""


def has_video_writer() -> bool:
    """Whether MP4 can be written: imageio and imageio-ffmpeg, the extra `video`, are installed."""
    return find_spec("imageio") is not None and find_spec("imageio_ffmpeg") is not None


def check_animation(kind: str, fps: int) -> None:
    """Raises if a moving picture of this kind cannot be written.

    Raises:
        MVCustomError: for an unknown kind, a rate that is no whole number above 0, or MP4 without the extra `video`.
    """
    if kind not in ANIMATIONS:
        raise MVCustomError(f"format: expected one of {', '.join(ANIMATIONS)}, got {kind!r}.")
    if isinstance(fps, bool) or not isinstance(fps, int) or not 1 <= fps <= 1000:
        raise MVCustomError(f"fps: expected a whole number from 1 to 1000, got {fps!r}.")
    if kind == "mp4" and not has_video_writer():
        raise MVCustomError(
            "format: mp4 needs imageio and imageio-ffmpeg, which are not installed: "
            "`pip install 'diffusers-mvcustom[video]'`. gif and webp need nothing."
        )


def save_animation(path: str | PathLike[str], views: Views, fps: int = 8) -> None:
    """Writes views one after the other, as a loop; the name's ending says what: .gif, .mp4 (H.264) or .webp.

    GIF has 256 colours a view; WebP and MP4 all. An MP4's sides are even: a view of odd size gets one more row or column
    of its last pixels. What is there is replaced only after all is written.

    Args:
        path (`str` or path): The file.
        views (sequence of `PIL.Image.Image`): Of one size.
        fps (`int`, defaults to 8): Views a second.

    Raises:
        MVCustomError: see [`check_animation`].

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from diffusers_mvcustom.export import save_animation
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_animation(Path(folder) / "views.webp", [Image.new("RGB", (8, 6), color) for color in ("red", "blue")])
        ...     Image.open(Path(folder) / "views.webp").n_frames
        2
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    check_animation(kind, fps)
    if not views:
        raise MVCustomError("views: expected at least one, got none.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as new:
        if kind == "mp4":
            new.write_bytes(_mp4(views, fps))
        else:
            options = {"quality": 90, "method": 4} if kind == "webp" else {}
            views[0].save(
                new,
                format=kind.upper(),
                save_all=True,
                append_images=list(views[1:]),
                duration=round(1000 / fps),
                loop=0,
                **options,
            )


def _mp4(views: Views, fps: int) -> bytes:
    import imageio.v3 as imageio

    frames = [_even(view) for view in views]
    return imageio.imwrite(
        "<bytes>", frames, extension=".mp4", plugin="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=1
    )


def _even(view: PIL.Image.Image) -> np.ndarray:
    pixels = np.asarray(view.convert("RGB"))
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


# --- export/generation_record.py: What a set of generated views was made from, as `generation.json` beside its frames.


RECORD_NAME = "generation.json"


def encoded_records(records: Sequence[Mapping[str, Any]] | None, sets: int) -> list[bytes] | None:
    """One record for each of `sets` sets of views as files hold it; `None` if there are none.

    Raises:
        MVCustomError: for another number of records, or one that JSON cannot hold.
    """
    if records is None:
        return None
    if len(records) != sets:
        raise MVCustomError(f"records: expected one per set of views ({sets}), got {len(records)}.")
    try:
        return [(json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode() for record in records]
    except (TypeError, ValueError) as error:
        raise MVCustomError(f"records: expected what JSON can hold, got something else: {error}.") from error


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a set of views; empty if there is none.

    Raises:
        MVCustomError: naming the file, if it is not a record.
    """
    file = folder / RECORD_NAME
    if not file.is_file():
        return {}
    record = read_json(file)
    texts = isinstance(record, dict) and all(isinstance(record.get(k), (str, type(None))) for k in ("prompt", "token"))
    if not texts:
        raise MVCustomError(f"{file}: expected an object whose prompt and token are texts.")
    return record


# --- export/point_cloud.py: Coloured points as a PLY file.


_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def save_point_cloud(
    path: str | PathLike[str],
    positions: Tensor,  # [P, 3]
    colors: Tensor,  # [P, 3]
) -> None:
    """Writes a PLY file (binary, little endian): x, y, z as float32, red, green, blue as bytes.

    Args:
        path (`str` or path): The file. What is there is replaced only after all is written.
        positions (`torch.Tensor` of shape `(P, 3)`): World points.
        colors (`torch.Tensor` of shape `(P, 3)`, uint8): Their colours.

    Raises:
        MVCustomError: if the shapes do not fit.
    """
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.shape != colors.shape:
        raise MVCustomError(
            f"positions, colors: expected both of shape (P, 3), got {tuple(positions.shape)} and {tuple(colors.shape)}."
        )
    vertices = np.zeros(len(positions), dtype=_VERTEX)
    vertices["xyz"], vertices["rgb"] = positions.detach().cpu().numpy(), colors.cpu().numpy()
    properties = [f"property float {name}" for name in "xyz"]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *properties, "end_header"]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as new:
        new.write_bytes("\n".join([*header, ""]).encode("ascii") + vertices.tobytes())


# --- export/folders.py: Sets of views as folders that gsplat, nerfstudio and COLMAP open, or as one file.


EXPORT_FORMATS = (*ANIMATIONS, "colmap", "colmap-text", "ply")
"""What a folder of views may hold beside its pictures, contact sheet and transforms.json."""

_FILES = (*ANIMATIONS, "png", "ply")
_OTHER_FILES = (
    "jpg", "jpeg", "bmp", "tif", "tiff", "avif", "heic", "avi", "mov", "mkv", "webm", "m4v", "pdf",
    "svg", "json", "txt", "csv", "md", "html", "yaml", "yml", "npy", "npz", "pt", "pth", "safetensors",
    "obj", "stl", "glb", "gltf", "splat", "zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar",
)  # fmt: skip
"""Endings that nobody gives a folder on purpose."""
_SHEET, _CLOUD = "contact_sheet.png", "points.ply"
_OURS = (RECORD_NAME, "images", "sparse", "transforms.json", _SHEET, _CLOUD, *(f"views.{kind}" for kind in ANIMATIONS))


def check_export(
    path: str | PathLike[str],
    formats: Sequence[str] | None = None,
    fps: int = 8,
    sets: int = 1,
) -> None:
    """Raises if views cannot be saved there, so that it is known before they are generated.

    Args:
        path, formats, fps: See [`save_views`].
        sets (`int`, defaults to 1): How many sets of views there will be.

    Raises:
        MVCustomError: for unknown formats, MP4 without its writer, one file for several sets, the ending of a file
            that is not written here, or a folder that holds someone else's `images/` or `sparse/`.
    """
    path = Path(path)
    if kind := _file_kind(path):
        if sets != 1:
            raise MVCustomError(f"path: {path.name} holds one set of views, got {sets}; name a folder.")
        if formats is not None:
            raise MVCustomError(
                f"formats: the name {path.name} says what is written; name a folder for {list(formats)}."
            )
        if kind in ANIMATIONS:
            check_animation(kind, fps)
        return
    ending = path.suffix.lower().removeprefix(".")
    if not path.is_dir() and (path.exists() or ending in _OTHER_FILES):
        endings = ", ".join(f".{kind}" for kind in _FILES)
        raise MVCustomError(f"path: expected a folder, or a file that ends with {endings}, got {path}.")
    _check_formats(formats, fps)
    for folder in _set_folders(path, sets):
        _refuse_foreign(folder)


def save_views(
    path: str | PathLike[str],
    frames: Frames,
    cameras: Cameras | None = None,
    *,
    formats: Sequence[str] | None = None,
    fps: int = 8,
    subject_frame: SubjectFrame | None = None,
    geometry: Sequence[AnchorDepth] | None = None,
    records: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Writes sets of views, each with its cameras, and returns the folders written (or the file).

    | in a folder | what | when |
    |---|---|---|
    | `images/0000.png` ... | the views | always |
    | `contact_sheet.png` | all of them | always |
    | `transforms.json` | cameras as nerfstudio and instant-ngp read them; names `points.ply` if there | with cameras |
    | `views.gif`, `views.mp4`, `views.webp` | the views as a moving picture | `gif`, `mp4`, `webp` |
    | `sparse/0/` | COLMAP model, .bin or .txt, with points if there is geometry | `colmap`, `colmap-text` |
    | `points.ply` | every pixel of the anchor views at its depth, coloured | `ply` |
    | `generation.json` | how the views were made | with records |

    `images/` beside `sparse/0/` is what gsplat's and nerfstudio's COLMAP readers open. Everything is written beside the
    folder first, so an interrupted call leaves what was there; what an earlier call wrote and this one does not is removed.

    Args:
        path (`str` or path): A folder; several sets go into `0/`, `1/`, ... inside it. Or one file, by its ending: `.gif`,
            `.mp4`, `.webp`, `.png` (the contact sheet) or `.ply`.
        frames: The pipeline's output, or one set of views: a list of PIL images, an array `(N, H, W, 3)` or a tensor
            `(N, 3, H, W)`, see [`views_to_pil`].
        cameras ([`Cameras`], *optional*): One per view, in the subject frame; without them no camera files are written.
        formats (sequence of `str`, *optional*): Which of `EXPORT_FORMATS`. By default a GIF, with cameras a COLMAP model,
            with geometry a PLY file, and an MP4 where the extra `video` is installed.
        fps (`int`, defaults to 8): Views a second in moving pictures.
        subject_frame ([`SubjectFrame`], *optional*): If given, cameras and points are written in the photos' world.
        geometry (sequence of [`AnchorDepth`], *optional*): The anchors' depth of each set, for points.
        records (sequence of mappings, *optional*): How each set was made, to be written as JSON into its folder: `prompt`
            and `token`, which `mvcustom evaluate` reads, and whatever else. One file of views has no record.

    Raises:
        MVCustomError: see [`check_export`]; if the number of cameras is not that of the views, or a format needs cameras
            or geometry that is not given; if a record cannot be JSON; or if the disk is full.
    """
    path, sets = Path(path), views_to_pil(frames)
    if cameras is not None:
        check_kind("cameras", cameras, Cameras)
    check_export(path, formats, fps, len(sets))
    for views in sets:
        if cameras is not None and len(views) != len(cameras):
            raise MVCustomError(f"cameras: expected one per view ({len(views)}), got {len(cameras)}.")
    if geometry is not None and (cameras is None or len(geometry) != len(sets)):
        raise MVCustomError(f"geometry: expected cameras, and one entry per set of views ({len(sets)}).")
    if kind := _file_kind(path):
        _save_file(path, kind, sets[0], cameras, fps, subject_frame, geometry)
        return [path]
    if formats is None:
        formats = ["gif", *(["mp4"] if has_video_writer() else [])]
        formats += [] if cameras is None else ["colmap"]
        formats += [] if geometry is None else ["ply"]
    for wanted in formats:
        if cameras is None and wanted.startswith("colmap"):
            raise MVCustomError(f"formats: {wanted} needs the views' cameras, got none.")
    if geometry is None and "ply" in formats:
        raise _no_geometry()
    folders, texts = _set_folders(path, len(sets)), encoded_records(records, len(sets))
    for i, (target, views) in enumerate(zip(folders, sets)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
                new = Path(temporary)
                _write_pictures(new, views, formats, fps)
                if cameras is not None:
                    depth = None if geometry is None else geometry[i]
                    _write_cameras(new, views, cameras, formats, subject_frame, depth)
                if texts is not None:
                    (new / RECORD_NAME).write_bytes(texts[i])
                _put_in_place(new, target)
        except OSError as error:
            raise MVCustomError(
                f"path: {target} could not be written: {error}. What was there is as it was."
            ) from error
    return folders


def _write_pictures(folder: Path, views: Views, formats: Sequence[str], fps: int) -> None:
    (folder / "images").mkdir()
    for name, view in zip(_picture_names(len(views)), views):
        view.save(folder / "images" / name)
    contact_sheet(views).save(folder / _SHEET)
    for kind in ANIMATIONS:
        if kind in formats:
            save_animation(folder / f"views.{kind}", views, fps)


def _write_cameras(
    folder: Path,
    views: Views,
    cameras: Cameras,
    formats: Sequence[str],
    subject_frame: SubjectFrame | None,
    depth: AnchorDepth | None,
) -> None:
    names = _picture_names(len(views))
    written = cameras if subject_frame is None else subject_frame.to_user(cameras)
    if "ply" in formats and depth is not None:
        _save_cloud(folder / _CLOUD, depth, cameras, views, subject_frame)
    cloud = _CLOUD if "ply" in formats else None
    write_transforms_json(folder / "transforms.json", written, [f"images/{name}" for name in names], cloud)
    for wanted in ("colmap", "colmap-text"):
        if wanted not in formats:
            continue
        model = folder / "sparse" / "0"
        model.mkdir(parents=True, exist_ok=True)
        points, observations = None, None
        if depth is not None:
            scene = observed_points(depth, cameras, views)
            positions = scene.positions if subject_frame is None else subject_frame.points_to_user(scene.positions)
            points, observations = (positions, scene.colors), scene.observations
        write_colmap(model, written, names, binary=wanted == "colmap", points=points, observations=observations)


def _save_cloud(
    file: Path, depth: AnchorDepth, cameras: Cameras, views: Views, subject_frame: SubjectFrame | None
) -> None:
    positions, colors = dense_points(depth, cameras, views)
    save_point_cloud(file, positions if subject_frame is None else subject_frame.points_to_user(positions), colors)


def _save_file(
    file: Path,
    kind: str,
    views: Views,
    cameras: Cameras | None,
    fps: int,
    subject_frame: SubjectFrame | None,
    geometry: Sequence[AnchorDepth] | None,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "ply":
        if geometry is None or cameras is None:
            raise _no_geometry()
        _save_cloud(file, geometry[0], cameras, views, subject_frame)
    elif kind == "png":
        with replaced_file(file) as new:
            contact_sheet(views).save(new, format="PNG")
    else:
        save_animation(file, views, fps)


def is_one_file(path: str | PathLike[str]) -> bool:
    """Whether [`save_views`] would write one file there, by its ending."""
    return _file_kind(Path(path)) is not None


def _file_kind(path: Path) -> str | None:
    """What a path's ending asks for, if it is that of a file."""
    ending = path.suffix.lower().removeprefix(".")
    return ending if ending in _FILES and not path.is_dir() else None


def _check_formats(formats: Sequence[str] | None, fps: int) -> None:
    for wanted in formats or ("gif",):
        if wanted not in EXPORT_FORMATS:
            raise MVCustomError(f"formats: expected some of {', '.join(EXPORT_FORMATS)}, got {wanted!r}.")
        check_animation(wanted if wanted in ANIMATIONS else "gif", fps)


def _set_folders(path: Path, sets: int) -> list[Path]:
    return [path] if sets == 1 else [path / str(i) for i in range(sets)]


def _picture_names(count: int) -> list[str]:
    return [f"{i:04d}.png" for i in range(count)]


def _refuse_foreign(folder: Path) -> None:
    """Raises if the folder holds photos or a model of the user's: they have the names that ours have."""
    for name in ("images", "sparse"):
        there = folder / name
        if not there.exists():
            continue
        found = sorted(file.name for file in there.iterdir()) if there.is_dir() else [name]
        ours = _picture_names(len(found)) if name == "images" else ["0"]
        if not (folder / _SHEET).is_file() or (found and found != ours):
            raise MVCustomError(
                f"path: {folder} holds {name}/ that was not written here ({found[0] if found else 'empty'}); views would "
                "take its place. Name another folder."
            )


def _no_geometry() -> MVCustomError:
    return MVCustomError(
        "formats: ply needs the anchors' depth, and none was used for these views. Generate with depth-aware feature "
        "rendering or consistent-aware latent completion, from more than one camera."
    )


def _put_in_place(new: Path, target: Path) -> None:
    """Puts what was written in place of what an earlier call wrote."""
    target.mkdir(exist_ok=True)
    written = {file.name for file in new.iterdir()}
    for name in sorted(written | set(_OURS)):
        place = target / name
        if name in written:
            take_place(new / name, place)
        elif place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


# --- pipelines/pipeline_output.py: What `MVCustomPipeline` returns.


ViewFrames = list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor
"""Views as the output types have them: `pil`, `np`, or `pt` and `latent`."""


@dataclass
class MVCustomPipelineOutput(BaseOutput):
    """Views and the cameras that they were generated for.

    Args:
        frames (list of lists of `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            One set of views per prompt: PIL images; arrays of shape `(batch, N, H, W, 3)` in [0, 1]; tensors of shape
            `(batch, N, 3, H, W)` in [0, 1]; or latents `(batch, channels, N, h, w)`.
        cameras ([`Cameras`], *optional*): The N target cameras at the views' size, in the subject frame.
        subject_frame ([`SubjectFrame`], *optional*): The way back from the subject frame to the photos' world.
        anchors (`tuple` of `int`, *optional*): The anchor frames, if a hook used them; of a path that was generated
            window by window also the views that were handed over, in order.
        anchor_depth (`torch.Tensor` of shape `(batch, anchors, H, W)`, *optional*): Their z-depth.
        anchor_discontinuity (`float`, *optional*): The hooks' [`AnchorSettings`]`.discontinuity`.
    """

    frames: ViewFrames
    cameras: Cameras | None = None
    subject_frame: SubjectFrame | None = None
    anchors: tuple[int, ...] | None = None
    anchor_depth: torch.Tensor | None = None
    anchor_discontinuity: float | None = None

    @property
    def geometry(self) -> list[AnchorDepth] | None:
        """What the hooks took for each set's geometry; `None` where no hook asked for it."""
        if self.anchors is None or self.anchor_depth is None:
            return None
        return [AnchorDepth(self.anchors, depth, self.anchor_discontinuity) for depth in self.anchor_depth]

    @property
    def images(self) -> list[list[PIL.Image.Image]]:
        """The views as PIL images, one list per prompt, of a call with `output_type="pil"`.

        Raises:
            MVCustomError: for another output type, whose arrays or tensors are in `frames`.
        """
        if not isinstance(self.frames, list):
            raise MVCustomError(
                f"images: expected views generated with output_type='pil', got {type(self.frames).__name__}; see frames."
            )
        return self.frames

    def save(
        self,
        path: str | PathLike[str],
        fps: int = 8,
        *,
        formats: Sequence[str] | None = None,
        frame: str = "subject",
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Path]:
        """Writes the views to a folder, with their cameras and points, or to one file; see [`save_views`].

        With several prompts, each set of views goes into a folder of its own, `0/`, `1/`, ...

        Args:
            path (`str` or path): A folder, or a file that ends with `.gif`, `.mp4`, `.webp`, `.png` (the contact sheet) or
                `.ply` (the anchor views' pixels as coloured points).
            fps (`int`, defaults to 8): Views a second in moving pictures.
            formats (sequence of `str`, *optional*): What the folder holds beside pictures and `transforms.json`: `gif`,
                `mp4`, `webp`, `colmap`, `colmap-text`, `ply`.
            frame (`str`, defaults to `"subject"`): World of cameras and points: `"subject"`, or `"user"` for the one that
                the subject's photos were posed in.
            records (sequence of mappings, *optional*): How each set of views was made, written beside it as
                `generation.json`, which `mvcustom evaluate` reads.

        Returns:
            The folders written, or the file.

        Raises:
            MVCustomError: before anything is written, for what cannot be.
        """
        if frame not in ("subject", "user"):
            raise MVCustomError(f"frame: expected 'subject' or 'user', got {frame!r}.")
        if frame == "user" and self.subject_frame is None:
            raise MVCustomError(
                "frame: 'user' is the world of the subject's photos, and these views have no subject, or one that does not "
                "say how its frame was made. Save them in the subject frame."
            )
        return save_views(
            path,
            self.frames,
            self.cameras,
            formats=formats,
            fps=fps,
            subject_frame=self.subject_frame if frame == "user" else None,
            geometry=self.geometry,
            records=records,
        )


# --- pipelines/prompt_encoding.py: Prompts as text states, with layers of the text encoder skipped in every release of transformers.


class PromptEncodingMixin(PipelinePart):
    """`encode_prompt` of [`MVCustomPipeline`]."""

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,  # [B, L, D]
        negative_prompt_embeds: Tensor | None = None,  # [B, L, D]
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `AnimateDiffPipeline`'s, whose `clip_skip` looks for `text_encoder.text_model`, gone since transformers 5.6."""
        if clip_skip is not None and prompt_embeds is None and not hasattr(self.text_encoder, "text_model"):
            prompt_embeds = self._skipping_layers(prompt, device, clip_skip, lora_scale)
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=lora_scale,
            clip_skip=clip_skip,
        )
        return prompt_embeds, negative_prompt_embeds  # by these names diffusers' tests know what comes out

    def _skipping_layers(self, prompt: Any, device: torch.device, clip_skip: int, lora_scale: float | None) -> Tensor:
        """Text states before the last `clip_skip` layers, after the last layer norm, `(B, L, D)`."""
        tokens = self.tokenizer(
            self.maybe_convert_prompt(prompt, self.tokenizer),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with lora_scaled(self.text_encoder, lora_scale):
            states = self.text_encoder(tokens.input_ids.to(device), output_hidden_states=True).hidden_states
            return self.text_encoder.final_layer_norm(states[-(clip_skip + 1)])


# --- pipelines/step_callback.py: diffusers' `callback_on_step_end` in the denoising loop: what it is offered, and what becomes of its changes.


StepEndCallback: TypeAlias = (
    "Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | PipelineCallback | MultiPipelineCallbacks"
)


class StepCallback:
    """Calls the user's callback after a step; changed prompts count from the next step on.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        callback (`Callable`): `callback(pipe, step, timestep, kwargs) -> dict`.
        tensor_inputs (sequence of `str`): Names of the tensors that it is given.
        conditions ([`Conditions`]): Where changed prompts go.
    """

    def __init__(
        self, pipe: MVCustomPipeline, callback: StepEndCallback, tensor_inputs: Sequence[str], conditions: Conditions
    ) -> None:
        self.pipe = pipe
        self.callback = callback
        self.tensor_inputs = tensor_inputs
        self.conditions = conditions

    def __call__(self, index: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """The latents to go on with, `(batch, channels, frames, h, w)`."""
        conditions = self.conditions
        negative, batch_size = conditions.negative_prompt_embeds, len(conditions.prompt_embeds)
        embeds = [conditions.prompt_embeds] if negative is None else [negative, conditions.prompt_embeds]
        offered: dict[str, Any] = {
            "latents": latents,
            "prompt_embeds": torch.cat(embeds),
            "negative_prompt_embeds": negative,
        }
        given = {name: offered[name] for name in self.tensor_inputs}
        returned: dict[str, Any] = self.callback(self.pipe, index, timestep, given) or {}
        changed = returned.get("prompt_embeds", offered["prompt_embeds"])
        changed_negative = returned.get("negative_prompt_embeds", negative)
        if changed is not offered["prompt_embeds"]:  # negative prompts first, as offered
            changed_negative = changed[:batch_size] if len(changed) > batch_size else changed_negative
            conditions.replace_text(changed[-batch_size:], changed_negative)
        elif changed_negative is not negative:
            conditions.replace_text(conditions.prompt_embeds, changed_negative)
        return returned.get("latents", latents)


# --- pipelines/view_generation.py: From noise to the latents of all views, window by window: a plain call has one window.


@dataclass
class ViewGeneration:
    """The part of a call that runs once per window. Every window starts from the call's own conditions and settings.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        windows (sequence of [`ViewWindow`]): In the order in which they are generated.
        cameras ([`Cameras`]): All target cameras at the size of the views.
        noise (`torch.Tensor` of shape `(batch, channels, N, h, w)`): The initial latents of all views.
        conditions ([`Conditions`]): Text and image conditions.
        subject ([`SubjectOfWindows`], *optional*): Renders the subject, if there is one.
        hooks (sequence of [`DenoisingHook`]): What acts in every window.
        anchor ([`AnchorSettings`]): Preview and alignment.
        known ([`AnchorViews`]): Latents, images and depth that are given; grows with every window.
        generator (`torch.Generator` or list of them, *optional*): Source of fresh noise.
        extra_step_kwargs (`dict`): For the scheduler's step.
        pose_guidance (`tuple[float, float]`): Share of the steps between which the subject acts.
        make_callback (`Callable`, *optional*): `make_callback(conditions) -> StepCallback`, for one window.
    """

    pipe: MVCustomPipeline
    windows: Sequence[ViewWindow]
    cameras: Cameras
    noise: Tensor  # [B, C, N, h, w]
    conditions: Conditions
    subject: SubjectOfWindows | None
    hooks: Sequence[DenoisingHook]
    anchor: AnchorSettings
    known: AnchorViews
    generator: torch.Generator | list[torch.Generator] | None
    extra_step_kwargs: dict[str, Any]
    pose_guidance: tuple[float, float]
    make_callback: Callable[[Conditions], StepCallback] | None = None

    _latents: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def run(self) -> Tensor:
        """Generates all windows; returns the final latents `(batch, channels, N, h, w)`."""
        pipe, scale = self.pipe, self.pipe._guidance_scale
        for index, window in enumerate(self.windows):
            if pipe.interrupt and index > 0:
                break
            pipe._guidance_scale = scale  # callbacks may change it for the rest of a run
            later = {frame for other in self.windows[index + 1 :] for frame in other.known}
            latents = self._window(index, window, later)
            for frame in window.new:
                self._latents[frame] = latents[:, :, window.frames.index(frame)]
            self.known.latents.update({frame: self._latents[frame] for frame in later & set(window.new)})
        if len(self.windows) == 1 and not self.windows[0].known:
            return latents
        final = self._latents | self.known.latents
        return torch.stack([final.get(i, self.noise[:, :, i]) for i in range(len(self.cameras))], dim=2)

    def _window(self, index: int, window: ViewWindow, later: set[int]) -> Tensor:
        """The latents of one window's frames. Nothing else of it outlives this call but what is `later` needed."""
        pipe, frames = self.pipe, list(window.frames)
        conditions = Conditions(
            self.conditions.prompt_embeds,
            self.conditions.negative_prompt_embeds,
            image_embeds=self.conditions.image_embeds,
        )
        subject = None
        if self.subject is not None:
            subject = self.subject.of_window(frames, later, last=index == len(self.windows) - 1)
            conditions.features = subject.features
        everything = len(self.windows) == 1
        cameras = self.cameras if everything else self.cameras[frames]
        noise = self.noise if everything else self.noise[:, :, frames]
        hooks = self._hooks_of(window)
        preparation = AnchorPreparation(
            pipe,
            self.anchor,
            self._with_depth(window),
            cameras.to(noise.device, torch.float32),
            noise,
            conditions,
            subject,
            self.known,
            self.extra_step_kwargs,
        )
        on_step_end = None if self.make_callback is None else self.make_callback(conditions)
        latents = self._denoise(noise, cameras, conditions, hooks, preparation, on_step_end, index)
        preparation.hand_over(later & set(window.new))
        return latents

    def _denoise(
        self,
        latents: Tensor,
        cameras: Cameras,
        conditions: Conditions,
        hooks: Sequence[DenoisingHook],
        preparation: AnchorPreparation,
        on_step_end: StepCallback | None,
        index: int,
    ) -> Tensor:
        pipe, device = self.pipe, latents.device
        count = len(self.windows)
        description = "denoise" if count == 1 else f"denoise, window {index + 1} of {count}"
        pipe.scheduler.set_timesteps(pipe._num_inference_steps, device=device)
        timesteps = pipe.scheduler.timesteps
        for iteration in range(pipe._free_init_num_iters if pipe.free_init_enabled else 1):
            if pipe.free_init_enabled:
                latents, timesteps = pipe._apply_free_init(
                    latents, iteration, pipe._num_inference_steps, device, latents.dtype, self.generator
                )
            pipe._num_timesteps = len(timesteps)
            run = PlainRun(latents=latents, scheduler=pipe.scheduler, timesteps=timesteps)
            if hooks:
                run = seen = DenoisingRun(
                    latents=latents,
                    scheduler=pipe.scheduler,
                    timesteps=timesteps,
                    cameras=cameras,
                    unet=pipe.unet,
                    noise_levels=NoiseLevels.of(pipe.scheduler, timesteps),
                    generator=self.generator,
                    randn=partial(draw_noise, generator=self.generator, device=device, dtype=latents.dtype),
                    anchor_geometry=preparation.geometry,
                )
                for hook in hooks:
                    hook.prepare(seen)
            latents = pipe.denoise(
                run, conditions, hooks, self.extra_step_kwargs, self.pose_guidance, on_step_end, description
            )
        return latents

    def _hooks_of(self, window: ViewWindow) -> list[DenoisingHook]:
        """The call's hooks as far as they can act in this window, and last what holds the known views."""
        depth = bool(self._with_depth(window).anchors)
        hooks = [hook for hook in acting_hooks(self.hooks, len(window.frames)) if depth or not hook.needs_geometry]
        if window.known:
            places = tuple(window.frames.index(frame) for frame in window.known)
            latents = torch.stack([self.known.latents[frame] for frame in window.known], dim=2)
            hooks.append(KnownViews(frames=places, latents=latents))
        return hooks

    def _with_depth(self, window: ViewWindow) -> ViewWindow:
        """The window with those of its anchors whose depth is given or can be estimated."""
        if self.pipe._can_estimate_depth:
            return window
        anchors = tuple(frame for frame in window.anchors if frame in self.known.depth)
        return replace(window, anchors=anchors)


# --- pipelines/pipeline_mvcustom.py: `MVCustomPipeline`: a prompt, a subject and target cameras become consistent views.


class MVCustomPipeline(
    AttentionWindowMixin,
    HookSettingsMixin,
    PersistenceMixin,
    CallChecksMixin,
    PromptEncodingMixin,
    InitialNoiseMixin,
    DenoisingMixin,
    AnimateDiffPipeline,
):
    r"""Pipeline for multi-view customization: your own object, seen from any camera, in any scene you can describe.

    Stock diffusers components with dense spatio-temporal attention in the motion modules, a subject adapter
    ([`SubjectAdapter`]) and denoising hooks. A saved pipeline holds stock components only, so it also loads as an
    [`AnimateDiffPipeline`]. With `attention_window=1`, no subject and `hooks=[]` it *is* that pipeline, to the bit (of
    what is decoded together: `decode_chunk_size`).

    It inherits diffusers' loaders for LoRA, textual inversion and IP-Adapter, and FreeInit. Source: MVCustom
    (arXiv 2510.13702).

    Args:
        vae ([`AutoencoderKL`]): Encodes reference photos and decodes views.
        text_encoder ([`CLIPTextModel`]), tokenizer (`CLIPTokenizer`): Encode prompts.
        unet ([`UNet2DConditionModel`] or [`UNetMotionModel`]): The denoiser. A 2-D U-Net is joined with
            `motion_adapter`.
        scheduler ([`SchedulerMixin`]): DDIM as in the paper; also Euler, DPM++ and LCM.
        motion_adapter ([`MotionAdapter`], *optional*): Needed with a 2-D U-Net only.
        depth_estimator (`transformers.PreTrainedModel`, *optional*): Any depth model of transformers,
            `ZoeDepthForDepthEstimation` as in the paper. Without one the anchor's depth must be given in the call.
        depth_image_processor (`transformers.BaseImageProcessor`, *optional*): The depth model's image processor.
        feature_extractor (`CLIPImageProcessor`, *optional*), image_encoder (`CLIPVisionModelWithProjection`,
            *optional*): For IP-Adapter.
        attention_window (`int`, `None` or `dict`, defaults to `"auto"`): Spatial window of the motion modules'
            attention: 1 is AnimateDiff, odd k a k × k window, `None` the whole map, a dict a setting per feature map
            size such as `{"64": 7, "32": None}`. `"auto"` takes what the motion adapter (or U-Net) was trained with
            as its configuration says, else 1.
        temporal_heads (`int`, defaults to `"auto"`): How many of the motion modules' heads attend along time alone
            whatever the window is; 0 is the paper's attention. `"auto"` as with the window, else 0.
        denoising_hooks (`dict`, *optional*): Settings of the built-in hooks by name, as saved. `None`: both built-in
            hooks with their defaults where there is a depth model, else none.
        anchor (`dict`, *optional*): [`AnchorSettings`] as saved.
        subject_folder (`str`, *optional*): Folder of the saved subject inside the repository.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae->depth_estimator"
    _optional_components = [  # noqa: RUF012  (diffusers' own form)
        "feature_extractor",
        "image_encoder",
        "motion_adapter",
        "depth_estimator",
        "depth_image_processor",
    ]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel | UNetMotionModel,
        scheduler: SchedulerMixin,
        motion_adapter: MotionAdapter | None = None,
        depth_estimator: PreTrainedModel | None = None,
        depth_image_processor: BaseImageProcessor | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        attention_window: int | str | dict | None = "auto",  # diffusers checks values by these, and knows no Literal
        temporal_heads: int | str = "auto",
        denoising_hooks: dict | None = None,
        anchor: dict | None = None,
        subject_folder: str | None = None,
    ):
        if isinstance(unet, UNet2DConditionModel) and motion_adapter is None:
            raise MVCustomError(
                "motion_adapter: expected a MotionAdapter to go with the 2-D U-Net, got None. Pass "
                "motion_adapter=MotionAdapter.from_pretrained(...)."
            )
        saved = TrainedAttention(
            1 if isinstance(attention_window, str) else attention_window,
            0 if isinstance(temporal_heads, str) else temporal_heads,
        )
        trained = trained_attention(unet, motion_adapter, saved)  # before the two are joined
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            motion_adapter=motion_adapter,
            scheduler=scheduler,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        if depth_estimator is not None and not hasattr(depth_estimator, "device"):
            raise MVCustomError(
                "depth_estimator: expected a depth model of transformers, or one of yours that is a PreTrainedModel, got "
                f"{type(depth_estimator).__name__}, which does not say on which device it is."
            )
        self.register_modules(depth_estimator=depth_estimator, depth_image_processor=depth_image_processor)
        self.register_to_config(subject_folder=subject_folder)
        self._init_subjects()
        self._init_hooks(denoising_hooks, anchor)
        self._trained_attention = trained
        if self.unet is not None:
            window = cast('WindowSetting | Literal["auto"]', attention_window)
            self.set_attention_window(window, cast('int | Literal["auto"]', temporal_heads))  # checks them
        else:
            self.register_to_config(attention_window=attention_window, temporal_heads=temporal_heads)

    @overload
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: Cameras | str | PathLike[str] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        reference_guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "pil",
        return_dict: Literal[True] = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ...,
        decode_chunk_size: int = 4,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        anchor_image: AnchorImages | None = None,
        views_at_a_time: int | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> MVCustomPipelineOutput: ...

    @overload
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: Cameras | str | PathLike[str] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        reference_guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "pil",
        *,
        return_dict: Literal[False],
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ...,
        decode_chunk_size: int = 4,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        anchor_image: AnchorImages | None = None,
        views_at_a_time: int | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> tuple[ViewFrames]: ...

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        cameras: Cameras | str | PathLike[str] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        reference_guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (diffusers' own form)
        decode_chunk_size: int = 4,
        pose_guidance_start: float = 0.0,
        pose_guidance_end: float = 1.0,
        num_references: int | None = None,
        hooks: Sequence[DenoisingHook] | None = None,
        anchor: int | Sequence[int] | AnchorSettings | None = None,
        anchor_depth: Tensor | None = None,
        anchor_image: AnchorImages | None = None,
        views_at_a_time: int | None = None,
        camera_convention: str | None = None,
        camera_intrinsics: Tensor | None = None,
        split_guidance: bool = False,
    ) -> MVCustomPipelineOutput | tuple[ViewFrames]:
        r"""Generates one view per camera.

        Args:
            prompt (`str` or `list[str]`, *optional*): What to generate. With a subject it names the subject's token.
            cameras (`Cameras`, path or `torch.Tensor` of shape `(N, 4, 4)`): Target cameras in the subject frame; a
                camera file; or poses in the named `camera_convention` with `camera_intrinsics`.
            height (`int`, *optional*), width (`int`, *optional*): Size of the views in pixels, by default the cameras'.
                Cameras of another aspect ratio are cropped at the centre.
            num_inference_steps (`int`, defaults to 50): Denoising steps.
            guidance_scale (`float`, defaults to 5.0): Text guidance; 3 flickers less but blurs, 8 is sharp but flickers.
            reference_guidance_scale (`float`, *optional*): Guidance by the references as a third branch.
            negative_prompt (`str` or `list[str]`, *optional*): What to keep away from.
            num_images_per_prompt (`int`, defaults to 1): Sets of views per prompt.
            eta (`float`, defaults to 0.0): η of DDIM.
            generator (`torch.Generator` or a list of them, *optional*): Makes the result reproducible.
            latents (`torch.Tensor` of shape `(batch, channels, N, h, w)`, *optional*): Initial noise.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor` of shape `(batch, L, D)`, *optional*): Instead of
                texts.
            ip_adapter_image, ip_adapter_image_embeds (*optional*): See [`IPAdapterMixin`].
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, defaults to `True`): Whether to return [`MVCustomPipelineOutput`] or a tuple.
            cross_attention_kwargs (`dict`, *optional*): For the attention processors; `{"scale": s}` scales all LoRA, the
                subject's among them.
            clip_skip (`int`, *optional*): Layers of the text encoder to skip.
            callback_on_step_end (`Callable`, *optional*): `callback(pipe, step, timestep, kwargs) -> dict`.
            callback_on_step_end_tensor_inputs (`list[str]`): Tensors given to the callback.
            decode_chunk_size (`int`, defaults to 4): Views decoded at a time. 16, as in AnimateDiffPipeline, takes more
                memory at 512 × 512 than everything else, and the last bit can differ.
            pose_guidance_start (`float`, defaults to 0.0), pose_guidance_end (`float`, defaults to 1.0): Share of the
                steps between which the subject's pose-conditioned blocks act. `start=0.25` lets the prompt change
                the shape more; from 0.5 on the viewpoint goes, from 0.75 on the subject.
            num_references (`int`, *optional*): Reference views used, by default the subject's setting.
            hooks (sequence of [`DenoisingHook`], *optional*): By default the pipeline's own (`pipe.hooks`); `[]` for
                none.
            anchor (`int`, sequence of `int` or [`AnchorSettings`], *optional*): Anchor frame(s) of the geometry.
            anchor_depth (`torch.Tensor` of shape `(H, W)`, `(A, H, W)` or `(batch, A, H, W)`, *optional*): z-depth of
                the anchor frame(s) in world units. With it there is no preview pass and no depth estimate.
            anchor_image (`PIL.Image.Image`, path, `torch.Tensor` of shape `(3, H, W)` in [0, 1], or lists, *optional*):
                What the anchor frame shows; one per anchor frame, or per prompt, see [`resolve_anchor_images`]. The
                other views are generated around it, its own view is its reconstruction by the autoencoder, depth is
                estimated on it, and there is no preview pass.
            views_at_a_time (`int`, *optional*): Generates a path of more views than this window by window, each next
                window around the nearest view that is there already: as many views as you like in the memory of this
                many (16 is what AnimateDiff was trained with). By default all views go through the U-Net together.
            camera_convention (`str`, *optional*), camera_intrinsics (`torch.Tensor`, *optional*): For poses given as a
                tensor; the convention also for a JSON file with other axes than its format's.
            split_guidance (`bool`, defaults to `False`): Whether the branches of guidance go through the U-Net one
                after the other: about half the memory, a little slower.

        Returns:
            [`MVCustomPipelineOutput`], or a tuple whose first element are the frames.

        Raises:
            MVCustomError: before any model runs, naming the argument that cannot be used.

        Examples:

        ```py
        >>> from diffusers_mvcustom import Cameras, MVCustomPipeline
        >>> from diffusers_mvcustom.toy import random_components
        >>> pipe = MVCustomPipeline(**random_components("tiny"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> out = pipe("a mug by a lake", Cameras.orbit(4, height=64, width=64), num_inference_steps=2)
        >>> len(out.frames[0]), out.frames[0][0].size
        (4, (64, 64))

        ```
        """
        # 1. Inputs
        self._restore_saved_subject()
        cameras = resolve_cameras(
            cameras, convention=camera_convention, intrinsics=camera_intrinsics, height=height, width=width
        )
        height, width = cameras.height, cameras.width
        hooks = acting_hooks(listed_hooks(self.hooks if hooks is None else hooks), len(cameras))
        looked_at = anchor_image is not None or anchor_depth is not None or views_at_a_time is not None
        if (
            anchor is not None
            and len(cameras) > 1
            and not looked_at
            and not any(hook.needs_geometry for hook in hooks)
        ):
            raise MVCustomError(
                "anchor: none of the hooks looks at it, and there is no anchor_image or anchor_depth; leave it out."
            )
        anchor = self.anchor.with_frames(anchor)
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        latents_shape = self.check_call(
            cameras,
            hooks,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            anchor_depth=anchor_depth,
            views_at_a_time=views_at_a_time,
            output_type=output_type,
            cross_attention_kwargs=cross_attention_kwargs,
            clip_skip=clip_skip,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            counts={
                "num_inference_steps": num_inference_steps,
                "decode_chunk_size": decode_chunk_size,
                "num_references": num_references,
            },
            scales={"guidance_scale": guidance_scale, "reference_guidance_scale": reference_guidance_scale},
            pose_guidance=(pose_guidance_start, pose_guidance_end),
        )
        batch_size, channels, num_frames, *_ = latents_shape
        plan, anchor_image, anchor_depth = self.plan_views(
            cameras, hooks, anchor, views_at_a_time, anchor_image, anchor_depth, batch_size, num_images_per_prompt
        )
        self._guidance_scale = guidance_scale
        self._reference_guidance_scale = reference_guidance_scale
        self._clip_skip = clip_skip
        self._cross_attention_kwargs = cross_attention_kwargs
        self._split_guidance = split_guidance
        self._num_inference_steps = num_inference_steps
        self._interrupt = False
        device = self._execution_device
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if hooks:
            NoiseLevels.of(self.scheduler, self.scheduler.timesteps)  # raises for schedulers that hooks cannot follow

        # 2. Text and image conditions
        lora_scale = None if cross_attention_kwargs is None else cross_attention_kwargs.get("scale")
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            self.do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=lora_scale,
            clip_skip=clip_skip,
        )
        if not self.do_classifier_free_guidance:
            negative_prompt_embeds = None
        conditions = Conditions(prompt_embeds, negative_prompt_embeds)
        if ip_adapter_image is not None or ip_adapter_image_embeds is not None:
            conditions.image_embeds = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image, ip_adapter_image_embeds, device, batch_size, self.do_classifier_free_guidance
            )

        # 3. The subject, looked at once, to be rendered once per target camera
        subject = None
        if self.subject is not None and pose_guidance_start < pose_guidance_end:
            texts = [prompt_embeds] if negative_prompt_embeds is None else [negative_prompt_embeds, prompt_embeds]
            render = self.subject_renderer(
                torch.cat(texts), (height, width), num_references, generator, conditions.image_embeds
            )
            subject = SubjectOfWindows(render, cameras)

        # 4. Latents, and what is known of the views
        latents = self.prepare_latents(
            batch_size, channels, num_frames, height, width, prompt_embeds.dtype, device, generator, latents
        )
        known = known_views(self, plan.anchors, anchor_image, anchor_depth, latents)

        # 5. Denoise, window by window
        generation = ViewGeneration(
            pipe=self,
            windows=plan.windows,
            cameras=cameras,
            noise=latents,
            conditions=conditions,
            subject=subject,
            hooks=hooks,
            anchor=anchor,
            known=known,
            generator=generator,
            extra_step_kwargs=self.prepare_extra_step_kwargs(generator, eta),
            pose_guidance=(pose_guidance_start, pose_guidance_end),
        )
        if callback_on_step_end is not None:
            generation.make_callback = partial(
                StepCallback, self, callback_on_step_end, callback_on_step_end_tensor_inputs
            )
        latents = generation.run()

        # 6. Decode
        if output_type == "latent":
            frames = latents
        else:
            frames = self.video_processor.postprocess_video(
                video=self.decode_latents(latents, decode_chunk_size), output_type=output_type
            )
        anchors = tuple(known.used)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (frames,)
        return MVCustomPipelineOutput(
            frames=frames,
            cameras=cameras,
            subject_frame=None if self.subject is None else self.subject.config.subject_frame,
            anchors=anchors or None,
            anchor_depth=known.stacked_depth(anchors, (height, width)).to(device) if anchors else None,
            anchor_discontinuity=anchor.discontinuity if anchors else None,
        )
