"""Peak memory of a step of subject training at the shapes of Stable Diffusion 1.5, crops of 512 × 512 pixels.

Computed, unless --device cuda measures it: the trainer's own model, batches, losses and optimiser make a step on tensors
that have shapes but no memory (PyTorch's fake tensors), and the bytes of those that are alive at a time are counted. Not
counted is what a GPU needs besides: the CUDA context (0.3 to 0.5 GiB), scratch memory inside of kernels, and gaps
between the allocator's blocks.

    python benchmarks/training_memory.py --data buddha/ -o docs/training_memory
    python benchmarks/training_memory.py --data buddha/ --size tiny --check    # the count against PyTorch's allocator
    python benchmarks/training_memory.py --data buddha/ --device cuda
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from environment import describe_environment, markdown_table
from live_memory import AllocatedBytes, ChecksPass, LiveBytes, allocator_peak
from shapes_only import let_go_of_memory, unwritten_components
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

PRECISIONS, RANKS, REFERENCES = ("bf16", "no"), (4, 16, 64), (3, 5, 8)
GRID = [{"mixed_precision": precision, "rank": rank} for precision in PRECISIONS for rank in RANKS]
OTHERS = [
    {"mixed_precision": "bf16", "rank": 16, "train_batch_size": 4},
    {"mixed_precision": "bf16", "rank": 16, "gradient_checkpointing": False},
    {"mixed_precision": "bf16", "rank": 16, "train_feature_nerf": False},
]
RESOLUTION = {"sd15": 512, "tiny": 64}
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


class Rehearsal:
    """A subject's training up to its first step, put together as [`SubjectTrainer`] does, with random latents.

    Args:
        size (`str`): Of the random components.
        data (`Path`): Posed photos.
        settings (`dict`): Settings of the trainer beside those that all have.
        fake (`bool`): Whether tensors have shapes only.
        device (`str`): Where the others are.
    """

    def __init__(self, size: str, data: Path, settings: dict, *, fake: bool, device: str = "cpu") -> None:
        from diffusers_mvcustom import MVCustomPipeline
        from diffusers_mvcustom.training import SubjectTrainingConfig
        from diffusers_mvcustom.training.optimization import make_optimizer
        from diffusers_mvcustom.training.sampling import SamplePlanner
        from diffusers_mvcustom.training.subject_batches import SubjectBatches
        from diffusers_mvcustom.training.subject_parts import load_photos, make_subject_parts

        self.config = config = SubjectTrainingConfig(
            model=size,
            data=str(data),
            output_dir="out",
            token="<thing>",
            class_noun="head",
            resolution=RESOLUTION[size],
            prior_probability=0.0,
            importance_sampling_share=1.0,
            **{"train_batch_size": 1, "gradient_checkpointing": True, **settings},
        )
        self.dtype = _DTYPES[config.mixed_precision]
        self.mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
        dataset = load_photos(config, config.resolution)
        self.pipe = MVCustomPipeline(**_components(size, self.dtype, filled=not fake))
        self.device = torch.device(device)
        self.pipe.vae.to(self.device)
        self.parts = make_subject_parts(config, self.pipe, dataset, device=self.device, dtype=self.dtype)
        if fake:
            replaced = let_go_of_memory([self.parts.model], self.mode)
            for group in self.parts.groups:
                group["params"] = [replaced[weight] for weight in group["params"]]
        self.optimizer = make_optimizer(config, self.parts.groups)
        for group in self.optimizer.param_groups:
            group["foreach"] = True  # as on a GPU
        self.parts.model.train()
        views = _views_without_autoencoder(dataset.views, config.resolution, self.pipe)
        planner = SamplePlanner(
            config,
            num_photos=len(views),
            num_crops=1,
            num_class_images=0,
            num_timesteps=self.parts.model.scheduler.config.num_train_timesteps,
        )
        self._batches = SubjectBatches(
            planner,
            views,
            None,
            token=config.token,
            class_noun=config.class_noun,
            device=self.device,
            dtype=self.dtype,
        )
        self.take_references(config.num_references)
        self._fill_optimizer()

    def take_references(self, count: int) -> None:
        """Makes the batch one of so many references."""
        self.config.num_references = count
        self.batch = self._batches(range(self.config.train_batch_size))
        if self.mode is not None:
            tensors = {name: value for name, value in vars(self.batch).items() if isinstance(value, Tensor)}
            fakes = {name: self.mode.from_tensor(tensor) for name, tensor in tensors.items()}
            self.batch = replace(self.batch, **fakes)

    def _fill_optimizer(self) -> None:
        """The optimiser's state is made in the first step; that of no gradient is the cheapest."""
        with self.shapes_only():
            for weight in self.parts.trained.values():
                weight.grad = torch.zeros_like(weight)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Nothing is computed inside, if the tensors are fake."""
        with self.mode or nullcontext(), ChecksPass() if self.mode else nullcontext():
            yield

    def held(self) -> list[Tensor]:
        """All tensors on the device between steps: weights, the batch, the optimiser's state."""
        modules = (self.parts.model, self.pipe.vae)
        tensors = [t for module in modules for t in itertools.chain(module.parameters(), module.buffers())]
        tensors += [value for value in vars(self.batch).values() if isinstance(value, Tensor)]
        return tensors + [t for state in self.optimizer.state.values() for t in state.values()]

    def step(self, after: Callable[[str], None] = lambda phase: None) -> None:
        """An update of the weights as the trainer makes it. `after` is told what has just been done."""
        model, config = self.parts.model, self.config
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with autocast:
            references = model.reference_features(self.batch)
        after("references")
        with model.conditioned():
            with autocast:
                losses = model(self.batch, references)
            after("forward")
            losses["loss"].backward()
        after("backward")
        torch.nn.utils.clip_grad_norm_(list(self.parts.trained.values()), config.max_grad_norm)
        self.optimizer.step()
        after("optimiser")
        self.optimizer.zero_grad(set_to_none=True)


