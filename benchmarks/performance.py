"""The performance tables: stock AnimateDiff beside ours, over windows, hooks, frames, sizes and steps, in one process.

    python benchmarks/performance.py --case tiny-4x64-4            # one case, added to docs/performance.{json,md}
    python benchmarks/performance.py --case all --device cuda --dtype bfloat16
    python benchmarks/performance.py --report                      # only write the markdown again

Every case runs AnimateDiffPipeline, and MVCustomPipeline plain, with DFR, with CLC, with a subject and with everything, at
windows 1, 7 and the whole map; then a path four times as long, window by window. Weights of `tiny` and `sd15` are random,
`toy` is the shipped model. Results are kept by case, device and dtype: what another run measured stays, and what none
has measured is marked so.

Seconds come from one run after a short one that is not counted; with --rounds all settings run so many times, in turn, and
the fastest run of each counts. Peak memory is what is allocated beyond the weights; on a
CPU it comes from a profiled run of its own of two steps. Shares come from a profiled run with everything on.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusers_mvcustom import Cameras, ConsistentAwareLatentCompletion, DepthAwareFeatureRendering, MVCustomPipeline
from diffusers_mvcustom.toy import random_components
from diffusers_mvcustom.toy.shipped import shipped_folder

sys.path.insert(0, str(Path(__file__).parent))
from environment import describe_environment, write_text
from live_memory import allocator_peak
from performance_report import report_text
from pipeline import StepClock, make_subject, shares_of, stock_pipeline, timed

DOCS = Path(__file__).parent.parent / "docs"
WINDOWS = {"1": 1, "7": 7, "full": None}
DFR, CLC = DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion()
SETTINGS = {  # name: hooks, with a subject
    "plain": ([], False),
    "DFR": ([DFR], False),
    "CLC": ([CLC], False),
    "subject": ([], True),
    "everything": ([DFR, CLC], True),
}
_LONGER = 4


@dataclass(frozen=True)
class Case:
    """One size of work."""

    model: str
    frames: int
    size: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.frames}x{self.size}-{self.steps}"


CASES = {
    case.name: case
    for case in (
        Case("tiny", 2, 32, 2),  # to see that it runs
        Case("tiny", 4, 64, 4),
        Case("tiny", 16, 64, 20),
        Case("toy", 8, 64, 20),
        Case("toy", 16, 64, 50),
        Case("sd15", 4, 256, 4),
        Case("sd15", 4, 256, 20),
        Case("sd15", 16, 256, 20),
        Case("sd15", 16, 512, 8),
        Case("sd15", 16, 512, 50),
    )
}


def main() -> None:
    options = parse_arguments()
    path = options.output.with_suffix(".json")
    measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not options.report:
        for name in CASES if options.case == "all" else [options.case]:
            key = f"{name} {options.device} {options.dtype}"
            result = {"case": name, "device": options.device, "dtype": options.dtype, "loaded": options.loaded}
            result |= {"rounds": options.rounds, "environment": describe_environment(options.device)}
            for part in measure(CASES[name], options):  # what is known so far outlives a failure of the next part
                result.update(part)
                measured[key] = result
                write_text(path, json.dumps(measured, indent=1) + "\n")
                write_text(options.output, report_text(measured, CASES))
    write_text(options.output, report_text(measured, CASES))
    print(options.output.read_text(encoding="utf-8"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "all"], default="tiny-4x64-4", help="what is measured")
    parser.add_argument("--windows", nargs="+", choices=WINDOWS, default=list(WINDOWS), help="attention windows")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="beside AnimateDiff")
    parser.add_argument("--rounds", type=int, default=1, help="on a machine that is not steady: 2 or more")
    parser.add_argument(
        "--parts", action=argparse.BooleanOptionalAction, default=True, help="also shares of parts, and the long path"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--loaded", action="store_true", help="other work runs on this machine: report processor time")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("-o", "--output", type=Path, default=DOCS / "performance.md", help="a .json lies beside it")
    return parser.parse_args()


def measure(case: Case, options: argparse.Namespace) -> Iterator[dict]:
    """Yields parts of the result: rows by window and setting, shares, and the long path."""
    pipe = build(case.model, options)
    stock = stock_pipeline(pipe)
    subject = make_subject(pipe, case.size, options.references)
    fastest: dict[tuple[str, str], dict] = {}
    for _ in range(options.rounds):
        for row in measured_settings(case, options, pipe, stock, subject):
            name = row["window"], row["setting"]
            fastest[name] = min(row, fastest.get(name, row), key=lambda row: row["seconds"])
            yield {"rows": list(fastest.values())}
    if not options.parts:
        return
    hooks = SETTINGS["everything"][0] if pipe.depth_estimator is not None else []
    use_subject(pipe, subject)
    profile = cProfile.Profile(clock_of(options))
    profile.runcall(generate, case, pipe, hooks, subject.config.token, case.steps)
    yield shares_of(profile, case.steps, pipe.anchor.preview_steps(case.steps))
    yield {"long path": long_path(case, options, pipe, hooks, subject.config.token)}


def measured_settings(case: Case, options: argparse.Namespace, pipe, stock, subject) -> Iterator[dict]:
    """AnimateDiff, and the settings of every window."""
    yield {"window": "1", "setting": "AnimateDiff", **run(case, options, stock, None, "")}
    for window in options.windows:
        pipe.set_attention_window(WINDOWS[window])
        for setting in options.settings:
            hooks, with_subject = SETTINGS[setting]
            if hooks and pipe.depth_estimator is None:
                continue
            use_subject(pipe, subject if with_subject else None)
            yield {"window": window, "setting": setting, **run(case, options, pipe, hooks, subject.config.token)}


def build(model: str, options: argparse.Namespace) -> MVCustomPipeline:
    dtype = getattr(torch, options.dtype)
    if model == "toy":
        pipe = MVCustomPipeline.from_pretrained(shipped_folder("toy"), dtype=dtype)
    else:
        pipe = MVCustomPipeline(**random_components(model, dtype=dtype))
    pipe.to(options.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    """On a machine that others use too, the time for which this process ran says more than the time that passed."""
    return time.process_time if options.loaded else time.perf_counter


def use_subject(pipe: MVCustomPipeline, subject) -> None:
    if pipe.subject is not subject:
        pipe.unload_subject()
        if subject is not None:
            pipe.load_subject(subject)


def generate(case: Case, pipe, hooks, token: str, steps: int, frames: int | None = None, clock=None) -> None:
    """One generation; `hooks` is `None` for AnimateDiff."""
    call = {"num_inference_steps": steps, "output_type": "np", "guidance_scale": 5.0, "callback_on_step_end": clock}
    call |= {"generator": torch.Generator().manual_seed(0), "decode_chunk_size": case.frames}
    if hooks is None:
        pipe("a mug by a lake", height=case.size, width=case.size, num_frames=case.frames, **call)
        return
    cameras = Cameras.orbit(frames or case.frames, azimuth=(-60, 60), height=case.size, width=case.size)
    prompt = "a mug by a lake" if pipe.subject is None else f"a {token} mug by a lake"
    pipe(prompt, cameras, hooks=hooks, views_at_a_time=case.frames, **call)


def run(case: Case, options: argparse.Namespace, pipe, hooks, token: str, frames: int | None = None) -> dict:
    """Seconds, seconds a step and peak memory of one setting."""
    work = functools.partial(generate, case, pipe, hooks, token)
    held = torch.cuda.memory_allocated() if options.device == "cuda" else 0
    work(min(2, case.steps), frames)
    clock = StepClock(options.device, clock_of(options))
    seconds, peak = timed(lambda: work(case.steps, frames, clock), options.device, clock_of(options))
    if options.device == "cuda":
        peak = 2**10 * peak - held / 2**20
    else:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            work(min(2, case.steps), frames)
        peak = allocator_peak(profile) / 2**20
    result = {"seconds": seconds, "peak MiB": peak}
    if frames is None:
        result["seconds a step"] = clock.seconds_per_step
    print(case.name, type(pipe).__name__, json.dumps(result), file=sys.stderr, flush=True)
    return result


def long_path(case: Case, options: argparse.Namespace, pipe, hooks, token: str) -> dict:
    """A path of so many views, and one four times as long, by the same number of views at a time."""
    results = {
        frames: run(case, options, pipe, hooks, token, frames) for frames in (case.frames, _LONGER * case.frames)
    }
    short, long = results.values()
    return {
        "views": list(results),
        "seconds": [short["seconds"], long["seconds"]],
        "peak MiB": [short["peak MiB"], long["peak MiB"]],
        "times": long["seconds"] / short["seconds"],
        "times the memory": long["peak MiB"] / short["peak MiB"],
    }


if __name__ == "__main__":
    main()
