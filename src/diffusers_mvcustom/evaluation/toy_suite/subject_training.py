"""Training of the suite's subjects with the real trainer, on views of the toy world."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cameras import SubjectFrame
from ...data.manifest import MANIFEST_NAME, SUBJECT_KEY, SubjectRecord
from ...subjects import ReferenceViews
from ...toy import describe, render
from ...toy.attributes import Chooser
from .cases import TOKEN, SuiteSettings, ToySubject
from .cells import Cells
from .methods import SubjectKind
from .peak_memory import measured

if TYPE_CHECKING:
    from ...pipelines import MVCustomPipeline
    from ...training import SubjectTrainingConfig

_PLACES = ("model", "data", "output_dir", "resume_from_checkpoint")
"""Settings that say where things lie, not what they are."""


def write_training_views(folder: Path, subject: ToySubject, count: int, size: int) -> None:
    """Writes a prepared subject dataset: posed, masked and captioned views of a subject in its own surroundings.

    Args:
        folder (`Path`): Where to write.
        subject ([`ToySubject`]): Whose views.
        count (`int`): How many.
        size (`int`): Their side in pixels.
    """
    scene = subject.training_scene()
    views = render(scene, subject.training_cameras(count, size))
    captions = [describe(scene.attributes, Chooser(i), token="{token}", completeness=0.9) for i in range(count)]
    ReferenceViews(views.images, views.cameras, views.masks, captions=captions).save(folder)
    file = folder / MANIFEST_NAME
    content = json.loads(file.read_text(encoding="utf-8"))
    record = SubjectRecord(SubjectFrame.identity(), subject.attributes.category, TOKEN)
    file.write_text(json.dumps({SUBJECT_KEY: record.to_dict(), **content}, indent=1) + "\n", encoding="utf-8")


class SubjectTrainings:
    """Trains subjects, each once: a result that is there is taken, an interrupted training goes on.

    Args:
        cells ([`Cells`]): Where results lie.
        load_model (`Callable[[], MVCustomPipeline]`): Gives a fresh pipeline without a subject.
        model_name (`str`), model_key (`str`): The model's name for the record, and what tells models apart; motion modules,
            which are off while a subject is trained, need not count.
        settings ([`SuiteSettings`]): Number and size of the training views.
        arguments (`list[str]`): The trainer's settings as its command line has them, such as `["--config", "toy"]`.
    """

    def __init__(
        self,
        cells: Cells,
        load_model: Callable[[], MVCustomPipeline],
        model_name: str,
        model_key: str,
        settings: SuiteSettings,
        arguments: list[str],
    ) -> None:
        self.cells, self.load_model = cells, load_model
        self.model_name, self.model_key = model_name, model_key
        self.settings, self.arguments = settings, arguments
        self._contents: dict[tuple[ToySubject, SubjectKind], dict[str, Any]] = {}

    def content(self, subject: ToySubject, kind: SubjectKind) -> dict[str, Any]:
        """Everything a trained subject depends on."""
        if (subject, kind) not in self._contents:
            config = asdict(self.config(subject, kind, Path("data"), Path("out")))
            self._contents[subject, kind] = {
                "model": self.model_key,
                "split": subject.split,
                "index": subject.index,
                "views": self.settings.training_views,
                "size": self.settings.size,
                "kind": kind,
                "settings": {name: value for name, value in config.items() if name not in _PLACES},
            }
        return self._contents[subject, kind]

    def config(self, subject: ToySubject, kind: SubjectKind, data: Path, output: Path) -> SubjectTrainingConfig:
        """The trainer's settings for a subject."""
        from ...training import SubjectTrainingConfig
        from ...training.command_line import parse_settings

        own = {
            "model": self.model_name,
            "data": data,
            "output_dir": output,
            "token": TOKEN,
            "class_noun": subject.attributes.category,
            "resume_from_checkpoint": "latest",
            "report_to": "none",
            "num_validation_views": 0,
        }
        arguments = [*self.arguments, *(f"--{name}={value}" for name, value in own.items())]
        if kind == "lora":
            arguments.append("--train_feature_nerf=false")
        return parse_settings(
            SubjectTrainingConfig,
            arguments,
            program="mvcustom benchmark",
            description="Settings of the subject trainer.",
            epilog="",
        )

    def folder(self, subject: ToySubject, kind: SubjectKind) -> Path:
        """The folder of a trained subject, for `load_subject`; trains it if it is not there."""
        return self._cell(subject, kind) / "subject"

    def cost(self, subject: ToySubject, kind: SubjectKind) -> dict[str, float]:
        """Seconds and peak memory of a training, in GiB; of its last part only, if it was interrupted."""
        return json.loads((self._cell(subject, kind) / "cost.json").read_text(encoding="utf-8"))

    def _cell(self, subject: ToySubject, kind: SubjectKind) -> Path:
        content = self.content(subject, kind)
        # Outside of the cell, so that what an interrupted training has done stays.
        work = self.cells.folder / f"training-{self.cells.place(kind, content).name}"

        def make(partial: Path) -> None:
            from ...training import SubjectTrainer

            data = work / "views"
            if not data.is_dir():
                fresh = work / "views.partial"
                shutil.rmtree(fresh, ignore_errors=True)
                write_training_views(fresh, subject, self.settings.training_views, self.settings.size)
                os.rename(fresh, data)
            pipe = self.load_model()
            config = self.config(subject, kind, data, work / "training")
            with measured(pipe.unet.device) as cost:
                result = SubjectTrainer(config, pipe, command="mvcustom benchmark --suite toy").train()
            shutil.copytree(result, partial / "subject")
            values = {"seconds": cost.seconds, "peak_gib": cost.peak_gib}
            (partial / "cost.json").write_text(json.dumps(values) + "\n", encoding="utf-8")

        cell = self.cells.get(kind, content, make)
        shutil.rmtree(work, ignore_errors=True)
        return cell
