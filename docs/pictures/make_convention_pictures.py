"""Draws the pictures of conventions.md and capture.md. Needs no model.

python docs/pictures/make_convention_pictures.py -o docs/pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.cameras import plot_cameras

RED, GREEN, BLUE = "tab:red", "tab:green", "tab:blue"


def camera_axes() -> Figure:
    """One camera, with the axes of OpenCV and those of OpenGL."""
    figure = plt.figure(figsize=(9, 4.4), layout="constrained")
    camera = Cameras.orbit(1, azimuth=(0, 0), elevation=0, height=3, width=4, field_of_view=40)
    for number, (title, signs, names) in enumerate(
        (
            ("inside: OpenCV", (1, 1, 1), ("x right", "y down", "z forward")),
            ("converted at the border: OpenGL, Blender, nerfstudio", (1, -1, -1), ("x right", "y up", "z backward")),
        )
    ):
        ax = figure.add_subplot(1, 2, number + 1, projection="3d")
        plot_cameras(camera, ax=ax, frustum=0.45)
        for lines in ax.collections:
            lines.set_color("0.55")
        for line in ax.lines[-3:]:  # the world's axes at the origin are another picture
            line.set_visible(False)
        center, rotation = camera.centers[0], camera.camera_to_world[0, :3, :3]
        for axis, sign, color, name in zip(rotation.T, signs, (RED, GREEN, BLUE), names):
            end = center + 0.3 * sign * axis
            points = torch.stack([center, end])
            ax.plot(points[:, 0], -points[:, 2], points[:, 1], color=color, linewidth=3)
            ax.text(end[0], -end[2], end[1] + 0.03, name, color=color, fontsize=11)
        ax.set(xlim=(-0.33, 0.33), ylim=(-1.15, -0.49), zlim=(-0.33, 0.33))
        ax.set_box_aspect((1, 1, 1), zoom=1.35)
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
        ax.view_init(elev=20, azim=-60)
    return figure


def pixel_centers() -> Figure:
    """Pixels of an image of 4 × 3, their centres, and the principal point."""
    figure, ax = plt.subplots(figsize=(6, 4.6), layout="constrained")
    width, height = 4, 3
    for x in range(width + 1):
        ax.plot([x, x], [0, height], color="0.6", linewidth=1)
    for y in range(height + 1):
        ax.plot([0, width], [y, y], color="0.6", linewidth=1)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ax.plot(x.ravel(), y.ravel(), "o", color="tab:blue", markersize=7, label="centres of pixels")
    ax.annotate("first pixel: (0.5, 0.5)", (0.5, 0.5), (0.1, -0.25), fontsize=10, color="tab:blue")
    ax.plot(
        [width / 2], [height / 2], "+", color=RED, markersize=18, markeredgewidth=3, label="principal point (2, 1.5)"
    )
    ax.annotate("(0, 0)", (0, 0), (-0.45, 0.05), fontsize=10)
    ax.annotate("(4, 3)", (4, 3), (4.05, 3.05), fontsize=10)
    ax.annotate("", (1.2, -0.45), (0, -0.45), arrowprops={"arrowstyle": "->", "color": RED})
    ax.annotate("", (-0.6, 1.2), (-0.6, 0), arrowprops={"arrowstyle": "->", "color": GREEN})
    ax.text(1.25, -0.4, "x", color=RED)
    ax.text(-0.65, 1.4, "y", color=GREEN)
    ax.set(xlim=(-0.8, 4.6), ylim=(3.9, -0.7), aspect="equal")
    ax.legend(loc="lower left", ncols=2, frameon=False)
    ax.set_axis_off()
    return figure


def subject_frame() -> Figure:
    """Cameras of a capture in the subject frame."""
    figure = plt.figure(figsize=(7, 7), layout="constrained")
    ax = figure.add_subplot(projection="3d")
    rings = Cameras.cat(
        [
            Cameras.orbit(8, elevation=elevation, radius=radius, height=96, width=128)
            for elevation, radius in ((10, 0.85), (40, 1.0))
        ]
    )
    plot_cameras(rings, ax=ax, frustum=0.16)
    angle = np.linspace(0, 2 * np.pi, 90)
    ax.plot(np.sin(angle), -np.cos(angle), 0 * angle, color="0.6", linestyle="--", linewidth=1)
    ax.text(0.0, -1.04, 0.0, "distance 1 from the origin", fontsize=9, color="0.4")
    for end, name, color in (((0.35, 0, 0), "+X", RED), ((0, 0.35, 0), "+Y, up", GREEN), ((0, 0, 0.35), "+Z", BLUE)):
        ax.plot([0, end[0]], [0, -end[2]], [0, end[1]], color=color, linewidth=3)
        ax.text(1.1 * end[0], -1.1 * end[2], 1.1 * end[1], name, color=color, fontsize=11)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.set_title("The subject frame: origin where the optical axes meet, farthest camera at distance 1", fontsize=10)
    ax.view_init(elev=22, azim=-68)
    return figure


def azimuth_elevation() -> Figure:
    """Azimuth from above, elevation from the side."""
    figure, (above, side) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for ax in (above, side):
        ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.7", linestyle="--"))
        ax.plot([0], [0], "o", color="0.3", markersize=9)
        ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        ax.set_axis_off()
    for degrees in (0, 45, 90, 180, -90, -45):
        x, z = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
        _looking(above, (x, -z), (0, 0))
        above.text(1.28 * x, -1.28 * z, f"{degrees}°", ha="center", va="center", fontsize=11)
    above.annotate("", (0.45, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": RED})
    above.annotate("", (0, -0.45), (0, 0), arrowprops={"arrowstyle": "->", "color": BLUE})
    above.text(0.48, 0.04, "+X", color=RED)
    above.text(0.04, -0.56, "+Z", color=BLUE)
    above.set_title("azimuth, seen from above (+Y towards you)", fontsize=11)
    for degrees in (0, 20, 50, 90, -20):
        z, y = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        _looking(side, (z, y), (0, 0))
        side.text(1.28 * z, 1.28 * y, f"{degrees}°", ha="center", va="center", fontsize=11)
    side.annotate("", (0.45, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": BLUE})
    side.annotate("", (0, 0.45), (0, 0), arrowprops={"arrowstyle": "->", "color": GREEN})
    side.text(0.3, -0.15, "+Z", color=BLUE)
    side.text(0.05, 0.45, "+Y", color=GREEN)
    side.set_title("elevation, seen from the side, at azimuth 0", fontsize=11)
    return figure


def trajectories() -> Figure:
    """The camera paths."""
    view = {"height": 48, "width": 64}
    keys = Cameras.cat(
        [Cameras.orbit(1, azimuth=(a, a), elevation=e, **view) for a, e in ((-60, 5), (0, 60), (70, 20))]
    )
    paths = {
        "orbit(12)": Cameras.orbit(12, **view),
        "arc(8)": Cameras.arc(8, **view),
        "spiral(16)": Cameras.spiral(16, **view),
        "lemniscate(16)": Cameras.lemniscate(16, **view),
        "dolly(5)": Cameras.dolly(5, **view),
        "translate(5)": Cameras.translate(5, **view),
        "interpolate(keys, 9)": Cameras.interpolate(keys, 9),
        "jitter(arc(8))": Cameras.jitter(
            Cameras.arc(8, **view), degrees=8, distance=0.08, generator=torch.Generator().manual_seed(0)
        ),
    }
    figure = plt.figure(figsize=(14, 7.4), layout="constrained")
    for number, (name, cameras) in enumerate(paths.items()):
        ax = figure.add_subplot(2, 4, number + 1, projection="3d")
        plot_cameras(cameras, ax=ax, frustum=0.2)
        ax.set_title(f"Cameras.{name}", fontsize=11)
        ax.set(xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), zlim=(-0.7, 1.1), xlabel="", ylabel="", zlabel="")
        ax.set_box_aspect((1, 1, 1), zoom=1.1)
        ax.set(xticklabels=[], yticklabels=[], zticklabels=[])
    return figure


def cameras_of_photos() -> Figure:
    """What a good capture looks like: two rings and a few from above."""
    figure = plt.figure(figsize=(6.4, 6.4), layout="constrained")
    ax = figure.add_subplot(projection="3d")
    rings = ((20, 10, 0.9), (16, 35, 0.95), (6, 60, 1.0))
    capture = [Cameras.orbit(n, elevation=e, radius=r, height=96, width=128) for n, e, r in rings]
    plot_cameras(Cameras.cat(capture), ax=ax, frustum=0.12, title="42 photos at three heights")
    return figure


def _looking(ax: Axes, place: tuple[float, float], target: tuple[float, float]) -> None:
    """A camera seen from above: a triangle at `place` that opens towards `target`."""
    place, forward = np.array(place), np.subtract(target, place)
    forward = forward / np.linalg.norm(forward)
    across = np.array([-forward[1], forward[0]])
    corners = [place, place + 0.2 * forward + 0.1 * across, place + 0.2 * forward - 0.1 * across]
    ax.add_patch(plt.Polygon(corners, closed=True, fill=False, color="tab:purple", linewidth=1.6))


PICTURES = (camera_axes, pixel_centers, subject_frame, azimuth_elevation, trajectories, cameras_of_photos)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        figure = draw()
        figure.savefig(options.output / f"{draw.__name__}.png", dpi=80, bbox_inches="tight")
        plt.close(figure)
        print(f"{draw.__name__}.png → {options.output}")


if __name__ == "__main__":
    main()
