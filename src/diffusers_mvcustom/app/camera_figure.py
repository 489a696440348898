"""Cameras around the subject in 3-D, to be turned with the mouse."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cameras import Cameras

if TYPE_CHECKING:
    import plotly.graph_objects as go


def camera_figure(cameras: Cameras, references: Cameras | None = None) -> go.Figure:
    """Frusta of target cameras (dark: first, bright: last) and of the subject's reference cameras (grey), +Y up.

    Args:
        cameras ([`Cameras`]): The target cameras.
        references ([`Cameras`], *optional*): The subject's.

    Returns:
        A plotly figure.
    """
    import plotly.colors
    import plotly.graph_objects as go

    size = cameras.centers.norm(dim=-1).median().item() / 7 or 0.1
    traces = []
    if references is not None:
        traces.append(_lines(go, _edges(references, size * 0.6), "reference cameras", color="#b5b5b5", width=1.5))
    shares = [i / max(len(cameras) - 1, 1) for i in range(len(cameras))]
    colors = plotly.colors.sample_colorscale("Viridis", [0.9 * share for share in shares])
    for i, color in enumerate(colors):
        edges = _edges(cameras[i], size)
        traces.append(_lines(go, edges, f"view {i}", color=color, width=4, legend=False))
    path = cameras.centers.tolist()
    traces.append(_lines(go, path, "target cameras", color="#31688e", width=2))
    for axis, (name, color) in enumerate((("x", "#d62728"), ("y (up)", "#2ca02c"), ("z", "#1f77b4"))):
        start: list[float | None] = [0.0, 0.0, 0.0]
        end: list[float | None] = [0.0, 0.0, 0.0]
        end[axis] = size
        traces.append(_lines(go, [start, end], f"subject's {name}", color=color, width=6, legend=False))
    hidden = {"visible": False, "showspikes": False}
    figure = go.Figure(traces)
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=380,
        scene={
            "aspectmode": "data",
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "camera": {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 0.65, "y": 0.75, "z": 1.1}},
        },
        legend={"orientation": "h", "x": 0, "y": 0},
        uirevision="kept",  # the user's viewpoint stays when cameras change
    )
    return figure


def _edges(cameras: Cameras, size: float) -> list[list[float | None]]:
    """Points of one line through all edges of the frusta; `None` lifts the pen."""
    exact = cameras.to("cpu", torch.float64)
    height, width = exact.height, exact.width
    corners = torch.tensor([[0.0, 0.0, 1.0], [width, 0.0, 1.0], [width, height, 1.0], [0.0, height, 1.0]]).double()
    rays = corners @ torch.linalg.inv(exact.intrinsics).transpose(1, 2)  # [N, 4, 3], z = 1
    planes = exact.centers[:, None] + size * rays @ exact.camera_to_world[:, :3, :3].transpose(1, 2)
    points: list[list[float | None]] = []
    for center, plane in zip(exact.centers, planes):
        points += [*_stroke(plane[[0, 1, 2, 3, 0]]), *_stroke(torch.stack([plane[0], center, plane[1]]))]
        points += _stroke(torch.stack([plane[2], center, plane[3]]))
    return points


def _stroke(points: Tensor) -> list[list[float | None]]:
    return [*points.tolist(), [None, None, None]]


def _lines(
    go: ModuleType, points: list[list[float | None]], name: str, *, color: str, width: float, legend: bool = True
) -> Any:
    x, y, z = (list(axis) for axis in zip(*points))
    return go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        name=name,
        line={"color": color, "width": width},
        showlegend=legend,
        hoverinfo="name",
    )
