"""One generation with everything on: seconds and peak memory, the share of each part, and stock AnimateDiff beside it.

    python benchmarks/pipeline.py --model tiny --views 4 --size 64 --steps 4
    python benchmarks/pipeline.py --model sd15 --views 4 --size 256 --steps 2 --save -o docs/pipeline_benchmark.md
    python benchmarks/pipeline.py --model sd15 --views 16 --size 512 --steps 50 --device cuda --dtype bfloat16 \\
        --window '{"64": 7, "32": null}' --no-shares

The weights are random. AnimateDiff is diffusers' own pipeline and U-Net, over the same weights. Shares are of the
denoising steps and come from a second, profiled run; on CUDA they are host time, which is the GPU's only with
CUDA_LAUNCH_BLOCKING=1 in the environment.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, UNetMotionModel

from diffusers_mvcustom import (
    Cameras,
    ConsistentAwareLatentCompletion,
    DepthAwareFeatureRendering,
    MVCustomPipeline,
    ReferenceViews,
    SubjectAdapter,
)
from diffusers_mvcustom.models import AttentionWindows
from diffusers_mvcustom.toy import random_components

sys.path.insert(0, str(Path(__file__).parent))
from environment import describe_environment, markdown_table, write_text

PARTS = {  # what is reported: file and function in the profile
    "U-Net": ("denoising.py", "predict_noise"),
    "pose-conditioned blocks, all of them": ("pose_conditioned_block.py", "forward"),
    "their pose conditioning": ("pose_conditioned_block.py", "__call__"),
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


def timed(
    call: Callable[[], object], device: str, now: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Seconds (by the clock `now`) and peak GiB of a call (peak of the process on a CPU)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = now()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        return now() - started, torch.cuda.max_memory_allocated() / 2**30
    return now() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class StepClock:
    """A step callback that notes when each step ends."""

    def __init__(self, device: str, now: Callable[[], float] = time.perf_counter) -> None:
        self.device = device
        self.now = now
        self.ends: list[float] = []

    def __call__(self, pipe, index: int, timestep, tensors: dict) -> dict:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(self.now())
        return {}

    @property
    def seconds_per_step(self) -> float | None:
        """Mean over all steps but the first, which also pays for what comes before the loop."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1) if len(self.ends) > 1 else None


