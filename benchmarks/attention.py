"""Time and memory of windowed, full and per-pixel (AnimateDiff) spatio-temporal attention.

    python benchmarks/attention.py --sizes 32 64 --frames 8 16 --windows 1 3 7 full -o docs/attention_benchmark.md

Every case runs in a process of its own, so that peak memory is its own. The columns: seconds of one call (fastest of
the repeats), peak memory beyond the inputs, both as ratios to full attention, and the time beside that of bare
`scaled_dot_product_attention` of the same size, whose inputs lie in memory as it wants them: for a window, every position's
queries with just the keys of its window, gathered beforehand.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from diffusers_mvcustom.models import windowed_attention

sys.path.insert(0, str(Path(__file__).parent))
from environment import describe_environment, markdown_table

_BARE_KEYS = 2**26
"""Key elements at a time that bare attention over windows is given."""


def measure(
    size: int,
    frames: int,
    window: str,
    backend: str,
    channels: int,
    heads: int,
    device: str,
    dtype: str,
    repeats: int,
    threads: int,
) -> dict:
    """Seconds and peak MiB of one case, in this process."""
    torch.set_num_threads(threads)
    weight_dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    shape = (1, size, size, frames, heads, channels // heads)
    query, key, value = (torch.randn(shape, generator=generator).to(device, weight_dtype) for _ in range(3))

    def call() -> torch.Tensor:
        if window == "1":  # AnimateDiff: one sequence of frames per pixel
            flat = [states.flatten(0, 2).transpose(1, 2) for states in (query, key, value)]
            return torch.nn.functional.scaled_dot_product_attention(*flat)
        kernel = None if backend == "tiles" else backend
        return windowed_attention(query, key, value, None if window == "full" else int(window), backend=kernel)

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def fastest(call: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            call()
            synchronize()
            seconds.append(time.perf_counter() - started)
            if sum(seconds) > 60:
                break
        return min(seconds)

    with torch.no_grad():
        warm = windowed_attention(query[:, :4, :4], key[:, :4, :4], value[:, :4, :4], 3)  # libraries are loaded
        del warm
        if backend != "tiles":
            call()  # compiles
        synchronize()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = fastest(call)
        after = (
            torch.cuda.max_memory_allocated()
            if device == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        bare = bare_attention(size, frames, window, channels, heads, device, weight_dtype)
        bare()
        synchronize()
        bare_seconds = fastest(bare)
    return {"seconds": seconds, "bare_seconds": bare_seconds, "peak_mib": (after - before) / 2**20}


def bare_attention(
    size: int, frames: int, window: str, channels: int, heads: int, device: str, dtype: torch.dtype
) -> Callable[[], None]:
    """`scaled_dot_product_attention` over as many queries and keys, and nothing around it.

    A window's keys are many times the map; the same gathered ones serve all positions, some positions at a time.
    """
    positions = size * size
    if window == "full":
        sequences, queries, keys = 1, positions * frames, positions * frames
    else:
        sequences, queries, keys = positions, frames, min(int(window), size) ** 2 * frames
    at_a_time = min(sequences, max(1, _BARE_KEYS // (keys * channels)))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(at_a_time, heads, length, channels // heads, generator=generator).to(device, dtype)
        for length in (queries, keys, keys)
    )

    def call() -> None:
        for first in range(0, sequences, at_a_time):
            count = min(at_a_time, sequences - first)
            torch.nn.functional.scaled_dot_product_attention(query[:count], key[:count], value[:count])

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--windows", nargs="+", default=["1", "3", "7", "full"])
    parser.add_argument(
        "--backends", nargs="+", default=["tiles"], help="of the windows: tiles, flex (FlexAttention, compiled first)"
    )
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads: one is steady, also on a busy machine")
    parser.add_argument("-o", "--output", type=Path, help="markdown file to write; a .json goes beside it")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(**json.loads(arguments.case))))
        return

    rows = []
    for size in arguments.sizes:
        for frames in arguments.frames:
            cases = [
                (window, backend)
                for window in arguments.windows
                for backend in (arguments.backends if window not in ("1", "full") else ["tiles"])
            ]
            for window, backend in cases:
                case = {"size": size, "frames": frames, "window": window, "backend": backend}
                case |= {
                    name: getattr(arguments, name)
                    for name in ("channels", "heads", "device", "dtype", "repeats", "threads")
                }
                process = subprocess.run(
                    [sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True, check=True
                )
                rows.append(case | json.loads(process.stdout.splitlines()[-1]))
                print(json.dumps(rows[-1]), file=sys.stderr)
    full = {(row["size"], row["frames"]): row for row in rows if row["window"] == "full"}
    table = []
    for row in rows:
        whole = full.get((row["size"], row["frames"]))
        table.append(
            {
                "map": f"{row['size']}×{row['size']}",
                "frames": row["frames"],
                "window": row["window"] + (" flex" if row["backend"] == "flex" else ""),
                "seconds": f"{row['seconds']:.4f}",
                "time / bare call": f"{row['seconds'] / row['bare_seconds']:.2f}",
                "peak MiB": f"{row['peak_mib']:.0f}",
                "time / full": f"{row['seconds'] / whole['seconds']:.3f}" if whole else "",
                "memory / full": f"{row['peak_mib'] / max(whole['peak_mib'], 1):.2f}" if whole else "",
            }
        )
    environment = describe_environment(arguments.device)
    text = (
        "# Spatio-temporal attention: what a window costs\n\n"
        f"One attention call, {arguments.channels} channels, {arguments.heads} heads, {arguments.dtype}, "
        + (f"{arguments.threads} CPU thread(s), " if arguments.device == "cpu" else "")
        + "without "
        "projections. `1` is AnimateDiff's attention along time, `full` the whole map. Peak memory is what the call takes "
        "beyond its inputs, its output included (N·C numbers, the least possible). Neither kind holds an N×N matrix: full "
        "attention runs in a fused kernel, so a window saves time, not memory. The bare call is "
        "`scaled_dot_product_attention` over as many queries and keys that lie in memory as it wants them; a window's keys "
        "are gathered for it beforehand.\n\n"
        f"{environment['text']}\n\n{markdown_table(table)}\n"
    )
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
        arguments.output.with_suffix(".json").write_text(
            json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
