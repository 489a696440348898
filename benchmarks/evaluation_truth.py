"""What the metrics say of truth and of nonsense.

    python benchmarks/evaluation_truth.py -o docs/evaluation_truth

Renders of a textured block with known cameras, and the same views shuffled, replaced by noise, by one repeated view, by blank
views and by other scenes. With `--photos` also a folder of photos with a `transforms.json`, whose cameras are the target.
Networks that would need weights are left out; a plain difference of colours stands where they would, to show what the
metrics around them do. Writes markdown and JSON with device and versions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from environment import describe_environment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from evaluation.view_sets import NONSENSE, nonsense, textured_views

from diffusers_mvcustom.cameras import load_capture, normalize_cameras
from diffusers_mvcustom.evaluation import CovisibleReprojection, Evaluation
from diffusers_mvcustom.subjects import ReferenceViews

STAND_IN_FOR = ("DreamSim", "LPIPS", "DINOv2", "MEt3R")


def color_difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of colours, `(P,)`: in the place of a perceptual distance."""
    return (one - other).abs().mean(dim=(1, 2, 3))


def color_similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """One minus the difference, `(P,)`."""
    return 1 - color_difference(one, other)


def scored(images: torch.Tensor, cameras, references, threads: int) -> dict:
    """All scores of one set of views, and what structure from motion said of it."""
    evaluation = Evaluation(
        dreamsim=color_difference,
        lpips=color_difference,
        dinov2=color_similarity,
        met3r=color_difference,
        threads=threads,
    )
    said = evaluation.update(images, cameras, references=references)
    return {**evaluation.compute().to_dict(), "structure_from_motion": said}


def covisible_skill(kind: str | None) -> float:
    """The skill of five views of a toy scene of known depth, or of the nonsense made of them."""
    from diffusers_mvcustom import Cameras
    from diffusers_mvcustom.toy import render, sample_scene

    cameras = Cameras.orbit(8, azimuth=(-40.0, 40.0), elevation=20.0, height=64, width=96)
    views = render(sample_scene("train", 1), cameras)
    images = views.images
    if kind == "other scenes":
        images = torch.cat([render(sample_scene("train", 20 + i), cameras[i]).images for i in range(len(cameras))])
    elif kind is not None:
        images = nonsense(kind, images)
    metric = CovisibleReprojection()
    metric.update(images, views.depth, cameras)
    return metric.compute()["skill"]


def photos(folder: Path, longer_side: int) -> tuple:
    """Photos, their cameras in the subject frame, and themselves as references."""
    capture = load_capture(folder)
    capture = capture.with_cameras(normalize_cameras(capture.cameras)[0])
    scale = longer_side / max(capture.cameras.height, capture.cameras.width)
    size = (round(capture.cameras.height * scale), round(capture.cameras.width * scale))
    views = ReferenceViews.from_capture(capture, height=size[0], width=size[1])
    return views.images, views.cameras, (views.images, views.cameras, views.masks)


def main() -> None:
    """Runs the comparison and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="Name of the files to write, without ending.")
    parser.add_argument("--photos", type=Path, help="Folder of photos with transforms.json.")
    parser.add_argument("--longer-side", type=int, default=640, help="Of the photos, in pixels.")
    parser.add_argument("--threads", type=int, default=-1, help="Of structure from motion.")
    arguments = parser.parse_args()
    images, cameras = textured_views()
    references = (images, cameras, None)
    results = {"renders, known cameras": scored(images, cameras, references, arguments.threads)}
    results["renders, known cameras"]["covisible_skill"] = covisible_skill(None)
    for kind in NONSENSE:
        results[kind] = scored(nonsense(kind, images), cameras, references, arguments.threads)
        results[kind]["covisible_skill"] = covisible_skill(kind)
        print(f"{kind}: {results[kind]['structure_from_motion']}", flush=True)
    if arguments.photos is not None:
        results["photos"] = scored(*photos(arguments.photos, arguments.longer_side), arguments.threads)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": describe_environment("cpu"), "results": results}
    arguments.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = f"{record['environment']['text']}\n\n{table(results)}"
    arguments.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(results: dict) -> str:
    """The scores, a row a metric and a column a set of views."""
    first = next(iter(results.values()))
    lines = ["| metric | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name, score in first["scores"].items():
        arrow = "↑" if score["higher_is_better"] else "↓"
        values = [f"{each['scores'][name]['value']:.3f}" for each in results.values()]
        mark = "*" if any(network in name for network in STAND_IN_FOR) else ""
        lines.append(f"| {name}{mark} {arrow} | " + " | ".join(values) + " |")
    skills = [f"{each['covisible_skill']:.3f}" if "covisible_skill" in each else "–" for each in results.values()]
    lines.append("| co-visible skill ↑ | " + " | ".join(skills) + " |")
    registered = [each["structure_from_motion"].split(" views")[0] for each in results.values()]
    lines.append("| views registered | " + " | ".join(registered) + " |")
    lines += [
        "",
        "* a plain difference of colours in the place of the network: what the metric does, not what the network says",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
