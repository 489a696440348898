"""Plots of camera frusta around the subject."""

from __future__ import annotations

import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .cameras import Cameras
from .checks import check_kind


def plot_cameras(cameras: Cameras, *, ax: Any = None, title: str | None = None, frustum: float | None = None) -> Any:
    """Draws cameras as frusta in 3-D, +Y up, coloured from the first (dark) to the last (bright).

    Args:
        cameras ([`Cameras`]): What to draw.
        ax (matplotlib 3-D axes, *optional*): Where; by default a new figure's.
        title (`str`, *optional*): Above the plot.
        frustum (`float`, *optional*): Length of a frustum; by default a sixth of the cameras' median distance from the
            origin.

    Returns:
        The matplotlib axes.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    check_kind("cameras", cameras, Cameras)
    if ax is None:
        ax = Figure(figsize=(7, 7), layout="constrained").add_subplot(projection="3d")
    cameras = cameras.to("cpu", torch.float64)
    centers = cameras.centers
    length = frustum or max(centers.norm(dim=-1).median().item() / 6, 1e-6)
    corners = torch.tensor(
        [[x, y, 1.0] for x, y in ((0, 0), (cameras.width, 0), (cameras.width, cameras.height), (0, cameras.height))]
    ).double()
    rays = corners @ torch.linalg.inv(cameras.intrinsics).transpose(1, 2)  # [N, 4, 3], z = 1
    image = centers[:, None] + length * rays @ cameras.camera_to_world[:, :3, :3].transpose(1, 2)

    def shown(points: torch.Tensor) -> Any:  # plots have z up, the subject frame has y up: turn about x
        return torch.stack([points[..., 0], -points[..., 2], points[..., 1]], dim=-1).numpy()

    colors = matplotlib.colormaps["viridis"](torch.linspace(0, 0.95, len(cameras)).numpy())
    for center, plane, color in zip(centers, image, colors):
        edges = [shown(torch.stack([center, corner])) for corner in plane]
        edges.append(shown(torch.cat([plane, plane[:1]])))
        ax.add_collection3d(Line3DCollection(edges, colors=[color], linewidths=1.2))
        ax.add_collection3d(Line3DCollection([shown(plane[:2])], colors=[color], linewidths=3))  # the image's top edge
    path = shown(centers)
    ax.plot(*path.T, color="0.7", linewidth=0.8, zorder=0)
    for axis, color in zip(torch.eye(3).double() * length, ("tab:red", "tab:green", "tab:blue")):
        ax.plot(*shown(torch.stack([torch.zeros(3).double(), axis])).T, color=color, linewidth=2.5)
    everything = shown(torch.cat([centers, image.flatten(0, 1), torch.zeros(1, 3).double()]))
    middle, half = (
        (everything.max(0) + everything.min(0)) / 2,
        (everything.max(0) - everything.min(0)).max() / 2 * 1.05,
    )
    ax.set(
        xlim=(middle[0] - half, middle[0] + half),
        ylim=(middle[1] - half, middle[1] + half),
        zlim=(middle[2] - half, middle[2] + half),
        xlabel="x",
        ylabel="-z",
        zlabel="y",
    )
    ax.set_box_aspect((1, 1, 1))
    note = f"{len(cameras)} cameras, {cameras.width} × {cameras.height}; thick edge: image top. At 0: x red, y green, z blue"
    ax.set_title(f"{title}\n{note}" if title else note, fontsize=9)
    return ax


def save_camera_plot(path: str | PathLike[str], cameras: Cameras, *, title: str | None = None) -> None:
    """Writes [`plot_cameras`] to an image file; the ending names the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = plot_cameras(cameras, title=title).figure
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        figure.savefig(Path(temporary) / path.name, dpi=130)
        os.replace(Path(temporary) / path.name, path)
