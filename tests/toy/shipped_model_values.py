"""What the shipped model gives, recorded: whole-pipeline images that a change of the code must not change.

After a new model has been put into `models/`:

    python tests/toy/shipped_model_values.py

writes `shipped_model_values.npz` beside this file: images of every case in float32, computed on this machine's CPU, and a
digest of the weights that they are of.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffusers_mvcustom import AnchorSettings, Cameras, DepthAwareFeatureRendering, MVCustomPipeline
from diffusers_mvcustom.toy.shipped import shipped_folder

VALUES = Path(__file__).with_suffix(".npz")
SEED = 3
DIGEST = "digest"


@dataclass(frozen=True)
class Tolerance:
    """How far images may be from the recorded ones, in [0, 1].

    Args:
        mean (`float`): Mean absolute difference.
        most (`float`): Difference that all but one in a hundred values keep below.
    """

    mean: float
    most: float


TOLERANCES = {torch.float32: Tolerance(1e-3, 1e-2), torch.bfloat16: Tolerance(3e-2, 0.2)}
"""float32: the order of sums, which processors and thread counts change. bfloat16: rounding to 8 bits in every layer."""

CASES: dict[str, tuple[torch.dtype, ...]] = {
    "text": (torch.float32, torch.bfloat16),
    "subject": (torch.float32, torch.bfloat16),
    "subject with DFR at a given depth": (torch.float32, torch.bfloat16),
    # Its estimated depth turns rounding into other triangles, and its fresh noise depends on the dtype.
    "subject with DFR and CLC": (torch.float32,),
}
"""Cases and the dtypes that each is compared in."""


def load_pipeline(model: Path, subject: Path, dtype: torch.dtype = torch.float32) -> MVCustomPipeline:
    """The model with the subject loaded."""
    pipe = MVCustomPipeline.from_pretrained(model, dtype=dtype)
    pipe.load_subject(subject)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: MVCustomPipeline, case: str) -> np.ndarray:
    """Images of a case, `(N, 3, H, W)` in [0, 1], float32. The active subject is the same afterwards."""
    config, name = pipe.subject.config, next(name for name, one in pipe.subjects.items() if one is pipe.subject)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    cameras = Cameras.orbit(4, azimuth=(-30, 30), elevation=20, height=side, width=side)
    call = {
        "prompt": f"a {config.token} {config.class_noun} on a lawn with two rocks",
        "num_inference_steps": 6,
        "generator": torch.Generator().manual_seed(SEED),
        "latents": torch.randn(
            (1, pipe.unet.config.in_channels, 4, side // pipe.vae_scale_factor, side // pipe.vae_scale_factor),
            generator=torch.Generator().manual_seed(SEED),
        ).to(pipe.unet.dtype),
        "hooks": [],
    }
    if case == "text":
        call["prompt"] = f"a striped red {config.class_noun} on snow at dusk"
        pipe.set_subject(None)
    elif case == "subject with DFR at a given depth":
        call["hooks"] = [DepthAwareFeatureRendering()]
        call["anchor_depth"] = torch.linspace(1.3, 0.8, side)[:, None].expand(side, side)  # a slope
    elif case == "subject with DFR and CLC":
        call["hooks"] = None  # the pipeline's own
        # Its preview, of four steps, shows a ground, and so the depth is fitted to that.
        call["prompt"] = f"a {config.token} {config.class_noun} in the snow at noon with two barrels"
        call["anchor"] = AnchorSettings(preview=0.7)
    try:
        frames = pipe(cameras=cameras, output_type="pt", **call).frames
    finally:
        if pipe.subject is None:
            pipe.set_subject(name)
    return frames[0].float().cpu().numpy()


def digest(*folders: Path) -> str:
    """Of everything that decides what a model generates: all weights and configurations."""
    total = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".safetensors", ".json", ".png"):
                total.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def record(model: Path, subject: Path, values: Path = VALUES) -> None:
    """Generates all cases and stores their images as float16, whose error (2.4e-4 at most) is within the tolerances."""
    pipe = load_pipeline(model, subject)
    images = {case: generate(pipe, case).astype(np.float16) for case in CASES}
    np.savez_compressed(values, **images, **{DIGEST: np.array(digest(model, subject))})


def recorded(values: Path = VALUES) -> dict[str, np.ndarray]:
    """What [`record`] stored: images by case, and the digest."""
    with np.load(values, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def beyond_tolerance(images: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> Mapping[str, float]:
    """What of the difference is beyond the tolerance; nothing if it is within it."""
    difference = np.abs(images - expected.astype(np.float32))
    measured = {"mean": float(difference.mean()), "most": float(np.quantile(difference, 0.99))}
    return {name: value for name, value in measured.items() if not value <= getattr(tolerance, name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    record(shipped_folder("toy"), shipped_folder("toy-subject"))
    print(f"{len(CASES)} cases → {VALUES.name} ({VALUES.stat().st_size / 1024:.0f} KiB)")


if __name__ == "__main__":
    main()
