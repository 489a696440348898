"""Clips of the toy world for the backbone's training: one scene each, seen from cameras on a path."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.nn.functional as F
from PIL import Image

from ...cameras import Cameras
from ...training.clip_geometry import GEOMETRY_SUFFIX, ClipGeometry
from ..attributes import Chooser
from ..captions import describe
from ..rendering import RenderedViews, render
from ..scene import FIELD_OF_VIEW
from ..splits import Split, sample_scene
from .view_store import hash_of

NUM_FRAMES = 12
_FIRST_SCENE = 1_000_000  # scenes that the single views do not have


def export_clips(
    folder: Path,
    split: Split,
    count: int,
    *,
    size: int = 64,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    workers: int = 1,
) -> None:
    """Writes clips as folders of frames, `000123/00.png ...`, each with its caption in `000123.txt` beside it and its depth
    and cameras in `000123.geometry.safetensors`.

    A clip is written under another name first, so an interrupted export goes on where it stopped.

    Args:
        folder (`Path`): Where to write.
        split (`str`): Of which scenes.
        count (`int`): How many clips there are to be.
        size (`int`): Side of the frames in pixels.
        progress (`Callable`): Wraps the loop.
        workers (`int`): Processes that render.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(count) if not (folder / f"{number:06d}").is_dir()]
    export = partial(_export_clip, folder, split, size)
    if workers == 1:
        for number in progress(missing):
            export(number)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in progress(pool.imap(export, missing)):
            pass


def _export_clip(folder: Path, split: Split, size: int, number: int) -> None:
    final = folder / f"{number:06d}"
    scene = sample_scene(split, _FIRST_SCENE + number)
    cameras = path_cameras(split, number, size)
    views = render(scene, cameras)
    temporary = folder / f".{number:06d}.{uuid4().hex}"
    temporary.mkdir()
    for frame, image in enumerate((views.images * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(temporary / f"{frame:02d}.png")
    caption = describe(
        scene.attributes,
        Chooser(number),
        object_count=int(views.visible_objects().max()),
        unseen=set.intersection(*(views.unseen(view) for view in range(len(views.images)))),
        completeness=0.9,
    )
    final.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    _geometry(views, cameras.resize(size // 4, size // 4)).save(final.with_suffix(GEOMETRY_SUFFIX))
    temporary.rename(final)


def _geometry(views: RenderedViews, cameras: Cameras) -> ClipGeometry:
    """Depth at the cameras' size, that of latents, and where the subject is."""
    size = (cameras.height, cameras.width)
    depth = F.interpolate(views.depth, size=size, mode="nearest-exact")[:, 0]
    return ClipGeometry(depth, cameras, F.interpolate(views.masks, size=size, mode="area")[:, 0])


def path_cameras(split: Split, number: int, size: int, count: int = NUM_FRAMES) -> Cameras:
    """A camera path: an arc around the subject, rising or falling and coming nearer or not; or past it, sideways."""
    choose = Chooser(104_729 * (number + 1) + hash_of(split))
    azimuth, elevation = choose.uniform(0.0, 360.0), choose.uniform(6.0, 36.0)
    radius, field_of_view = choose.uniform(0.85, 1.15), FIELD_OF_VIEW + choose.uniform(-2.0, 2.0)
    orbit = partial(Cameras.orbit, field_of_view=field_of_view, height=size, width=size)
    if choose.chance(0.7):
        span = choose.uniform(20.0, 110.0) * (1 if choose.chance(0.5) else -1)
        rise = min(max(elevation + choose.uniform(-12.0, 12.0), 4.0), 42.0) - elevation
        nearer = choose.uniform(-0.12, 0.12)
        shares = [frame / (count - 1) for frame in range(count)]
        return Cameras.cat(
            [
                orbit(
                    1,
                    azimuth=(azimuth + span * share,) * 2,
                    elevation=elevation + rise * share,
                    radius=radius + nearer * share,
                )
                for share in shares
            ]
        )
    # Past it: the camera moves along its own x axis and keeps its direction.
    middle = orbit(1, azimuth=(azimuth, azimuth), elevation=elevation, radius=radius * 1.1)
    reach = choose.uniform(0.06, 0.2) * (1 if choose.chance(0.5) else -1)
    right = middle.camera_to_world[0, :3, 0]
    poses = middle.camera_to_world.repeat(count, 1, 1)
    for frame in range(count):
        poses[frame, :3, 3] += right * reach * math.cos(math.pi * frame / (count - 1))
    return Cameras(poses, middle.intrinsics.expand(count, 3, 3).clone(), size, size)
