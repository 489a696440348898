"""Generated views on disk: frames, GIF, contact sheet, video and the cameras that belong to them."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers.utils import export_to_video, make_image_grid

from .cameras import Cameras, SubjectFrame, save_cameras
from .errors import MVCustomError

Views = Sequence[PIL.Image.Image]


def views_to_pil(frames: Sequence[Views] | np.ndarray | torch.Tensor) -> list[list[PIL.Image.Image]]:
    """Sets of views as PIL images.

    Args:
        frames (lists of images, `np.ndarray` `(batch, N, H, W, 3)` or `torch.Tensor` `(batch, N, 3, H, W)` in [0, 1]):
            The pipeline's output.

    Raises:
        MVCustomError: for latents, which are no images.
    """
    if isinstance(frames, torch.Tensor):
        frames = frames.detach().float().cpu().movedim(2, -1).numpy() if frames.ndim == 5 else frames
    if isinstance(frames, (np.ndarray, torch.Tensor)):
        if frames.ndim != 5 or frames.shape[-1] != 3:
            raise MVCustomError(
                f"frames: expected images of shape (batch, N, H, W, 3) or (batch, N, 3, H, W), got {tuple(frames.shape)}. "
                "Latents? Generate with output_type 'pil', 'np' or 'pt' to save views."
            )
        frames = [
            [PIL.Image.fromarray((view * 255).round().clip(0, 255).astype(np.uint8)) for view in set_]
            for set_ in frames
        ]
    return [list(views) for views in frames]


def contact_sheet(views: Views, columns: int | None = None) -> PIL.Image.Image:
    """All views on one sheet, row by row, as near to square as their number allows."""
    columns = columns or math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    blank = PIL.Image.new("RGB", views[0].size, "white")
    return make_image_grid([*views, *[blank] * (rows * columns - len(views))], rows=rows, cols=columns)


def save_views(
    folder: str | PathLike,
    frames: Sequence[Views] | np.ndarray | torch.Tensor,
    cameras: Cameras | None = None,
    *,
    fps: int = 8,
    subject_frame: SubjectFrame | None = None,
) -> list[Path]:
    """Writes sets of views, each with its cameras, and returns the folders written.

    A folder holds `frames/0000.png` ..., `views.gif`, `contact_sheet.png`, `transforms.json` (nerfstudio, OpenGL axes),
    `colmap/` (a sparse model) and, where imageio-ffmpeg is installed (extra `video`), `views.mp4`. Everything is
    written beside it first, so an interrupted call leaves what was there.

    Args:
        folder (`str` or path): Where to write. Several sets go into `0/`, `1/`, ... inside it.
        frames: The pipeline's output, see [`views_to_pil`].
        cameras ([`Cameras`], *optional*): One per view; without them no camera files are written.
        fps (`int`, defaults to 8): Views a second in GIF and video.
        subject_frame ([`SubjectFrame`], *optional*): If given, cameras are written in the photos' world.
    """
    sets = views_to_pil(frames)
    if not isinstance(fps, int) or fps < 1:
        raise MVCustomError(f"fps: expected a whole number above 0, got {fps!r}.")
    for views in sets:
        if cameras is not None and len(views) != len(cameras):
            raise MVCustomError(f"cameras: expected one per view ({len(views)}), got {len(cameras)}.")
    if cameras is not None and subject_frame is not None:
        cameras = subject_frame.to_user(cameras)
    folder = Path(folder)
    folders = [folder] if len(sets) == 1 else [folder / str(i) for i in range(len(sets))]
    for target, views in zip(folders, sets):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            _write_views(Path(temporary), views, cameras, fps)
            target.mkdir(exist_ok=True)
            for written in sorted(Path(temporary).iterdir()):
                _replace(written, target / written.name)
    return folders


def _write_views(folder: Path, views: Views, cameras: Cameras | None, fps: int) -> None:
    (folder / "frames").mkdir()
    names = [f"frames/{i:04d}.png" for i in range(len(views))]
    for name, view in zip(names, views):
        view.save(folder / name)
    views[0].save(
        folder / "views.gif", save_all=True, append_images=list(views[1:]), duration=round(1000 / fps), loop=0
    )
    contact_sheet(views).save(folder / "contact_sheet.png")
    if find_spec("imageio_ffmpeg") is not None and find_spec("imageio") is not None:
        export_to_video([np.asarray(view) / 255.0 for view in views], str(folder / "views.mp4"), fps=fps)
    if cameras is not None:
        save_cameras(folder / "transforms.json", cameras, names=names)
        save_cameras(folder / "colmap", cameras, format="colmap", names=[Path(name).name for name in names])


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)
