"""Times the geometry of depth-aware feature rendering: mesh and rasterisation (once), feature warp (every step).

python benchmarks/geometry.py --size 64 --views 15 --channels 320
python benchmarks/geometry.py --size 32 64 --device cuda --dtype bfloat16 --json geometry.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.geometry import FeatureWarp, feature_mesh_from_depth, rasterize

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
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    args = parser.parse_args()
    for name in ("views", "channels", "threads", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if min(args.size) < 2:
        parser.error(f"--size: expected at least 2, got {min(args.size)}")
    torch.set_num_threads(args.threads)

    cuda = torch.device(args.device).type == "cuda"
    machine = torch.cuda.get_device_name(args.device) if cuda else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {machine}, {args.threads} CPU thread(s), features in {args.dtype}")
    results = []
    for size in args.size:
        results.append(measure(size, args))
        row = results[-1]
        assert math.isfinite(row["largest_difference_to_naive"])
        print(
            f"{size:4d} x {size:<4d} {args.views} views  mesh {row['mesh_ms']:7.2f} ms  rasterize "
            f"{row['rasterize_ms']:8.2f} ms  warp {row['warp_ms']:7.2f} ms  (naive {row['naive_warp_ms']:8.2f} ms)  "
            f"visible {row['visible']:.0%}"
        )
    if args.json:
        report = {"torch": torch.__version__, "device": machine, "threads": args.threads, "dtype": args.dtype}
        partial = f"{args.json}.part"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({**report, "results": results}, file, indent=2)
        os.replace(partial, args.json)


if __name__ == "__main__":
    main()
