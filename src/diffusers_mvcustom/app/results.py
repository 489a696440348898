"""What a run of the app has made, on disk: pictures to look at, and everything in one archive."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..export import save_animation, views_to_pil
from ..files.whole import replaced_file

if TYPE_CHECKING:
    import PIL.Image

    from ..pipelines import MVCustomPipelineOutput


@dataclass(frozen=True)
class ViewSet:
    """One set of views.

    Args:
        label (`str`): How it was made.
        output ([`MVCustomPipelineOutput`]): Views, cameras, geometry.
        animation (`Path`): The views as a moving WebP.
    """

    label: str
    output: MVCustomPipelineOutput
    animation: Path

    @property
    def views(self) -> list[PIL.Image.Image]:
        """The views as images."""
        return views_to_pil(self.output.frames)[0]

    @property
    def folder_name(self) -> str:
        """The set's folder in the archive."""
        return "".join(c if c.isalnum() else "-" for c in self.label.lower()).strip("-")


@dataclass(frozen=True)
class Results:
    """The sets of one run, and the archive of all of them.

    Args:
        sets (`tuple` of [`ViewSet`]): In the order in which they were made.
        archive (`Path`): A .zip: a folder per set as [`save_views`] writes it, and `settings.json`.
        summary (`str`): One line.
    """

    sets: tuple[ViewSet, ...]
    archive: Path
    summary: str


def write_results(
    folder: Path,
    outputs: dict[str, MVCustomPipelineOutput],
    settings: dict[str, Any],
    *,
    summary: str,
    fps: int = 8,
    frame: str = "subject",
) -> Results:
    """Writes what a run has made into a folder of its own.

    Args:
        folder (`Path`): A folder that is not there yet.
        outputs (`dict`): The pipeline's outputs, each with one set of views, by label.
        settings (`dict`): What they were made with, as plain JSON values.
        summary (`str`): One line.
        fps (`int`, defaults to 8): Views a second.
        frame (`str`, defaults to `"subject"`): World of the archive's cameras and points, see
            [`MVCustomPipelineOutput.save`].

    Raises:
        MVCustomError: if `frame` is the user's and the views have no subject. Nothing is left of the folder then.
    """
    folder.mkdir(parents=True)
    try:
        sets = []
        for number, (label, output) in enumerate(outputs.items()):
            animation = folder / f"{number}.webp"
            save_animation(animation, views_to_pil(output.frames)[0], fps)
            sets.append(ViewSet(label, output, animation))
        everything = folder / "everything"
        for view_set in sets:
            view_set.output.save(everything / view_set.folder_name, fps, frame=frame)
        text = json.dumps({**settings, "frame": frame}, indent=2, ensure_ascii=False)
        (everything / "settings.json").write_text(text + "\n", encoding="utf-8")
        archive = folder / "views.zip"
        with replaced_file(archive) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(everything.rglob("*")):
                if file.is_file():
                    packed.write(file, os.path.relpath(file, everything))
        shutil.rmtree(everything)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Results(tuple(sets), archive, summary)
