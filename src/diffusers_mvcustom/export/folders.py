"""Sets of views as folders that gsplat, nerfstudio and COLMAP open, or as one file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..cameras import Cameras, SubjectFrame
from ..cameras.checks import check_kind
from ..cameras.colmap import write_colmap
from ..cameras.transforms_json import write_transforms_json
from ..errors import MVCustomError
from ..files.whole import replaced_file, take_place
from .animations import ANIMATIONS, check_animation, has_video_writer, save_animation
from .generation_record import RECORD_NAME, encoded_records
from .pictures import Frames, Views, contact_sheet, views_to_pil
from .point_cloud import save_point_cloud
from .scene_points import AnchorDepth, dense_points, observed_points

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
