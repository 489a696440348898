"""Peak memory of a generation at the shapes of Stable Diffusion 1.5: by window, guidance, views, size, decoding, offload.

Computed, unless --device cuda measures it: the pipeline makes two steps with a subject and both hooks, and decodes, on
tensors that have shapes but no memory (PyTorch's fake tensors), and the bytes of those that are alive at a time are
counted. Not counted is what a GPU needs besides: the CUDA context (0.3 to 0.5 GiB), scratch memory inside of kernels, and
gaps between the allocator's blocks.

    python benchmarks/generation_memory.py -o docs/generation_memory
    python benchmarks/generation_memory.py --model tiny --check       # the count against PyTorch's allocator
    python benchmarks/generation_memory.py --device cuda -o gpu-results/generation-memory

The anchor's depth is given, so no preview runs: it takes what denoising takes without hooks.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from environment import describe_environment, markdown_table, write_text
from live_memory import AllocatedBytes, ChecksPass, LiveBytes, allocator_peak
from pipeline import make_subject
from shapes_only import let_go_of_memory, unwritten_components
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusers_mvcustom import (
    Cameras,
    ConsistentAwareLatentCompletion,
    DenoisingHook,
    DepthAwareFeatureRendering,
    MVCustomPipeline,
)
from diffusers_mvcustom.hooks import estimate_depth
from diffusers_mvcustom.models import spatio_temporal_attention
from diffusers_mvcustom.toy import random_components

DECODED = (16, 4, 1)
"""Views decoded at a time."""
MIXED = '{"64": 7, "32": null}'
_IDLE = {  # which models enable_model_cpu_offload leaves on the CPU in each phase
    "before": ("text_encoder", "depth_estimator"),
    "denoising": ("text_encoder", "depth_estimator"),  # the autoencoder stays from encoding the references
    "decoding": ("text_encoder", "depth_estimator", "unet"),
}


@dataclass(frozen=True)
class Setting:
    """One generation."""

    what: str = "everything"  # a subject, DFR and CLC; or "plain": AnimateDiff's computation, in the window
    window: str = MIXED
    views: int = 16
    size: int = 512
    split_guidance: bool = False
    offload: str = "none"


SETTINGS = [
    *(Setting(what, window) for what in ("plain", "everything") for window in ("1", MIXED, "7", "full")),
    *(Setting(views=views) for views in (8, 24, 32)),
    Setting(size=768),
    *(Setting(split_guidance=True, **other) for other in ({}, {"views": 8}, {"size": 768})),
]
OFFLOADED = [Setting(offload=offload) for offload in ("model", "sequential")]
"""Run only where memory is measured; elsewhere model offload is worked out from the weights."""


class Marks(DenoisingHook):
    """Tells when the loop begins, once everything that does not depend on the timestep is there."""

    def __init__(self, after: Callable[[str], None]) -> None:
        self.after = after

    def prepare(self, run) -> None:
        self.after("before")


class Generation:
    """A pipeline of random weights, with a subject unless it is plain, that generates and says what each phase takes.

    Args:
        model (`str`): Of the random components.
        what (`str`): See [`Setting`].
        dtype (`torch.dtype`): Theirs.
        fake (`bool`): Whether tensors have shapes only.
        device (`str`): Where the others are.
    """

    def __init__(self, model: str, what: str, dtype: torch.dtype, *, fake: bool, device: str = "cpu") -> None:
        self.what, self.fake = what, fake
        components = (unwritten_components if fake else random_components)(model, dtype=dtype)
        if fake:
            nn.init.zeros_(components["text_encoder"].get_input_embeddings().weight)  # subjects check what they learn
        self.pipe = MVCustomPipeline(**components)
        self.pipe.set_progress_bar_config(disable=True)
        if what != "plain":
            self.pipe.load_subject(make_subject(self.pipe, 512 if model == "sd15" else 64, 8))
        self.models = {name: part for name, part in self.pipe.components.items() if isinstance(part, nn.Module)}
        if fake:
            let_go_of_memory(list(self.models.values()), FakeTensorMode(allow_non_fake_inputs=True))
        else:
            self.pipe.to(device)

    def weights(self) -> dict[str, int]:
        """Bytes by model."""
        return {
            name: sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
            for name, model in self.models.items()
        }

    def run(self, setting: Setting, after: Callable[[str], None] = lambda phase: None) -> None:
        """Two steps of one setting, and decoding. `after` is told what has just been done."""
        pipe = self.pipe
        pipe.set_attention_window(None if setting.window == "full" else json.loads(setting.window))
        hooks = [DepthAwareFeatureRendering(end=1.0), ConsistentAwareLatentCompletion(end=1.0)]
        call = {
            "prompt": "a mug by a lake",
            "cameras": Cameras.orbit(setting.views, azimuth=(-30, 30), height=setting.size, width=setting.size),
            "hooks": [Marks(after)],
            "num_inference_steps": 2,
            "output_type": "latent",
            "split_guidance": setting.split_guidance,
            "generator": torch.Generator().manual_seed(0),
        }
        if setting.what != "plain":
            call |= {"prompt": "a <it> mug by a lake", "hooks": [*hooks, Marks(after)]}
            call |= {"anchor_depth": torch.ones(setting.size, setting.size)}
        latents = pipe(**call).frames
        after("denoising")
        with torch.no_grad():
            for chunk in DECODED:
                pipe.decode_latents(latents, chunk)
                after(f"decoding {chunk}")
            estimate_depth(
                pipe.depth_estimator, pipe.depth_image_processor, torch.zeros(1, 3, setting.size, setting.size)
            )
        after("depth estimate")


def phases_of(generation: Generation, setting: Setting) -> dict:
    """Bytes: the most that each phase takes, weights included, and the weights."""
    live = LiveBytes() if generation.fake else AllocatedBytes()
    phases: dict[str, int] = {}

    def after(phase: str) -> None:
        phases[phase] = live.peak
        live.reset_peak()

    with ExitStack() as counting:
        if generation.fake:
            counting.enter_context(as_on_a_gpu())
            counting.enter_context(live)
            counting.enter_context(ChecksPass())
            for model in generation.models.values():
                live.add([*model.parameters(), *model.buffers()])
        live.reset_peak()
        generation.run(setting, after)
    return {"setting": asdict(setting), "phases": phases, "weights": generation.weights()}


def as_on_a_gpu() -> AbstractContextManager:
    """Fake tensors say that they are on a CPU; inside, windows are cut into tiles as they are elsewhere."""
    return patch.multiple(
        spatio_temporal_attention,
        TILE_ON_CPU=spatio_temporal_attention.TILE,
        _gathered_elements=lambda query: query.numel(),
        _rows_pay=lambda *states: False,
    )


def check(model: str, setting: Setting, dtype: torch.dtype) -> dict[str, float]:
    """The most bytes beyond the weights: counted without memory, with it, and by PyTorch's CPU allocator."""
    result: dict[str, float] = {}
    for name in ("computed", "counted"):
        generation = Generation(model, setting.what, dtype, fake=name == "computed")
        live = LiveBytes()
        with live, ChecksPass() if generation.fake else nullcontext():
            generation.run(setting)
        result[name] = live.peak
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        generation.run(setting)
    result["allocated"] = allocator_peak(profile)
    return result