def _components(size: str, dtype: torch.dtype, *, filled: bool) -> dict:
    """Components of random weights, or of weights that were never written."""
    from diffusers_mvcustom.toy import random_components

    if filled:
        return random_components(size, depth_estimator=False)
    components = unwritten_components(size, dtype, depth_estimator=False)
    components["vae"].float()  # as it is loaded
    return components


def _views_without_autoencoder(views, resolution: int, pipe):
    """The photos' largest crops and whole views as the trainer has them, with latents drawn at random."""
    from diffusers_mvcustom.cameras import Cameras
    from diffusers_mvcustom.training.crops import largest_crop
    from diffusers_mvcustom.training.training_views import TrainingViews

    def latents(count: int, height: int, width: int) -> Tensor:
        return torch.randn(count, 4, height // factor, width // factor)

    factor = pipe.vae_scale_factor
    crop = largest_crop(views.height, views.width, resolution, resolution)
    multiple = factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    whole = views.fit_area(resolution * resolution, multiple)
    means = latents(len(views), resolution, resolution)[:, None]
    return TrainingViews(
        crop.pixels(views.images, resolution, resolution)[:, None],
        None if views.masks is None else crop.pixels(views.masks, resolution, resolution)[:, None],
        [Cameras.cat([crop.cameras(camera, resolution, resolution)]) for camera in views.cameras],
        means,
        torch.ones_like(means),
        whole,
        latents(len(views), whole.height, whole.width),
    )


def of_a_step(size: str, data: Path, settings: dict, references: Sequence[int], device: str | None) -> Iterator[dict]:
    """Bytes with each number of references: what is held between steps, and the most that each part of a step takes.

    Without a device they are computed.
    """
    settings = {**settings, "num_references": references[0]}
    rehearsal = Rehearsal(size, data, settings, fake=device is None, device=device or "cpu")
    model = rehearsal.parts.model
    for count in references:
        rehearsal.take_references(count)
        live = LiveBytes() if device is None else AllocatedBytes()
        phases: dict[str, int] = {}

        def after(phase: str, phases: dict = phases, live: LiveBytes | AllocatedBytes = live) -> None:
            phases[phase] = live.peak
            live.reset_peak()

        with rehearsal.shapes_only(), live if device is None else nullcontext():
            if device is None:
                live.add(rehearsal.held())
            live.reset_peak()
            held = live.now
            rehearsal.step(after)
        yield {
            "settings": {**settings, "num_references": count},
            "peak": max(phases.values()),
            "phases": phases,
            "held": held,
            "frozen": sum(weight.nbytes for weight in model.parameters() if not weight.requires_grad),
            "autoencoder": sum(weight.nbytes for weight in rehearsal.pipe.vae.parameters()),
            "trained_weights": sum(weight.numel() for weight in rehearsal.parts.trained.values()),
        }


def check(size: str, data: Path, settings: dict) -> dict[str, float]:
    """Bytes that a step takes beyond what is held between steps: counted without memory, with it, and by PyTorch's
    CPU allocator."""
    result: dict[str, float] = {"settings": settings}
    for name in ("computed", "counted"):
        rehearsal = Rehearsal(size, data, settings, fake=name == "computed")
        live = LiveBytes()
        with rehearsal.shapes_only(), live:
            live.add(rehearsal.held())
            before = live.now
            rehearsal.step()
        result[name] = live.peak - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        rehearsal.step()
    result["allocated"] = allocator_peak(profile)
    return result


def _row(result: dict) -> dict[str, object]:
    settings, gib = result["settings"], 2**30
    return {
        "precision": {"no": "float32"}.get(settings["mixed_precision"], settings["mixed_precision"]),
        "LoRA rank": settings["rank"],
        "references": settings["num_references"] if settings.get("train_feature_nerf", True) else "none",
        "batch": settings.get("train_batch_size", 1),
        "gradient checkpointing": "yes" if settings.get("gradient_checkpointing", True) else "no",
        "frozen weights": f"{(result['frozen'] + result['autoencoder']) / gib:.2f}",
        "trained, with optimiser": f"{12 * result['trained_weights'] / gib:.2f}",
        "peak": f"{result['peak'] / gib:.2f}",
        "in": max(result["phases"], key=result["phases"].get),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with transforms.json")
    parser.add_argument("--size", default="sd15", choices=["sd15", "tiny"])
    parser.add_argument("--device", choices=["cuda"], help="measures there instead of computing")
    parser.add_argument("--check", action="store_true", help="compare with what PyTorch's CPU allocator hands out")
    parser.add_argument("-o", "--output", type=Path, help="writes OUTPUT.json, which it goes on from, and OUTPUT.md")
    options = parser.parse_args()
    environment = describe_environment(options.device or "cpu")
    if options.check:
        settings = {"rank": 4, "num_references": 3}
        results = [check(options.size, options.data, {"mixed_precision": name, **settings}) for name in PRECISIONS]
        print(json.dumps(results, indent=1))
        return
    file = None if options.output is None else options.output.with_suffix(".json")
    stored = json.loads(file.read_text()) if file is not None and file.exists() else {"rows": []}
    results = stored["rows"]
    runs = [(settings, REFERENCES) for settings in GRID] + [(settings, REFERENCES[1:2]) for settings in OTHERS]
    for settings, references in runs:
        done = [result["settings"] for result in results]
        missing = [count for count in references if {**settings, "num_references": count} not in done]
        for result in of_a_step(options.size, options.data, settings, missing, options.device) if missing else ():
            print(json.dumps(result), flush=True)
            results.append(result)
            if file is not None:
                kind = {"environment": environment, "computed": options.device is None}
                file.write_text(json.dumps({**kind, "rows": results}, indent=1) + "\n")
    about = __doc__.split("\n\n    python")[0]
    table = markdown_table([*map(_row, results)])
    text = f"# Memory of subject training\n\n{about}\n\n{environment['text']}\n\nGiB:\n\n{table}\n"
    print(text)
    if options.output is not None:
        options.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
