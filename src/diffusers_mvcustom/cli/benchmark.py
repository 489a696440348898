"""`mvcustom benchmark`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import checked_device

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline
    from ..toy import AttributeReader


def benchmark(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")],
    suite: Annotated[
        str, typer.Option(help="toy: methods; toy-choices: settings of the method, one at a time.")
    ] = "toy",
    model: Annotated[
        str | None, typer.Option(help="Model folder, or 'tiny' for one of random weights; by default the shipped one.")
    ] = None,
    reader: Annotated[
        Path | None, typer.Option(help="Attribute reader's folder; by default the shipped one, if it is there.")
    ] = None,
    motion_1d: Annotated[
        Path | None,
        typer.Option(
            "--motion-1d",
            help="Motion adapter for the method with 1-D attention; by default the shipped one with the shipped model.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Whose subjects: unseen_subjects to report (toy), validation to make choices by (toy-choices)."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="1 subject, 1 prompt, 1 seed, both paths.")] = False,
    subjects: Annotated[int, typer.Option(help="Subjects.")] = 4,
    prompts: Annotated[int, typer.Option(help="Prompts for each subject.")] = 2,
    seeds: Annotated[int, typer.Option(help="Noises for each prompt and path.")] = 2,
    views: Annotated[int, typer.Option(help="Views on a camera path.")] = 8,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Text guidance scale.")] = 2.0,
    reference_guidance: Annotated[
        float, typer.Option(help="Guidance by the subject's photos, of methods with FeatureNeRF; 1 is none.")
    ] = 1.5,
    training_views: Annotated[int, typer.Option(help="Views that a subject is learnt from.")] = 30,
    training: Annotated[
        str, typer.Option(help="Settings of the subject trainer: a preset's name or a yaml file.")
    ] = "toy",
    training_steps: Annotated[
        int | None, typer.Option(help="Steps of the subject trainer; by default as its settings say.", min=1)
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option(help="Folder of trainings, views and scores, to go on from; by default in the report's folder."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="By default cuda where there is one.", callback=checked_device)
    ] = None,
) -> None:
    """Compare methods on subjects the model has never seen, in a world whose geometry is known exactly.

    Every subject is learnt by the real trainer. The method, its ablations and two earlier methods generate it for new prompts
    along camera paths, from the same noise; cameras of subject and surroundings, consistency, identity, text alignment,
    repetition, time and memory are measured, and so are true renders and nonsense, to see what the numbers are worth. What is
    done is kept: an interrupted run goes on where it stopped.

    `--suite toy-choices` compares settings that the method's description leaves open, on subjects that no report uses.

    Example: `mvcustom benchmark --suite toy --quick -o out/benchmark`
    """
    import torch

    from ..evaluation.toy_suite import CHOICES, METHODS, SuiteSettings, ToySuite, write_json, write_page, write_sheets
    from ..evaluation.toy_suite.environment import environment
    from ..toy.shipped import shipped_folder
    from ..toy.splits import checked_split

    if suite not in ("toy", "toy-choices"):
        raise typer.BadParameter(f"--suite: expected toy or toy-choices, got {suite!r}")
    choosing = suite == "toy-choices"
    split = split or ("validation" if choosing else "unseen_subjects")
    if choosing and split != "validation":
        raise typer.BadParameter(f"--split: choices are made on validation, which no report uses; got {split!r}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = 64
    settings = SuiteSettings(
        split=checked_split(split),
        subjects=subjects,
        prompts=prompts,
        seeds=seeds,
        views=views,
        steps=steps,
        guidance_scale=guidance,
        reference_guidance_scale=reference_guidance,
        training_views=training_views,
        size=size,
    )
    if quick:
        settings = settings.quick()
    name, key, image_key, load_model = _model(model, device)
    attribute_reader, reader_name, reader_key = _reader(reader, device)
    motion = shipped_folder("toy-motion-1d") if motion_1d is None and model is None else motion_1d
    started = time.perf_counter()
    run = ToySuite(
        load_model,
        model_name=name,
        model_key=key,
        image_model_key=image_key,
        cells=output / "toy_benchmark_cells" if cells is None else cells,
        settings=settings,
        training_arguments=[
            *("--config", training),
            *(() if training_steps is None else ("--max_train_steps", str(training_steps))),
        ],
        reader=attribute_reader,
        reader_key=reader_key,
        methods=CHOICES if choosing else METHODS,
        one_dimensional_motion=motion,
    )
    results = run.run()
    results |= {
        "command": shlex.join(["mvcustom", *sys.argv[1:]]),
        "model": {"name": name, "key": key},
        "reader": reader_name,
        "training": training if training_steps is None else f"{training}, {training_steps} steps",
        "environment": environment(device),
    }
    report = "toy_choices" if choosing else "toy_benchmark"
    sheets = write_sheets(run, output / report)
    write_json(output / f"{report}.json", results)
    title = "Toy benchmark: settings of the method" if choosing else "Toy benchmark"
    write_page(output / f"{report}.md", results, [file.relative_to(output).as_posix() for file in sheets], title=title)
    minutes = (time.perf_counter() - started) / 60
    full = next(iter(results["methods"].values()))["numbers"]
    typer.echo(
        f"{len(results['methods'])} methods × {results['cases']} sets of {settings.views} views in {minutes:.1f} min; full: "
        f"subject RRA@15 {full['subject RRA@15']['mean']:.2f}, surroundings' camera "
        f"{full['surroundings accuracy']['mean']:.2f} → {output / report}.md"
    )


def _model(model: str | None, device: str) -> tuple[str, str, str, Callable[[], MVCustomPipeline]]:
    """The model's name for the record, its digest, that of its image model, and what loads it."""
    import torch

    from ..errors import MVCustomError
    from ..evaluation.toy_suite.cells import folder_key, image_model_key
    from ..pipelines import MVCustomPipeline
    from ..toy import random_components
    from ..toy.shipped import shipped_folder

    if model == "tiny":
        return (
            "tiny",
            "random weights",
            "random weights",
            lambda: MVCustomPipeline(**random_components("tiny")).to(device),
        )
    folder = shipped_folder("toy") if model is None else Path(model)
    if not (folder / "model_index.json").is_file():
        raise MVCustomError(f"model: expected a saved pipeline's folder (with model_index.json), got {folder}.")
    # The shipped folder's own name is what a reader of the report can find.
    name = f"models/{folder.name}" if model is None else model
    return (
        name,
        folder_key(folder),
        image_model_key(folder),
        lambda: MVCustomPipeline.from_pretrained(folder, dtype=torch.float32).to(device),
    )


def _reader(folder: Path | None, device: str) -> tuple[AttributeReader | None, str | None, str | None]:
    """The attribute reader, its name for the record and its digest; all `None` if it is not there and was not asked for."""
    from ..errors import MVCustomError
    from ..evaluation.toy_suite.cells import folder_key
    from ..toy import AttributeReader
    from ..toy.shipped import shipped_folder

    name = None if folder is None else str(folder)
    if folder is None:
        try:
            folder = shipped_folder("toy-attribute-reader")
        except MVCustomError:
            return None, None, None
        name = f"models/{folder.name}"
    if not (folder / "config.json").is_file():
        raise MVCustomError(f"reader: expected a saved AttributeReader's folder (with config.json), got {folder}.")
    return AttributeReader.from_pretrained(folder).to(device).eval(), name, folder_key(folder)