SETTINGS = {
    "stock": "AnimateDiffPipeline (window 1)",
    "plain": "ours, no subject, no hooks",
    "subject": "with a subject",
    "everything": "with a subject, DFR and CLC",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--window",
        type=attention_window,
        default=1,
        help="1, an odd number, full, or a JSON object of them by map size",
    )
    parser.add_argument(
        "--temporal-heads",
        type=int,
        default=0,
        help="heads of the motion modules along time alone, whatever the window",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--split-guidance", action="store_true", help="branches of guidance one by one: less memory")
    parser.add_argument("--decode-chunk-size", type=int, default=16, help="views decoded at a time")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="what is timed")
    parser.add_argument(
        "--warm-up", type=int, default=2, metavar="STEPS", help="steps of a first run that is not timed"
    )
    parser.add_argument(
        "--shares", action=argparse.BooleanOptionalAction, default=True, help="a profiled run at the end"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Nets; the warm-up pays; settings stock and everything"
    )
    parser.add_argument("--save", action="store_true", help="save the pipeline and load it again first")
    parser.add_argument("--quick", action="store_true", help="no warm-up, and only stock and everything on")
    parser.add_argument("-o", "--output", type=Path, help="markdown file to write; a .json goes beside it")
    options = parser.parse_args()
    for name in ("views", "size", "steps", "references", "decode_chunk_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    if options.quick:
        options.warm_up, options.settings = 0, ["stock", "everything"]
    if options.compile:
        options.settings = [setting for setting in options.settings if setting in ("stock", "everything")]
        options.shares = False  # a profile sees no parts in compiled code
    if options.shares and "everything" not in options.settings:
        options.settings = [*options.settings, "everything"]
    return options


def attention_window(text: str) -> int | dict | None:
    """The window that an argument stands for."""
    try:
        return AttentionWindows(None if text == "full" else json.loads(text)).setting
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def stock_pipeline(pipe: MVCustomPipeline) -> AnimateDiffPipeline:
    """diffusers' own pipeline with diffusers' own U-Net, over the weights of `pipe` (which has no subject yet)."""
    with torch.device("meta"):
        unet = UNetMotionModel.from_config(pipe.unet.config)
    unet.load_state_dict(pipe.unet.state_dict(), assign=True)
    stock = AnimateDiffPipeline(
        **{name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=unet.eval(),
        motion_adapter=None,
    )
    stock.set_progress_bar_config(disable=True)
    return stock


def build(options: argparse.Namespace) -> tuple[MVCustomPipeline, dict[str, float]]:
    """The pipeline on its device, and the seconds that building (and saving and loading) took."""
    dtype = getattr(torch, options.dtype)
    setup: dict[str, float] = {}
    started = time.perf_counter()
    components = random_components(options.model, dtype=dtype, device=options.device)
    pipe = MVCustomPipeline(**components, attention_window=options.window, temporal_heads=options.temporal_heads)
    setup["build"] = time.perf_counter() - started
    if options.save:
        with tempfile.TemporaryDirectory() as folder:
            setup["save"], _ = timed(lambda: pipe.save_pretrained(folder), "cpu")
            del pipe
            started = time.perf_counter()
            pipe = MVCustomPipeline.from_pretrained(folder, dtype=dtype)
            setup["load"] = time.perf_counter() - started
    pipe.to(options.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, setup


def main() -> None:
    options = parse_arguments()
    pipe, setup = build(options)
    cameras = Cameras.orbit(options.views, azimuth=(-30, 30), height=options.size, width=options.size)
    stock = stock_pipeline(pipe)
    hooks = [DepthAwareFeatureRendering(end=1.0), ConsistentAwareLatentCompletion(end=1.0)]
    common = {"output_type": "np", "guidance_scale": 5.0, "decode_chunk_size": options.decode_chunk_size}

    def generate(setting: str, steps: int, clock: StepClock | None = None) -> None:
        call = {**common, "num_inference_steps": steps, "callback_on_step_end": clock}
        call["generator"] = torch.Generator().manual_seed(0)
        if setting == "stock":
            size = {"height": options.size, "width": options.size, "num_frames": options.views}
            stock("a mug by a lake", **size, **call)
        else:
            prompt = "a mug by a lake" if setting == "plain" else "a <it> mug by a lake"
            hooks_of_call = hooks if setting == "everything" else []
            pipe(prompt, cameras, hooks=hooks_of_call, split_guidance=options.split_guidance, **call)

    results = []
    for setting in SETTINGS:
        if setting not in options.settings:
            continue
        if setting in ("subject", "everything") and pipe.subject is None:
            pipe.load_subject(make_subject(pipe, options.size, options.references))
        if options.compile:
            (stock if setting == "stock" else pipe).unet.compile(dynamic=False)
        if options.warm_up:
            generate(setting, options.warm_up)
        clock = StepClock(options.device)
        held = torch.cuda.memory_allocated() / 2**30 if options.device == "cuda" else None
        seconds, peak = timed(functools.partial(generate, setting, options.steps, clock), options.device)
        per_step = clock.seconds_per_step
        results.append(
            {
                "setting": SETTINGS[setting],
                "seconds": round(seconds, 3),
                "seconds a step": "" if per_step is None else round(per_step, 4),
                "peak GiB": round(peak, 2),
                **({} if held is None else {"of which weights GiB": round(held, 2)}),
            }
        )
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        write_report(options, setup, results)  # what is known so far outlives a failure of the next setting
    shares = None
    if options.shares:
        profile = cProfile.Profile()
        profile.runcall(generate, "everything", options.steps)
        shares = shares_of(profile, options.steps, pipe.anchor.preview_steps(options.steps))
        write_report(options, setup, results, shares)
    print(report_text(options, setup, results, shares))


def shares_of(profile: cProfile.Profile, steps: int, preview_steps: int) -> dict[str, dict[str, float]]:
    """Shares of the denoising steps, and seconds of what is done once a call."""
    statistics = pstats.Stats(profile).stats

    def seconds_in(file: str, function: str) -> float:
        return sum(
            entry[3] for (path, _, name), entry in statistics.items() if name == function and Path(path).name == file
        )

    once = {part: seconds_in(*where) for part, where in ONCE.items()}
    loop = seconds_in("denoising.py", "denoise") - once["preview"]
    parts = {part: seconds_in(*where) for part, where in PARTS.items()}
    for part in parts.keys() - {"DFR", "CLC"}:
        parts[part] *= steps / (steps + preview_steps)  # these also run in the preview pass
    parts["DFR, CLC and pose conditioning together"] = parts["DFR"] + parts["CLC"] + parts["their pose conditioning"]
    return {"shares": {part: value / loop for part, value in parts.items()}, "once": once}


def report_text(options, setup: dict[str, float], results: list[dict], shares: dict | None) -> str:
    tables = [markdown_table(results)]
    if shares is not None:
        tables.append(
            markdown_table(
                [{"part of the denoising steps": k, "share": f"{100 * v:.2f} %"} for k, v in shares["shares"].items()]
            )
        )
        tables.append(markdown_table([{"once per call": k, "seconds": f"{v:.3f}"} for k, v in shares["once"].items()]))
    took = ", ".join(f"{name} {value:.1f} s" for name, value in setup.items())
    window = "full" if options.window is None else options.window
    if options.temporal_heads:
        window = f"{window}, {options.temporal_heads} heads along time alone"
    guidance = "branch by branch" if options.split_guidance else "in one batch"
    if options.compile:
        guidance += ", compiled"
    return (
        f"# One generation: {options.model} shapes, {options.views} views of {options.size}×{options.size}, "
        f"{options.steps} steps, window {window}\n\nRandom weights, {options.dtype}, {options.references} references, "
        f"guidance {guidance}, decoding included. Parts that also run in the preview are divided by the number of steps; "
        f"peak memory on a CPU is that of the whole process. {took[0].upper() + took[1:]}.\n\n"
        f"{describe_environment(options.device)['text']}\n\n" + "\n\n".join(tables) + "\n"
    )


def write_report(options, setup: dict[str, float], results: list[dict], shares: dict | None = None) -> None:
    if options.output is None:
        return
    content = {"environment": describe_environment(options.device), "options": vars(options) | {"output": None}}
    content |= {"setup": setup, "results": results, **(shares or {})}
    for file, text in (
        (options.output, report_text(options, setup, results, shares)),
        (options.output.with_suffix(".json"), json.dumps(content, indent=1) + "\n"),
    ):
        write_text(file, text)


if __name__ == "__main__":
    main()
