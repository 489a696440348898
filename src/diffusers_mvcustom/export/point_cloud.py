"""Coloured points as a PLY file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import MVCustomError
from ..files.whole import replaced_file

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
