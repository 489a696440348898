"""Speed of a training step against diffusers' own DreamBooth-LoRA script, side by side in one run.

Both trainers run as their users run them, in a process of their own, on the same weights, photos, batch, resolution and
LoRA rank. A step's time is the difference of two lengths of training divided by the steps between them, so starting up,
loading and saving do not count; trainers take turns, and the fastest of the repeats counts.

    python benchmarks/subject_training.py --data buddha/ --script diffusers/examples/dreambooth/train_dreambooth_lora.py
    python benchmarks/subject_training.py --data buddha/ --script ... --sizes sd15 --resolution 256 --batch 1 --steps 4
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import describe_environment, markdown_table

REPOSITORY = Path(__file__).parents[1]
# torchvision's compiled operators are not needed by the script, and have no build for every torch; without their
# declarations its import fails.
_PRELUDE = """
import re, runpy, sys, torch
for _ in range(20):
    try:
        import torchvision
        break
    except RuntimeError as error:
        operator = re.search(r"operator (torchvision::\\w+) does not exist", str(error))[1]
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        torch.library.define(operator, "(Tensor x) -> Tensor")
script = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""
RANK = 4


def save_models(size: str, folder: Path) -> tuple[Path, Path]:
    """A Stable Diffusion pipeline of random weights, and a motion adapter for it."""
    from diffusers import StableDiffusionPipeline

    from diffusers_mvcustom.toy import random_components, random_unet2d_and_motion_adapter

    parts = random_components(size, depth_estimator=False)
    unet, motion_adapter = random_unet2d_and_motion_adapter(size)
    model, adapter = folder / f"{size}-model", folder / f"{size}-motion"
    StableDiffusionPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(model)
    motion_adapter.save_pretrained(adapter)
    return model, adapter


def command(kind: str, steps: int, model: Path, adapter: Path, output: Path, options: argparse.Namespace) -> list[str]:
    """The command line of a trainer."""
    common = {
        "output_dir": output,
        "resolution": options.resolution,
        "train_batch_size": options.batch,
        "max_train_steps": steps,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "rank": RANK,
        "seed": 0,
        "checkpointing_steps": 100_000,
        "report_to": "tensorboard",
        "mixed_precision": options.mixed_precision,
    }
    if kind == "diffusers":
        start = [sys.executable, "-c", _PRELUDE, options.script]
        own = {
            "pretrained_model_name_or_path": model,
            "instance_data_dir": options.data / "images",
            "instance_prompt": "a photo of a head",
        }
    else:
        start = [sys.executable, REPOSITORY / "train_lora.py"]
        alone = kind == "ours, LoRA only"
        own = {
            "model": model,
            "motion_adapter": adapter,
            "data": options.data,
            "token": "<thing>",
            "class_noun": "head",
            "prior_probability": 0,
            "num_validation_views": 0,
            "train_feature_nerf": "false" if alone else "true",
            "train_token": "false" if alone else "true",
            "cache_dir": output.parent / f"cache-{options.resolution}",
        }
    flags = [text for name, value in {**common, **own}.items() for text in (f"--{name}", str(value))]
    if options.gradient_checkpointing:
        flags.append("--gradient_checkpointing")
    return [str(part) for part in (*start, *flags)]


def run(arguments: list[str], threads: int, path: Path | None) -> tuple[float, float]:
    """Seconds of a whole run, and its peak memory in GiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read().decode(errors='replace')[-3000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def measure(size: str, options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """A row for each trainer."""
    model, adapter = save_models(size, folder)
    kinds = ["diffusers", "ours, LoRA only", "ours, with FeatureNeRF and token"]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    memory = dict.fromkeys(kinds, 0.0)
    for repeat in range(options.repeats):
        for kind in kinds:
            times, packages = [], options.torchvision if kind == "diffusers" else None
            for steps in (options.warm_up, options.warm_up + options.steps):
                output = folder / f"{size}-{kinds.index(kind)}-{repeat}-{steps}"
                taken, peak = run(command(kind, steps, model, adapter, output, options), options.threads, packages)
                times.append(taken)
                memory[kind] = max(memory[kind], peak)
            seconds[kind].append((times[1] - times[0]) / options.steps)
            print(f"{size}, {kind}: {seconds[kind][-1]:.3f} s a step", flush=True)
    reference = min(seconds["diffusers"])
    return [
        {
            "model": size,
            "batch": options.batch,
            "resolution": options.resolution,
            "trainer": kind,
            "s / step": f"{min(seconds[kind]):.3f}",
            "images / s": f"{options.batch / min(seconds[kind]):.2f}",
            "against diffusers": f"{reference / min(seconds[kind]):.2f}×",
            "peak GiB of the process": f"{memory[kind]:.2f}",
        }
        for kind in kinds
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="diffusers' train_dreambooth_lora.py")
    parser.add_argument("--torchvision", type=Path, help="folder that holds torchvision, if it is not installed")
    parser.add_argument("--data", type=Path, required=True, help="folder with transforms.json and images/")
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=["tiny", "sd15"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2, help="steps of the shorter run")
    parser.add_argument("--steps", type=int, default=40, help="steps that the longer run makes beyond those")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="JSON file that rows are added to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for size in options.sizes for row in measure(size, options, Path(folder))]
    environment = describe_environment("cpu")
    print(f"{environment['text']} {options.threads} thread(s).\n\n{markdown_table(rows)}")
    if options.output is not None:
        stored = json.loads(options.output.read_text()) if options.output.exists() else []
        stored.append({"environment": environment, "threads": options.threads, "rows": rows})
        options.output.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