def gib(count: int) -> str:
    """Bytes as GiB."""
    return f"{count / 2**30:.2f}"


def row_of(result: dict, measured: bool) -> dict[str, object]:
    setting, phases, weights = Setting(**result["setting"]), result["phases"], result["weights"]
    row = {
        "": "plain" if setting.what == "plain" else "everything",
        "window": {MIXED: "7 at 64²"}.get(setting.window, setting.window),
        "views": setting.views,
        "size": f"{setting.size}²",
        "guidance": "branch by branch" if setting.split_guidance else "one batch",
        "weights": gib(sum(weights.values())),
        "before the loop": gib(phases["before"]),
        "denoising": gib(phases["denoising"]),
    }
    for chunk in DECODED:
        row[f"decoding {chunk} at a time"] = gib(phases[f"decoding {chunk}"])
    row["depth estimate"] = gib(phases["depth estimate"])
    if measured:
        row["offload"] = setting.offload
    else:
        least = {phase: phases[phase] for phase in ("before", "denoising")} | {"decoding": phases["decoding 1"]}
        idle = {phase: sum(weights.get(name, 0) for name in _IDLE[phase]) for phase in least}
        row["least, with model offload"] = gib(max(least[phase] - idle[phase] for phase in least))
    return row


def report_text(stored: dict) -> str:
    measured = stored["measured"]
    about = __doc__.split("\n\n    python")[0]
    if measured:
        title, *_ = about.split("\n\n")
        about = f"{title}\n\nMeasured: the most that PyTorch's allocator had handed out on the GPU."
    parts = ", ".join(f"{name} {gib(size)}" for name, size in stored["rows"][-1]["weights"].items())
    return (
        f"# Memory of a generation\n\n{about}\n\n{stored['dtype']}, 8 references. Weights (the U-Net's with the subject's): "
        f"{parts}. `plain` at window 1 is what AnimateDiffPipeline computes. Every column is the peak of a phase, in GiB, "
        "the weights of all models included; a generation takes the largest of them, of those for decoding the one that "
        "`decode_chunk_size` chooses. `before the loop`: text, references, FeatureNeRF. No preview runs here: it takes what "
        "denoising takes without hooks. A path in windows of `views_at_a_time` takes what one more view than that takes.\n\n"
        f"{stored['environment']['text']}\n\n{markdown_table([row_of(result, measured) for result in stored['rows']])}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15", "tiny"])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--device", choices=["cuda"], help="measures there instead of computing")
    parser.add_argument("--check", action="store_true", help="compare with what PyTorch's CPU allocator hands out")
    parser.add_argument("--quick", action="store_true", help="one small setting, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, help="writes OUTPUT.json, which it goes on from, and OUTPUT.md")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    if options.check:
        print(json.dumps(check(options.model, Setting(views=3, size=64, window="3"), dtype), indent=1))
        return
    settings = [*SETTINGS, *(OFFLOADED if options.device else [])]
    if options.quick:
        settings = [Setting(views=3, size=64)]
    stored = {"environment": describe_environment(options.device or "cpu"), "measured": options.device is not None}
    stored |= {"dtype": options.dtype, "rows": []}
    file = None if options.output is None else options.output.with_suffix(".json")
    if file is not None and file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
    done = [row["setting"] for row in stored["rows"]]
    generation = None
    for setting in settings:
        if asdict(setting) in done:
            continue
        if generation is None or generation.what != setting.what or setting.offload != "none":
            generation = None
            gc.collect()  # on a GPU the last one's weights would be counted with the next one's
            where = {"fake": options.device is None, "device": options.device or "cpu"}
            generation = Generation(options.model, setting.what, dtype, **where)
            if setting.offload != "none":
                getattr(generation.pipe, f"enable_{setting.offload}_cpu_offload")()
        stored["rows"].append(phases_of(generation, setting))
        print(json.dumps(stored["rows"][-1]), flush=True)
        if file is not None:
            write_text(file, json.dumps(stored, indent=1) + "\n")
            write_text(file.with_suffix(".md"), report_text(stored))
    print(report_text(stored))


if __name__ == "__main__":
    main()
