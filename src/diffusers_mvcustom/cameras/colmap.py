"""COLMAP sparse models: cameras, images and points, as .bin or .txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CamerasError, MVCustomError
from .cameras import Cameras
from .capture import Capture, inside_folder, one_size
from .colmap_binary import (
    read_binary_cameras,
    read_binary_images,
    read_binary_points,
    write_binary_cameras,
    write_binary_images,
    write_binary_points,
)
from .colmap_model import ColmapCamera, ColmapImage, ColmapModel, Observations
from .colmap_text import (
    read_text_cameras,
    read_text_images,
    read_text_points,
    write_text_cameras,
    write_text_images,
    write_text_points,
)
from .conventions import camera_to_world_in, cameras_from_convention
from .distortion import Distortion

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
