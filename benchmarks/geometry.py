"""Times the geometry of depth-aware feature rendering: mesh and rasterisation (once), feature warp (every step).

    python benchmarks/geometry.py --size 64 --views 15 --channels 320
    python benchmarks/geometry.py --size 32 64 --device cuda --dtype bfloat16 -o gpu-results/geometry.md

"Naive" is a warp that gathers three maps of the output's size and sums them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.geometry import FeatureWarp, feature_mesh_from_depth, rasterize

sys.path.insert(0, str(Path(__file__).parent))
from environment import describe_environment, markdown_table, write_text

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def arc(views: int, size: int, degrees: float = 80.0) -> Cameras:
    """Cameras on a horizontal arc around the origin at distance 1."""
    angles = torch.deg2rad(torch.linspace(-degrees / 2, degrees / 2, views))
    sine, cosine, zero, one = angles.sin(), angles.cos(), torch.zeros(views), torch.ones(views)
    pose = torch.eye(4).repeat(views, 1, 1)
    pose[:, :3, 0] = torch.stack([cosine, zero, sine], dim=1)
    pose[:, :3, 1] = torch.stack([zero, one, zero], dim=1)
    pose[:, :3, 2] = torch.stack([-sine, zero, cosine], dim=1)
    pose[:, :3, 3] = torch.stack([sine, zero, -cosine], dim=1)
    return Cameras.from_focal(pose, 1.1 * size, size, size)


def ball_before_a_wall(size: int) -> Tensor:
    """z-depth of a round step with a rough surface."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return 1.3 + 0.05 * torch.sin(5 * x) - 0.4 * ((x.square() + y.square()) < 0.3)


def naive_warp(warp: FeatureWarp, features: Tensor) -> Tensor:
    """Gathers three maps of the output's size and sums them: what `FeatureWarp.warp` is compared with."""
    height, width = warp.visibility.shape[1:]
    corners = features.flatten(-2)[..., warp.indices]  # [..., C, N, P, 3]
    rendered = (corners * warp.weights.to(features.dtype)).sum(-1)
    return rendered.unflatten(-1, (height, width)).movedim(-4, -3)


def milliseconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median time of `call` after two calls to warm up."""
    times = []
    for repeat in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(size: int, args: argparse.Namespace) -> dict[str, float | int]:
    """The times for one feature map size, in milliseconds."""
    device = torch.device(args.device)
    cameras = arc(args.views + 1, size)
    middle = args.views // 2
    others = cameras[[n for n in range(len(cameras)) if n != middle]].to(device)
    anchor, depth = cameras[middle].to(device), ball_before_a_wall(size).to(device)
    mesh = feature_mesh_from_depth(depth, anchor)
    warp = FeatureWarp.from_rasterization(rasterize(mesh, others), mesh)
    features = torch.randn(1, args.channels, size, size, device=device).to(DTYPES[args.dtype])
    difference = (naive_warp(warp, features) - warp.warp(features)).abs().max().item()
    timed = {
        "mesh_ms": lambda: feature_mesh_from_depth(depth, anchor),
        "rasterize_ms": lambda: rasterize(mesh, others),
        "warp_ms": lambda: warp.warp(features),
        "naive_warp_ms": lambda: naive_warp(warp, features),
    }
    return {
        "size": size,
        "views": args.views,
        "channels": args.channels,
        "visible": warp.visibility.float().mean().item(),
        "largest_difference_to_naive": difference,
        **{name: milliseconds(call, args.repeats, device) for name, call in timed.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[16, 32, 64], help="feature map sizes")
    parser.add_argument("--views", type=int, default=15, help="target views")
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the features")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=9, help="the median of so many is reported")
    parser.add_argument("-o", "--output", type=Path, help="markdown file to write; a .json goes beside it")
    args = parser.parse_args()
    for name in ("views", "channels", "threads", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if min(args.size) < 2:
        parser.error(f"--size: expected at least 2, got {min(args.size)}")
    torch.set_num_threads(args.threads)

    results = []
    for size in args.size:
        results.append(measure(size, args))
        assert math.isfinite(results[-1]["largest_difference_to_naive"])
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    environment = describe_environment(args.device)
    text = report_text(results, args, environment)
    print(text)
    if args.output:
        stored = {"environment": environment, "threads": args.threads, "dtype": args.dtype, "results": results}
        write_text(args.output, text)
        write_text(args.output.with_suffix(".json"), json.dumps(stored, indent=1) + "\n")


def report_text(results: list[dict], args: argparse.Namespace, environment: dict[str, str]) -> str:
    threads = f", {args.threads} CPU thread(s)" if args.device == "cpu" else ""
    rows = [
        {
            "map": f"{row['size']}×{row['size']}",
            "mesh, ms": f"{row['mesh_ms']:.2f}",
            "rasterise, ms": f"{row['rasterize_ms']:.2f}",
            "warp, ms": f"{row['warp_ms']:.2f}",
            "naive warp, ms": f"{row['naive_warp_ms']:.2f}",
            "visible": f"{row['visible']:.0%}",
        }
        for row in results
    ]
    return (
        f"# Geometry of depth-aware feature rendering: one anchor into {args.views} views\n\nMesh and rasterisation run once "
        f"a generation and map size, the warp of {args.channels} channels ({args.dtype}) at every step and layer{threads}. "
        "The naive warp gathers three maps of the output's size and sums them; its result is the same. Visible is the share "
        f"of the views' pixels that the anchor saw.\n\n{environment['text']}\n\n{markdown_table(rows)}\n"
    )


if __name__ == "__main__":
    main()
