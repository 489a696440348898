"""Speed of a training step against diffusers' own DreamBooth-LoRA script, side by side in one run.

Both trainers run as their users run them, in a process of their own, on the same weights, photos, batch, resolution and
LoRA rank. They take turns, a step each, so a busy machine is busy for both; the processor time of a step counts (of one
thread, unless --threads says otherwise), the median of the steps after a few to warm up. Latents of our trainer are
cached before, as they are for its users; diffusers' script encodes its photos anew in every step. FeatureNeRF is
measured afterwards, alone.

    python benchmarks/subject_training.py --data buddha/ --script diffusers/examples/dreambooth/train_dreambooth_lora.py
    python benchmarks/subject_training.py --data buddha/ --script ... --sizes sd15 --resolution 256 --batch 1 --steps 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import describe_environment, markdown_table

REPOSITORY = Path(__file__).parents[1]
_RUN = """
import json, os, re, runpy, sys, time

sent, granted = int(sys.argv[1]), int(sys.argv[2])
sys.argv = sys.argv[3:]
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

for _ in range(20):  # torchvision's compiled operators are not needed here, and have no build for every torch
    try:
        import torchvision
        break
    except ModuleNotFoundError:
        break
    except RuntimeError as error:  # it wants declarations at least
        operator = re.search(r"operator (torchvision::\\w+) does not exist", str(error))[1]
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        torch.library.define(operator, "(Tensor x) -> Tensor")

started = None


def take_turns(*_):
    global started
    if started is not None:
        took = {"processor": time.process_time() - started[0], "wall": time.perf_counter() - started[1]}
        os.write(sent, json.dumps(took).encode() + b"\\n")
    else:
        os.write(sent, b"{}\\n")
    if not os.read(granted, 1):
        os._exit(0)  # enough was measured
    started = time.process_time(), time.perf_counter()


register_optimizer_step_post_hook(take_turns)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RANK = 4
DIFFUSERS, LORA_ONLY, WHOLE = "diffusers", "ours, LoRA only", "ours, with FeatureNeRF and token"


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


def few_photos(data: Path, count: int, folder: Path) -> Path:
    """The first photos of a capture, as one of its own."""
    content = json.loads((data / "transforms.json").read_text())
    content["frames"] = content["frames"][:count]
    images = folder / "photos" / "images"
    images.mkdir(parents=True)
    for frame in content["frames"]:
        for key in ("file_path", "mask_path"):
            if key in frame:
                source = data / frame[key]
                target = folder / "photos" / frame[key]
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(source.resolve())
    (folder / "photos" / "transforms.json").write_text(json.dumps(content))
    return folder / "photos"


def command(kind: str, model: Path, adapter: Path, data: Path, output: Path, options: argparse.Namespace) -> list[str]:
    """A trainer's script and flags."""
    common = {
        "output_dir": output,
        "resolution": options.resolution,
        "train_batch_size": options.batch,
        "max_train_steps": 100_000,  # it is stopped before
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "rank": RANK,
        "seed": 0,
        "checkpointing_steps": 100_000,
        "report_to": "tensorboard",
        "mixed_precision": options.mixed_precision,
    }
    if kind == DIFFUSERS:
        script = options.script
        own = {
            "pretrained_model_name_or_path": model,
            "instance_data_dir": data / "images",
            "instance_prompt": "a photo of a head",
        }
    else:
        script = REPOSITORY / "train_lora.py"
        alone = "false" if kind == LORA_ONLY else "true"
        own = {
            "model": model,
            "motion_adapter": adapter,
            "data": data,
            "token": "<thing>",
            "class_noun": "head",
            "crops_per_photo": 1,
            "prior_probability": 0,
            "num_validation_views": 0,
            "train_feature_nerf": alone,
            "train_token": alone,
            "cache_dir": output.parent / f"cache-{options.resolution}",
        }
    flags = [text for name, value in {**common, **own}.items() for text in (f"--{name}", str(value))]
    if options.gradient_checkpointing:
        flags.append("--gradient_checkpointing")
    return [str(part) for part in (script, *flags)]


class Trainer:
    """A trainer's process, which waits for its turn after every step.

    Args:
        arguments (`list[str]`): Script and flags.
        log (`Path`): File for what it prints.
        threads (`int`): Threads that it may use.
        path (`Path`, *optional*): Folder of packages that are not installed.
    """

    def __init__(self, arguments: list[str], log: Path, threads: int, path: Path | None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        received, sent = os.pipe()
        granted, self.grant = os.pipe()
        self.arguments, self.log = arguments, log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(sent), str(granted), *arguments],
                stdout=file,
                stderr=file,
                env=environment,
                pass_fds=(sent, granted),
            )
        os.close(sent)
        os.close(granted)
        self.received = os.fdopen(received)

    def wait(self) -> dict[str, float]:
        """Seconds that the step took which is now done; empty for the first one, which ends the start."""
        line = self.received.readline()
        if not line:
            raise SystemExit(f"{self.arguments} failed:\n{self.log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def step(self) -> dict[str, float]:
        """Lets it make a step. Returns its seconds of processor and wall time."""
        os.write(self.grant, b".")
        return self.wait()

    def stop(self) -> float:
        """Ends it. Returns its peak memory in GiB."""
        os.close(self.grant)
        _, _, usage = os.wait4(self.process.pid, 0)
        return usage.ru_maxrss / 2**20


def measure(size: str, options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """A row for each trainer."""
    model, adapter = save_models(size, folder)
    data = few_photos(options.data, options.photos, folder)
    seconds: dict[str, list[dict[str, float]]] = {}
    memory: dict[str, float] = {}
    for kinds in ((DIFFUSERS, LORA_ONLY), (WHOLE,)):
        trainers = {}
        for kind in kinds:
            output = folder / f"{size}-{kind.replace(' ', '-')}"
            arguments = command(kind, model, adapter, data, output, options)
            packages = options.torchvision if kind == DIFFUSERS else None
            trainers[kind] = Trainer(arguments, output.with_suffix(".log"), options.threads, packages)
            trainers[kind].wait()  # one starts after the other
            seconds[kind] = []
        for _ in range(options.warm_up - 1 + options.steps):
            for kind, trainer in trainers.items():
                seconds[kind].append(trainer.step())
                print(f"{size}, {kind}: {seconds[kind][-1]}", flush=True)
        memory |= {kind: trainer.stop() for kind, trainer in trainers.items()}
    medians = {
        kind: {clock: statistics.median(step[clock] for step in steps[-options.steps :]) for clock in steps[-1]}
        for kind, steps in seconds.items()
    }
    return [
        {
            "model": size,
            "batch": options.batch,
            "resolution": options.resolution,
            "trainer": kind,
            "s of processor a step": round(taken["processor"], 4),
            "s of wall time a step": round(taken["wall"], 4),
            "images / s of processor": round(options.batch / taken["processor"], 3),
            "against diffusers": round(medians[DIFFUSERS]["processor"] / taken["processor"], 3),
            "peak GiB of the process": round(memory[kind], 2),
        }
        for kind, taken in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="diffusers' train_dreambooth_lora.py")
    parser.add_argument("--torchvision", type=Path, help="folder that holds torchvision, if it is not installed")
    parser.add_argument("--data", type=Path, required=True, help="folder with transforms.json and images/")
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=["tiny", "sd15"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--photos", type=int, default=6, help="how many of the photos to use")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before those that count")
    parser.add_argument("--steps", type=int, default=40, help="steps that count")
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
