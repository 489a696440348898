"""Peak memory of subject training at the shapes of Stable Diffusion 1.5, 512 × 512 pixels, with gradient checkpointing.

Every setting trains a step in a process of its own. On a GPU this is the peak of allocated memory; on a CPU the peak of
what is resident while the step runs, less what the process held with only the libraries loaded (weights count, allocators'
slack too).

    python benchmarks/training_memory.py --data buddha/ -o docs/training_memory
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import describe_environment, markdown_table

SETTINGS = [
    {"mixed_precision": "no", "rank": 16, "num_references": 5},
    {"mixed_precision": "bf16", "rank": 16, "num_references": 5},
    {"mixed_precision": "bf16", "rank": 4, "num_references": 5},
    {"mixed_precision": "bf16", "rank": 128, "num_references": 5},
    {"mixed_precision": "bf16", "rank": 16, "num_references": 1},
    {"mixed_precision": "bf16", "rank": 16, "num_references": 8},
    {"mixed_precision": "bf16", "rank": 16, "num_references": 5, "train_batch_size": 4},
    {"mixed_precision": "bf16", "rank": 16, "num_references": 5, "train_feature_nerf": False},
]


def resident(kind: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def measure(settings: dict, data: Path, cache: Path, size: str) -> dict[str, float]:
    """Trains a step with these settings in this process."""
    import torch

    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.toy import random_components
    from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig

    cuda = torch.cuda.is_available()
    before = 0 if cuda else resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        config = SubjectTrainingConfig(
            model=size,
            data=str(data),
            output_dir=f"{folder}/out",
            token="<thing>",
            class_noun="head",
            resolution=512 if size == "sd15" else 64,
            crops_per_photo=1,
            prior_probability=0.0,
            gradient_checkpointing=True,
            report_to="none",
            cache_dir=str(cache),
            num_validation_views=0,
            **{"train_batch_size": 1, **settings},
        )
        components = random_components(size, depth_estimator=False)
        trainer = SubjectTrainer(config, MVCustomPipeline(**components))
        del components
        trainer._set_up()
        import gc
        import time

        gc.collect()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        weights = 0 if cuda else resident("VmRSS") - before
        weights = torch.cuda.memory_allocated() if cuda else weights
        started = time.perf_counter()
        for _ in range(2 if cuda else 1):
            trainer._update()
            trainer.step += 1
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM") - before
        trained = sum(weight.numel() for weight in trainer.parts.trained.values())
    return {"peak": peak / 2**30, "weights": weights / 2**30, "seconds": seconds, "trained": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with transforms.json")
    parser.add_argument("--size", default="sd15", choices=["sd15", "tiny"])
    parser.add_argument("--cache", type=Path, help="folder for latents, to keep between runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument(
        "-o", "--output", type=Path, help="writes OUTPUT.json and OUTPUT.md, and goes on from the former"
    )
    options = parser.parse_args()
    cache = options.cache or Path(tempfile.gettempdir()) / "mvcustom-training-memory"
    if options.one is not None:
        print(json.dumps(measure(json.loads(options.one), options.data, cache, options.size)))
        return
    import torch

    environment = describe_environment("cuda" if torch.cuda.is_available() else "cpu")
    file = None if options.output is None else options.output.with_suffix(".json")
    stored = json.loads(file.read_text()) if file is not None and file.exists() else {}
    if stored.get("device") != environment["device"]:
        stored = {"device": environment["device"], "rows": []}
    done = [row["settings"] for row in stored["rows"]]
    for settings in SETTINGS:
        if settings in done:
            continue
        arguments = [sys.executable, __file__, "--data", options.data, "--size", options.size, "--cache", cache]
        run = subprocess.run([*map(str, arguments), "--one", json.dumps(settings)], stdout=subprocess.PIPE, text=True)
        if run.returncode:
            raise SystemExit(f"{settings} failed.")
        stored["rows"].append({"settings": settings, **json.loads(run.stdout.splitlines()[-1])})
        print(json.dumps(stored["rows"][-1]), flush=True)
        if file is not None:
            file.write_text(json.dumps(stored, indent=1) + "\n")
    rows = [
        {
            "precision": {"no": "float32"}.get(row["settings"]["mixed_precision"], row["settings"]["mixed_precision"]),
            "LoRA rank": row["settings"]["rank"],
            "references": row["settings"]["num_references"]
            if row["settings"].get("train_feature_nerf", True)
            else "none",
            "batch": row["settings"].get("train_batch_size", 1),
            "trained weights": f"{row['trained'] / 1e6:.1f} M",
            "GiB of weights": f"{row['weights']:.2f}",
            "peak GiB": f"{row['peak']:.2f}",
        }
        for row in stored["rows"]
    ]
    text = f"{__doc__.split(chr(10) * 2 + '    python')[0]}\n\n{environment['text']}\n\n{markdown_table(rows)}\n"
    print(text)
    if options.output is not None:
        options.output.with_suffix(".md").write_text(f"# Memory of subject training\n\n{text}")


if __name__ == "__main__":
    main()
