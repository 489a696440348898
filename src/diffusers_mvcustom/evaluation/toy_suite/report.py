"""The benchmark's results as JSON, as a page of tables, and as sheets of views."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

COLUMNS: dict[str, tuple[str, int]] = {
    "subject RRA@15": ("subject RRA@15 ↑", 2),
    "subject degrees": ("subject, median ° ↓", 1),
    "surroundings accuracy": ("surroundings' camera ↑", 2),
    "surroundings error": ("surroundings, median error ↓", 2),
    "consistency": ("consistency ↑", 3),
    "identity ssim": ("identity SSIM ↑", 3),
    "identity psnr": ("identity dB ↑", 1),
    "text": ("text ↑", 2),
    "repetition": ("repetition ↓", 3),
    "seconds": ("seconds ↓", 1),
    "peak GiB": ("peak GiB ↓", 2),
}
"""The columns of the main table: name in the JSON, heading, decimals."""

_PATH_COLUMNS = (
    "subject RRA@15",
    "subject degrees",
    "surroundings accuracy",
    "surroundings error",
    "consistency",
    "identity ssim",
    "repetition",
)


def write_json(file: Path, results: dict[str, Any]) -> None:
    """Writes results; numbers that are not finite are refused."""
    _write(file, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_page(file: Path, results: dict[str, Any], sheets: list[str], *, title: str = "Toy benchmark") -> None:
    """Writes the page of a run's results.

    Args:
        file (`Path`): Where.
        results (`dict`): As [`run_toy_suite`] returns them.
        sheets (`list[str]`): Paths of sheets to show, as the page has to name them.
        title (`str`): Its heading.
    """
    _write(file, "\n".join([f"# {title}", *_page(results, sheets, numbers=file.with_suffix(".json").name)]))


def _page(results: dict[str, Any], sheets: list[str], numbers: str) -> list[str]:
    settings, ran = results["settings"], results["environment"]
    cases = results["cases"]
    lines = [
        "",
        "What each method makes of subjects that the model has never seen, on exact ground truth. "
        "[toy_benchmark_method.md](toy_benchmark_method.md) says what the columns mean and what they score on true "
        f"renders and on nonsense. `↑`: more is better. ± is the standard deviation over {results['spread over']}.",
        "",
        f"{settings['subjects']} subjects of the split `{settings['split']}`, {settings['prompts']} prompts each, "
        f"{len(settings['paths'])} camera paths ({', '.join(settings['paths'])}), {settings['seeds']} seeds: {cases} "
        f"sets of {settings['views']} views a method. {settings['steps']} steps, guidance "
        f"{settings['guidance_scale']:g} by text and {settings['reference_guidance_scale'] or 'none'} by references.",
        "",
        *_table(results["methods"], list(COLUMNS)),
        "",
        f"Failed generations: {_failures(results['methods'])}. They count as the worst value in every column.",
        "",
        "## What the columns score on true renders and on nonsense",
        "",
        *_table(results["controls"], [name for name in COLUMNS if name not in ("seconds", "peak GiB")]),
        "",
    ]
    for path in settings["paths"]:
        both = {**results["methods"], "true renders": results["controls"]["true renders"]}
        by_path = {title: rows["paths"][path] for title, rows in both.items()}
        lines += [f"## {path.capitalize()} alone", "", *_table(by_path, list(_PATH_COLUMNS)), ""]
    lines += [
        "## Training of the subjects",
        "",
        "| learnt | seconds | peak GiB |",
        "|---|---|---|",
        *(
            f"| {kind} | {_number(values['seconds'], 1)} | {_number(values['peak GiB'], 2)} |"
            for kind, values in results["trainings"].items()
        ),
        "",
    ]
    if sheets:
        lines += ["## Views", ""]
        lines += [f"![{Path(sheet).stem}]({sheet})\n" for sheet in sheets]
    reader = results["reader"] or "none, so there is no text alignment"
    lines += [
        "## How it was made",
        "",
        f"`{results['command']}` on {ran['device']}; torch {ran['torch']}, diffusers {ran['diffusers']}, transformers "
        f"{ran['transformers']}, diffusers-mvcustom {ran['diffusers-mvcustom']}, commit {ran['commit']}; model "
        f"`{results['model']['name']}` ({results['model']['key']}); subjects trained with the settings "
        f"{results['training']}; attribute reader: {reader}. Every number, and those of every case, is in "
        f"[{numbers}]({numbers}).",
        "",
    ]
    return lines


def _table(rows: dict[str, Any], names: list[str]) -> list[str]:
    """A markdown table of rows `{title: {"numbers": {name: {"mean", "spread"}}}}`."""
    headings = [COLUMNS[name][0] for name in names]
    lines = ["| | " + " | ".join(headings) + " |", "|---|" + "---|" * len(headings)]
    for title, row in rows.items():
        cells = [_number(row["numbers"].get(name), COLUMNS[name][1]) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _number(value: dict[str, float | None] | None, decimals: int) -> str:
    if value is None or value["mean"] is None:
        return "missing"
    text = f"{value['mean']:.{decimals}f}"
    return text if value["spread"] is None else f"{text} ± {value['spread']:.{decimals}f}"


def _failures(rows: dict[str, Any]) -> str:
    failed = {title: len(row["failures"]) for title, row in rows.items() if row["failures"]}
    return ", ".join(f"{count} ({title})" for title, count in failed.items()) or "none"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)
