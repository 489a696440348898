"""Time and memory of a FeatureNeRF at the shapes of Stable Diffusion 1.5, without text attention or with a block's own.

    python benchmarks/feature_nerf.py --cases 320x64 640x32 1280x16 --targets 4 16 --references 8
    python benchmarks/feature_nerf.py --cases 640x32 --targets 1 --backward --texts 1 --device cuda --dtype bfloat16

A case is channels x map size. Every one runs in a process of its own, so that peak memory is its own: seconds of one call
(median), and peak memory beyond weights and inputs. Rendering runs once a generation, not once a step.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from diffusers_mvcustom.models import (
    FeatureNeRF,
    FeatureNeRFConfig,
    PoseConditionedTransformerBlock,
    PoseConditioner,
    PoseConditioning,
)

sys.path.insert(0, str(Path(__file__).parent))
from environment import describe_environment, markdown_table, write_text


def ring(count: int, elevation: float, start: float) -> Tensor:
    """Poses around the origin at distance 1, which they look at, `(1, count, 4, 4)`."""
    poses = torch.eye(4).repeat(1, count, 1, 1)
    for i in range(count):
        a, e = start + 2 * math.pi * i / count, elevation
        center = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), -math.cos(e) * math.cos(a)])
        right = torch.linalg.cross(-center, torch.tensor([0.0, 1.0, 0.0]))
        right = right / right.norm()
        poses[0, i, :3] = torch.stack([right, torch.linalg.cross(-center, right), -center, center], dim=1)
    return poses


def measure(
    channels: int, size: int, references: int, targets: int, texts: int, samples: int, backward: bool, device: str,
    dtype: str, repeats: int, rays_per_chunk: int | None, threads: int,
) -> dict[str, float]:  # fmt: skip
    """Seconds and peak MiB of one case, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    weight_dtype = getattr(torch, dtype)
    block = BasicTransformerBlock(channels, 8, channels // 8, cross_attention_dim=768)
    nerf = FeatureNeRF(channels, FeatureNeRFConfig(num_samples=samples))
    block = PoseConditionedTransformerBlock.from_block(block, PoseConditioner(nerf), PoseConditioning(), "block")
    block.to(device, weight_dtype).requires_grad_(False)
    nerf.requires_grad_(backward)
    nerf.gradient_checkpointing = backward
    intrinsics = torch.tensor([[1.1 * size, 0, size / 2], [0, 1.1 * size, size / 2], [0, 0, 1.0]], device=device)
    inputs = (
        torch.randn(1, references, channels, size, size, device=device, dtype=weight_dtype),
        ring(references, 0.3, 0.0).to(device),
        intrinsics.expand(1, references, 3, 3),
        ring(targets, 0.2, 0.1).to(device),
        intrinsics.expand(1, targets, 3, 3),
        size,
        size,
    )
    options = {"rays_per_chunk": rays_per_chunk}
    if texts:
        options["encoder_hidden_states"] = torch.randn(1, texts, 77, 768, device=device, dtype=weight_dtype)
        options["attend_text"] = block.attend_text

    def call() -> None:
        with torch.set_grad_enabled(backward):
            rendered = nerf(*inputs, **options)
            if backward:
                (rendered.features.float().square().mean() + rendered.rgb.square().mean()).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    def peak() -> float:
        if device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = peak()
    seconds: list[float] = []
    while len(seconds) < repeats + 1 and sum(seconds) < 60:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    timed = sorted(seconds[1:] or seconds)  # the first call warms up
    return {"seconds": timed[len(timed) // 2], "peak_mib": (peak() - before) / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["320x64", "640x32", "1280x16"], help="channels x map size")
    parser.add_argument("--references", type=int, default=8, help="reference views")
    parser.add_argument("--targets", type=int, nargs="+", default=[4, 16], help="target views")
    parser.add_argument("--texts", type=int, default=2, help="texts that the points attend to; 0 leaves that out")
    parser.add_argument("--samples", type=int, default=24, help="samples on a ray")
    parser.add_argument("--backward", action="store_true", help="also gradients, with checkpoints, as in training")
    parser.add_argument("--rays-per-chunk", type=int, help="by default from the module's memory budget")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many, after one to warm up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table here; a .json beside it")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(**json.loads(arguments.case))))
        return
    for name in ("references", "samples", "threads", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(arguments, name)}")

    rows = []
    for shape in arguments.cases:
        try:
            channels, size = (int(number) for number in shape.split("x"))
        except ValueError:
            parser.error(f"--cases: expected channels x map size such as 640x32, got {shape!r}")
        for targets in arguments.targets:
            case = {"channels": channels, "size": size, "targets": targets}
            for name in (
                "references", "texts", "samples", "backward", "device", "dtype", "repeats", "rays_per_chunk", "threads"
            ):  # fmt: skip
                case[name] = getattr(arguments, name)
            process = subprocess.run(
                [sys.executable, __file__, "--case", json.dumps(case)], stdout=subprocess.PIPE, text=True, check=True
            )
            rows.append(case | json.loads(process.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), file=sys.stderr)
    table = [
        {
            "channels": row["channels"],
            "map": f"{row['size']}×{row['size']}",
            "views": row["targets"],
            "seconds": f"{row['seconds']:.3f}",
            "peak MiB": f"{row['peak_mib']:.0f}",
            "µs a point": f"{1e6 * row['seconds'] / (row['targets'] * row['size'] ** 2 * row['samples']):.2f}",
        }
        for row in rows
    ]
    environment = describe_environment(arguments.device)
    text = f"{environment['text']}\n\n{markdown_table(table)}\n"
    print(text)
    written = {arguments.json: json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n"}
    if arguments.markdown:
        gradients = ", with gradients" if arguments.backward else ""
        written[arguments.markdown] = (
            f"# FeatureNeRF{gradients}: {arguments.references} references, {arguments.texts} texts, "
            f"{arguments.samples} samples a ray, {arguments.dtype}\n\n{text}"
        )
        written.setdefault(arguments.markdown.with_suffix(".json"), written[arguments.json])
    for file, content in written.items():
        if file is not None:
            write_text(file, content)


if __name__ == "__main__":
    main()
