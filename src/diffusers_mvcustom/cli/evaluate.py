"""`mvcustom evaluate`."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files.whole import write_text
from ..package_versions import package_version
from .options import checked_device, checked_seed

JSON_NAME = "evaluation.json"
MARKDOWN_NAME = "evaluation.md"


def evaluate(
    output: Annotated[
        Path, typer.Argument(help="Folder that `mvcustom generate` wrote, with one set of views or several.")
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Subject folder: its photos, for identity, and its token.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the views should show, if no generation.json says.")] = None,
    clip: Annotated[str, typer.Option(help="CLIP model: folder or Hub id.")] = "openai/clip-vit-large-patch14",
    dinov2: Annotated[str, typer.Option(help="DINOv2 model: folder or Hub id.")] = "facebook/dinov2-base",
    write_to: Annotated[
        Path | None, typer.Option("--write-to", "-o", help="Folder for evaluation.json and .md; by default OUTPUT.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of structure from motion.", callback=checked_seed)] = 0,
    threads: Annotated[int, typer.Option(help="Threads of structure from motion; -1 for all cores.")] = -1,
    device: Annotated[
        str | None, typer.Option(help="By default cuda where there is one.", callback=checked_device)
    ] = None,
) -> None:
    """Score generated views: cameras, consistency, identity, text alignment. Prints a table, writes JSON and markdown.

    What could not be scored counts as the worst value; a metric whose package or weights are missing is named with why.

    Example: `mvcustom evaluate out/views --reference out/my-mug/subject`
    """
    import torch
    from diffusers.utils.logging import tqdm

    from ..errors import MVCustomError
    from ..evaluation import ClipTextSimilarity, Dinov2Similarity, Evaluation

    started = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folders = _sets_of_views(output)
    if write_to is None and (prepared := next((folder for folder in folders if _is_prepared(folder)), None)):
        raise MVCustomError(
            f"{prepared}: these are the photos of a subject, and no generated views; to score them all the same, name a "
            "folder for the result with --write-to."
        )
    references, token, frame = (None, None, None) if reference is None else _references(reference)
    sets = [_read_set(folder, prompt, token) for folder in folders]
    for folder in folders:  # read twice: a damaged picture of the last set is named before the first is scored
        _load_views(folder, frame)
    evaluation = Evaluation(
        clip=ClipTextSimilarity(clip, device=device),
        dinov2=Dinov2Similarity(dinov2, device=device),
        device=device,
        seed=seed,
        threads=threads,
    )
    said = []
    for views in tqdm(sets, desc="sets of views", disable=None):
        read = _load_views(views["folder"], frame)
        poses = evaluation.update(*read, prompt=views["prompt"], token=views["token"], references=references)
        said.append({**views, "folder": views["folder"].name, "views": len(read[1]), "structure_from_motion": poses})
    report = evaluation.compute()
    seconds = time.perf_counter() - started
    record = {
        **report.to_dict(),
        "sets": said,
        "settings": {"seed": seed, "threads": threads, "clip": clip, "dinov2": dinov2, "device": device},
        "environment": _environment(),
        "seconds": round(seconds, 1),
    }
    views = sum(one["views"] for one in said)
    poses = "\n".join(f"- `{one['folder']}`: {one['structure_from_motion']}" for one in said)
    target = output if write_to is None else write_to
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / JSON_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_text(
        target / MARKDOWN_NAME,
        f"# Evaluation\n\n{len(said)} set(s) of views, {views} views. What could not be scored counts as the worst value.\n\n"
        f"{report.to_markdown()}\n\nStructure from motion:\n\n{poses}\n",
    )
    typer.echo(report.to_markdown())
    typer.echo(
        f"{len(said)} set(s), {views} views, {len(report.scores)} of {len(report.scores) + len(report.unavailable)} scores "
        f"in {seconds:.1f} s → {target / JSON_NAME}, {MARKDOWN_NAME}"
    )


def _sets_of_views(output: Path) -> list[Path]:
    """The folders that hold one set of views each: `output` itself, or those in it."""
    from ..errors import MVCustomError

    inner = [folder for folder in output.glob("*") if (folder / "transforms.json").is_file()]
    single = (output / "transforms.json").is_file()
    if single and inner:
        raise MVCustomError(
            f"{output}: holds a set of views and folders with sets too, of two runs perhaps; evaluate {inner[0]}, or move "
            "what is old away."
        )
    if not single and not inner:
        raise MVCustomError(
            f"{output}: expected transforms.json and images/ as `mvcustom generate` writes them, or folders that hold them."
        )
    return (
        [output] if single else sorted(inner, key=lambda folder: (not folder.name.isdigit(), _number(folder), folder))
    )


def _is_prepared(folder: Path) -> bool:
    """Whether `mvcustom prepare` wrote it."""
    from ..data.manifest import MANIFEST_NAME, read_manifest

    return read_manifest(folder / MANIFEST_NAME)[0] is not None


def _number(folder: Path) -> int:
    return int(folder.name) if folder.name.isdigit() else 0


def _read_set(folder: Path, prompt: str | None, token: str | None) -> dict[str, Any]:
    """What is known of a set of views before its pictures are read."""
    from ..errors import MVCustomError
    from ..export import read_record

    record = read_record(folder)
    if token is not None and record.get("token") not in (None, token):
        raise MVCustomError(
            f"{folder}: the views are of {record['token']}, but --reference is of {token}; evaluate each subject's views "
            "with its own folder."
        )
    return {"folder": folder, "prompt": prompt or record.get("prompt"), "token": token or record.get("token")}


def _load_views(folder: Path, subject_frame: Any) -> tuple[Any, Any]:
    """Images `(N, 3, H, W)` and cameras of a set of views, brought to the subject frame if they are in the user's."""
    from ..cameras import load_capture
    from ..errors import MVCustomError
    from ..export import read_record
    from ..subjects import ReferenceViews

    views = ReferenceViews.from_capture(load_capture(folder))
    if len(views) < 2:
        raise MVCustomError(f"{folder}: expected at least 2 views to compare, got {len(views)}.")
    cameras = views.cameras
    if subject_frame is not None and read_record(folder).get("frame") == "user":
        cameras = subject_frame.to_subject(cameras)
    return views.images, cameras


def _references(subject: Path) -> tuple[Any, str, Any]:
    """Photos, cameras and masks of a subject folder, the subject's token, and its way to the photos' world."""
    from ..errors import MVCustomError
    from ..subjects import ReferenceViews, SubjectConfig

    config, references = subject / "subject_config.json", subject / "references"
    if not config.is_file() or not references.is_dir():
        raise MVCustomError(f"{subject}: expected a subject folder, with subject_config.json and references/.")
    views = ReferenceViews.load(references)
    settings = SubjectConfig.load(config)
    return (views.images, views.cameras, views.masks), settings.token, settings.subject_frame


def _environment() -> dict[str, str]:
    packages = ("diffusers-mvcustom", "torch", "transformers", "pycolmap", "opencv-python-headless")
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    return versions | {package: package_version(package, missing="not installed") for package in packages}
