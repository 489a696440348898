"""Sheets of views for a look: all methods, one below the other, beside the true renders."""

from __future__ import annotations

import os
from pathlib import Path

import PIL.Image
from torch import Tensor

from ...toy.labelled_sheets import LabelledViews, labelled_sheet
from .cases import Case
from .controls import true_views
from .suite import ToySuite, cases_shown


def write_sheets(suite: ToySuite, folder: Path) -> list[Path]:
    """Writes a sheet of every subject and path of a finished run, and returns the files.

    Args:
        suite ([`ToySuite`]): That has run.
        folder (`Path`): Where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for case in cases_shown(suite.settings):
        file = folder / f"subject-{case.subject.index}-{case.path}.jpg"
        temporary = folder / f".{file.name}"
        _sheet(suite, case).save(temporary, format="JPEG", quality=88)
        os.replace(temporary, file)
        files.append(file)
    return files


def _sheet(suite: ToySuite, case: Case) -> PIL.Image.Image:
    rows = [LabelledViews("true renders of such a scene", _pictures(true_views(case)), case.prompt)]
    rows += [LabelledViews(method.title, _pictures(suite.views(case, method))) for method in suite.methods]
    return labelled_sheet(rows)


def _pictures(images: Tensor) -> list[PIL.Image.Image]:
    pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [PIL.Image.fromarray(view) for view in pixels]
