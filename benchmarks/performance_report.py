"""From what `performance.py` measured to markdown; cases that nobody has measured are marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from environment import markdown_table

_HEAD = """# Performance

Written by `benchmarks/performance.py` from `performance.json`; on a quiet machine:

<!-- only parsed: a benchmark of hours -->
```bash
python benchmarks/performance.py --case all                                   # CPU, float32
python benchmarks/performance.py --case all --device cuda --dtype bfloat16    # one GPU
```

`× stock` compares with AnimateDiffPipeline (diffusers' own pipeline and U-Net, same weights, window 1), `× same window` with
our pipeline without subject and hooks at the same attention window. A preview pass (20 % of the steps, at least 2), depth
estimate, FeatureNeRF and decoding are in the seconds; building the model is not. Memory is what is allocated beyond the
weights. Shares of parts are times of the Python process; on CUDA, which runs behind it, they say little.

"AnimateDiff" and "plain" at window 1 are the same computation, to the bit: how far they are apart is how far to trust the
rest. Rounds are runs of all settings in turn, of which the fastest of each counts.

The parts alone: [attention](attention_benchmark.md), [FeatureNeRF](feature_nerf_benchmark.md),
[mesh, rasterisation and warp](geometry_benchmark.md). At the paper's size, computed: [work](generation_flops.md) and
[memory](generation_memory.md). And [what ran on a GPU](gpu.md).
"""


def report_text(measured: Mapping[str, Any], cases: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [_HEAD]
    for name, case in cases.items():
        title = f"{case.model}: {case.frames} views of {case.size}×{case.size}, {case.steps} steps"
        results = [result for result in measured.values() if result["case"] == name]
        parts.append(f"## {title}\n")
        parts.extend(_of_case(result) for result in results)
        if not results:
            parts.append(f"Not measured. `python benchmarks/performance.py --case {name}`\n")
    return "\n".join(parts)


def _of_case(result: Mapping[str, Any]) -> str:
    note = " Other work ran on the machine at the same time: seconds are processor time." * result["loaded"]
    rounds = result.get("rounds", 1)
    parts = [f"{result['environment']['text']} {result['dtype']}, {rounds} round{'s' * (rounds > 1)}.{note}\n"]
    if "note" in result:  # by whoever ran it
        parts.append(f"{result['note']}\n")
    rows = result["rows"]
    stock = rows[0]["seconds"]
    plain = {row["window"]: row["seconds"] for row in rows if row["setting"] == "plain"}
    parts.append(
        markdown_table(
            [
                {
                    "window": row["window"],
                    "setting": row["setting"],
                    "seconds": f"{row['seconds']:.3g}",
                    "seconds a step": "" if row["seconds a step"] is None else f"{row['seconds a step']:.3g}",
                    "× stock": f"{row['seconds'] / stock:.2f}",
                    "× same window": f"{row['seconds'] / plain[row['window']]:.2f}" if row["window"] in plain else "",
                    "peak MiB": f"{row['peak MiB']:.4g}",
                }
                for row in rows
            ]
        )
    )
    if "shares" in result:
        shares = [
            {"part of the denoising steps": name, "share": f"{100 * value:.1f} %"}
            for name, value in result["shares"].items()
        ]
        once = [{"once per call": name, "seconds": f"{value:.3g}"} for name, value in result["once"].items()]
        parts += ["", markdown_table(shares), "", markdown_table(once)]
    else:
        parts += ["", "Shares of the parts: not measured."]
    if "long path" in result:
        path = result["long path"]
        (few, many), (short, long) = path["views"], path["seconds"]
        parts += [
            "",
            f"A path of {many} views, {few} at a time: {long:.3g} s against {short:.3g} s for {few} views, "
            f"**{path['times']:.2f}×**; peak memory {path['peak MiB'][1]:.4g} against {path['peak MiB'][0]:.4g} MiB, "
            f"**{path['times the memory']:.2f}×**.",
        ]
    else:
        parts += ["", "Long path: not measured."]
    return "\n".join(parts) + "\n"
