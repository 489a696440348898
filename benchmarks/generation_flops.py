"""Work of a generation in floating-point operations, beside AnimateDiff's, at the shapes of Stable Diffusion 1.5.

Computed on tensors that have shapes but no memory (PyTorch's fake tensors): multiplications and additions of matrix
products, convolutions and attention, as PyTorch's FlopCounterMode counts them, on any machine the same. Attention in
windows counts what its tiles compute, masked pairs too. What moves memory only, such as a feature warp, counts nothing.

    python benchmarks/generation_flops.py -o docs/generation_flops.md
    python benchmarks/generation_flops.py --model tiny --views 3 --size 64
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import torch
from environment import describe_environment, markdown_table, write_text
from generation_memory import MIXED, Generation, Setting, as_on_a_gpu
from live_memory import ChecksPass
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from diffusers_mvcustom.hooks import AnchorSettings

WINDOWS = ("1", MIXED, "7", "full")


def attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    """Of the CPU's fused attention, which the counter does not know by itself."""
    return sdpa_flop_count(query, key, value)


def phases_of(generation: Generation, setting: Setting) -> dict[str, float]:
    """Operations of what is done once, of one step, of decoding all views at once, and of a depth estimate."""
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=known)
    ends: dict[str, int] = {}
    with as_on_a_gpu(), counter, ChecksPass():
        generation.run(setting, lambda phase: ends.setdefault(phase, counter.get_total_flops()))
    return {
        "before": ends["before"],
        "step": (ends["denoising"] - ends["before"]) / 2,
        "decoding": ends["decoding 16"] - ends["denoising"],
        "depth": ends["depth estimate"] - ends["decoding 1"],
    }


def total(phases: dict[str, float], setting: Setting, steps: int) -> float:
    """Operations of a whole generation of so many steps: with hooks, that of a preview, its decoding and the depth, too."""
    work = phases["before"] + steps * phases["step"] + phases["decoding"]
    if setting.what != "plain":
        work += AnchorSettings().preview_steps(steps) * phases["step"]
        work += phases["decoding"] / setting.views + phases["depth"]
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15", "tiny"])
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("-o", "--output", type=Path, help="markdown file to write; a .json goes beside it")
    options = parser.parse_args()
    results: list[dict] = []
    generation = None
    for what, window in itertools.product(("plain", "everything"), WINDOWS):
        setting = Setting(what, window, options.views, options.size)
        if generation is None or generation.what != what:
            generation = Generation(options.model, what, torch.bfloat16, fake=True)
        phases = phases_of(generation, setting)
        totals = {str(steps): total(phases, setting, steps) for steps in options.steps}
        results.append({"what": what, "window": window, "phases": phases, "totals": totals})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    environment = describe_environment("cpu")
    text = report_text(results, options, environment)
    print(text)
    if options.output:
        write_text(options.output, text)
        write_text(
            options.output.with_suffix(".json"),
            json.dumps({"environment": environment, "results": results}, indent=1) + "\n",
        )


def report_text(results: list[dict], options: argparse.Namespace, environment: dict[str, str]) -> str:
    plain = {result["window"]: result["totals"] for result in results if result["what"] == "plain"}
    rows = []
    for result in results:
        phases = result["phases"]
        row = {
            "": result["what"],
            "window": {MIXED: "7 at 64²"}.get(result["window"], result["window"]),
            "before the loop": f"{phases['before'] / 1e12:.3g}",
            "a step": f"{phases['step'] / 1e12:.3g}",
            "decoding": f"{phases['decoding'] / 1e12:.3g}",
        }
        for steps, work in result["totals"].items():
            row[f"{steps} steps"] = f"{work / 1e12:.4g}"
            row[f"× plain, {steps} steps"] = f"{work / plain[result['window']][steps]:.2f}"
        rows.append(row)
    about = __doc__.split("\n\n    python")[0].split("\n\n", 1)[1]
    return (
        f"# Work of a generation\n\nFloating-point operations (10¹²) of {options.views} views of "
        f"{options.size}×{options.size}, {options.model} shapes, 8 references. {about}\n\n`plain` at window 1 is what "
        "AnimateDiffPipeline computes; everything is a subject, DFR and CLC: before the loop text, references, FeatureNeRF; "
        "its totals hold a preview of a fifth of the steps, the preview's decoding, and a depth estimate.\n\nVersions: torch "
        f"{environment['torch']}, diffusers {environment['diffusers']}, commit {environment['commit']}.\n\n"
        f"{markdown_table(rows)}\n"
    )


if __name__ == "__main__":
    main()
