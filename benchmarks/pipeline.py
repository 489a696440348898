"""One generation with everything on: seconds and peak memory, the share of each part, and stock AnimateDiff beside it.

    python benchmarks/pipeline.py --model tiny --views 4 --size 64 --steps 4
    python benchmarks/pipeline.py --model sd15 --views 4 --size 256 --steps 2 --save -o docs/pipeline_benchmark.md

The weights are random. Shares are of the denoising steps and come from a second, profiled run; on CUDA they are host time.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline

from diffusers_mvcustom import (
    Cameras,
    ConsistentAwareLatentCompletion,
    DepthAwareFeatureRendering,
    MVCustomPipeline,
    ReferenceViews,
    SubjectAdapter,
)
from diffusers_mvcustom.toy import random_components

sys.path.insert(0, str(Path(__file__).parent))
from environment import describe_environment, markdown_table

PARTS = {  # what is reported: file and function in the profile
    "U-Net": ("denoising.py", "predict_noise"),
    "pose-conditioned blocks": ("pose_conditioned_block.py", "forward"),
    "motion modules": ("motion_transformer.py", "forward"),
    "DFR": ("anchor_geometry.py", "render"),
    "CLC": ("consistent_aware_latent_completion.py", "after_step"),
    "scheduler": ("scheduling_ddim.py", "step"),
}
ONCE = {
    "reference features": ("rendering.py", "collect_reference_features"),
    "FeatureNeRF": ("rendering.py", "render_features"),
    "preview": ("denoising.py", "preview"),
    "depth estimate": ("depth_estimation.py", "estimate_depth"),
    "mesh and visibility": ("anchor_geometry.py", "warps"),
    "decode": ("denoising.py", "decode_latents"),
}


def make_subject(pipe: MVCustomPipeline, size: int, views: int) -> SubjectAdapter:
    """A subject of random photos."""
    cameras = Cameras.orbit(views, height=size, width=size)
    images = torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(0))
    return SubjectAdapter.create(
        pipe.unet,
        ReferenceViews(images, cameras),
        "<it>",
        "mug",
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
    )


def timed(call, device: str) -> tuple[float, float]:
    """Seconds and peak GiB of a call (peak of the process on a CPU)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - started, torch.cuda.max_memory_allocated() / 2**30
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--window", default="1", help="1, an odd number, or full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--save", action="store_true", help="save the pipeline and load it again first")
    parser.add_argument("--quick", action="store_true", help="no warm-up, and only stock and everything on")
    parser.add_argument("-o", "--output", type=Path, help="markdown file to write; a .json goes beside it")
    options = parser.parse_args()
    window = None if options.window == "full" else int(options.window)
    dtype = getattr(torch, options.dtype)

    rows: dict[str, float] = {}
    started = time.perf_counter()
    components = random_components(options.model, dtype=dtype)
    pipe = MVCustomPipeline(**components, attention_window=window)
    rows["build"] = time.perf_counter() - started
    if options.save:
        with tempfile.TemporaryDirectory() as folder:
            rows["save"], _ = timed(lambda: pipe.save_pretrained(folder), "cpu")
            del pipe, components
            started = time.perf_counter()
            pipe = MVCustomPipeline.from_pretrained(folder, torch_dtype=dtype)
            rows["load"] = time.perf_counter() - started
    pipe.to(options.device)
    pipe.set_progress_bar_config(disable=True)
    cameras = Cameras.orbit(options.views, azimuth=(-30, 30), height=options.size, width=options.size)
    stock = AnimateDiffPipeline(
        **{name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
        motion_adapter=None,
    )
    stock.set_progress_bar_config(disable=True)

    def generate(**call):
        pipe(
            "a <it> mug by a lake",
            cameras,
            num_inference_steps=options.steps,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
            **call,
        )

    def generate_stock():
        stock(
            "a mug by a lake",
            num_frames=options.views,
            height=options.size,
            width=options.size,
            num_inference_steps=options.steps,
            guidance_scale=5.0,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
        )

    hooks = [DepthAwareFeatureRendering(end=1.0), ConsistentAwareLatentCompletion(end=1.0)]
    results = []

    def measure(name, call):
        if not options.quick:
            call()  # warm
        seconds, peak = timed(call, options.device)
        results.append({"setting": name, "seconds": round(seconds, 3), "peak GiB": round(peak, 2)})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)

    measure("AnimateDiffPipeline, same U-Net and window", generate_stock)
    if not options.quick:
        measure("ours, no subject, no hooks", lambda: generate(hooks=[]))
    pipe.load_subject(make_subject(pipe, options.size, options.references))
    if not options.quick:
        measure("with a subject", lambda: generate(hooks=[]))
        measure("with a subject, DFR and CLC", lambda: generate(hooks=hooks))
    profile = cProfile.Profile()
    seconds, peak = timed(lambda: profile.runcall(generate, hooks=hooks), options.device)
    results.append(
        {"setting": "with a subject, DFR and CLC, profiled", "seconds": round(seconds, 3), "peak GiB": round(peak, 2)}
    )
    statistics = pstats.Stats(profile).stats

    def seconds_in(file: str, function: str) -> float:
        return sum(
            entry[3] for (path, _, name), entry in statistics.items() if name == function and Path(path).name == file
        )

    once = {part: seconds_in(*where) for part, where in ONCE.items()}
    loop = seconds_in("denoising.py", "denoise") - once["preview"]
    share = options.steps / (options.steps + pipe.anchor.preview_steps(options.steps))
    parts = {part: seconds_in(*where) for part, where in PARTS.items()}
    for part in ("U-Net", "pose-conditioned blocks", "motion modules", "scheduler"):
        parts[part] *= share  # these also run in the preview pass
    table = [
        {"part of the denoising steps": part, "share": f"{100 * value / loop:.2f} %"} for part, value in parts.items()
    ]
    hooks_share = 100 * (parts["DFR"] + parts["CLC"]) / loop
    table.append({"part of the denoising steps": "DFR and CLC together", "share": f"{hooks_share:.2f} %"})
    before = [{"once per call": part, "seconds": f"{value:.3f}"} for part, value in once.items()]
    environment = describe_environment(options.device)
    setup = ", ".join(f"{name} {value:.1f} s" for name, value in rows.items())
    text = (
        f"# One generation: {options.model} shapes, {options.views} views of {options.size}×{options.size}, "
        f"{options.steps} steps\n\nRandom weights, {options.dtype}, attention window {options.window}, {options.references} "
        f"references, guidance in one batch. Parts that also run in the preview are divided by the number of steps; peak "
        f"memory on a CPU is that of the whole process. {setup[0].upper() + setup[1:]}.\n\n{environment['text']}\n\n"
        f"{markdown_table(results)}\n\n{markdown_table(table)}\n\n{markdown_table(before)}\n"
    )
    print(text)
    if options.output:
        options.output.write_text(text)
        content = {"environment": environment, "options": vars(options) | {"output": None}, "results": results}
        content |= {"setup": rows, "shares": {part: value / loop for part, value in parts.items()}, "once": once}
        options.output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
