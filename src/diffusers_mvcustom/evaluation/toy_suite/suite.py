"""The run: subjects are trained, every method generates every case, everything is scored and reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from diffusers import MotionAdapter
from torch import Tensor
from tqdm.auto import tqdm

from ...errors import MVCustomError
from ...toy import AttributeReader
from .cases import Case, SuiteSettings, ToySubject, cases_of, subjects_of
from .cells import Cells, folder_key, load_images, save_images
from .controls import CONTROLS
from .methods import GENERATION_VERSION, METHODS, Method, SubjectKind, generate
from .peak_memory import Cost
from .scores import SCORES_VERSION, Ruler, ViewScores, mean_and_spread, summarized
from .subject_training import SubjectTrainings

if TYPE_CHECKING:
    from ...pipelines import MVCustomPipeline

_KINDS: tuple[SubjectKind, ...] = ("pose-conditioned", "lora")


class ToySuite:
    """One run of the benchmark on one model.

    Args:
        load_model (`Callable[[], MVCustomPipeline]`): Gives a fresh pipeline without a subject, where it is to run.
        model_name (`str`), model_key (`str`): The model's name for the record, and what tells models apart.
        image_model_key (`str`, *optional*): What tells models without their motion modules apart, which are off while a
            subject is trained: where it is the same, trained subjects are taken again. `model_key` if not given.
        cells (`Path`): Folder of results, each kept under what it depends on: a run that was interrupted, or one with
            more subjects or seeds, takes what is there.
        settings ([`SuiteSettings`]): How large it is.
        training_arguments (`list[str]`): Settings of the subject trainer, as its command line has them.
        reader ([`AttributeReader`], *optional*), reader_key (`str`, *optional*): Reads attributes off views.
        methods (`tuple` of [`Method`], *optional*): What is compared.
        one_dimensional_motion (`Path`, *optional*): Motion adapter for methods with 1-D attention, trained with it.
    """

    def __init__(
        self,
        load_model: Callable[[], MVCustomPipeline],
        *,
        model_name: str,
        model_key: str,
        cells: Path,
        settings: SuiteSettings,
        training_arguments: list[str],
        reader: AttributeReader | None = None,
        reader_key: str | None = None,
        methods: tuple[Method, ...] = METHODS,
        one_dimensional_motion: Path | None = None,
        image_model_key: str | None = None,
    ) -> None:
        self.load_model, self.model_key, self.settings, self.methods = load_model, model_key, settings, methods
        self.cells = Cells(cells)
        self.reader_key = reader_key
        self.ruler = Ruler(reader)
        self._motion, self._motion_key = None, None
        if one_dimensional_motion is not None:
            self._motion_key = folder_key(one_dimensional_motion)
            self._motion = MotionAdapter.from_pretrained(one_dimensional_motion, torch_dtype=torch.float32)
        self._pipe: MVCustomPipeline | None = None
        self._loaded: ToySubject | None = None
        self.trainings = SubjectTrainings(
            self.cells, load_model, model_name, image_model_key or model_key, settings, training_arguments
        )

    def run(self, progress: Callable[[Iterable], Iterable] | None = None) -> dict[str, Any]:
        """Does what is not done yet and returns the results.

        Args:
            progress (`Callable`, *optional*): Wraps the list of things to do; a progress bar by default.

        Returns:
            `dict` of what JSON holds: `methods`, `controls` and `trainings` by title, `cases` (how many), what the
            spread is over (seeds; subjects where there is one seed), and `settings`.
        """
        subjects = subjects_of(self.settings)
        scores: dict[str, dict[Case, ViewScores]] = {title: {} for title in self._titles()}
        costs: dict[str, dict[Case, Cost]] = {method.title: {} for method in self.methods}
        work = self._work(subjects)
        for subject, case, what in (
            tqdm(work, desc="toy benchmark", unit="cell") if progress is None else progress(work)
        ):
            if case is None:
                self.trainings.folder(subject, what)
            elif isinstance(what, str):
                scores[what][case] = self._scored({"control": what, "case": _plain(case)}, case, CONTROLS[what])
            else:
                scores[what.title][case], costs[what.title][case] = self._generated(case, what)
        return {
            "settings": self.settings.to_dict(),
            "cases": len(next(iter(scores.values()))),
            "spread over": "seeds" if self.settings.seeds > 1 else "subjects",
            "methods": {
                method.title: {
                    **self._row(scores[method.title], costs[method.title]),
                    "how": method.to_dict(),
                    "failures": {
                        case.name: one.error for case, one in scores[method.title].items() if one.error is not None
                    },
                }
                for method in self.methods
            },
            "controls": {title: self._row(scores[title], None) for title in CONTROLS},
            "trainings": {kind: self._training_costs(subjects, kind) for kind in self._kinds()},
        }

    def views(self, case: Case, method: Method) -> Tensor:
        """The views `(N, 3, S, S)` that a finished run made of a case; black where the method failed."""
        folder = self.cells.place("views", self._content(case, method))
        if (folder / "views.png").is_file():
            return load_images(folder)
        if folder.is_dir():
            return torch.full((case.views, 3, case.size, case.size), 0.0)
        raise MVCustomError(f"case: {case.name} has not been generated by {method.title!r} yet; run the suite first.")

    # --- what there is to do ---

    def _kinds(self) -> list[SubjectKind]:
        return [kind for kind in _KINDS if any(method.subject == kind for method in self.methods)]

    def _titles(self) -> list[str]:
        return [*(method.title for method in self.methods), *CONTROLS]

    def _work(self, subjects: list[ToySubject]) -> list[tuple[ToySubject, Case | None, Method | str]]:
        """In order: a subject's trainings, then each of its cases by all methods and as all controls."""
        work: list[tuple[ToySubject, Case | None, Method | str]] = []
        everything: list[Method | str] = [*self.methods, *CONTROLS]
        for subject in subjects:
            work += [(subject, None, kind) for kind in self._kinds()]
            for case in cases_of(self.settings, subject):
                work += [(subject, case, what) for what in everything]
        return work

    def _pipeline(self, subject: ToySubject) -> MVCustomPipeline:
        """The model with a subject's trainings loaded; kept until the next subject."""
        if self._pipe is None or self._loaded != subject:
            self._pipe, self._loaded = None, None  # frees memory first
            self._pipe = self.load_model()
            self._pipe.set_progress_bar_config(disable=True)
            for kind in self._kinds():
                self._pipe.load_subject(self.trainings.folder(subject, kind), adapter_name=kind)
            self._loaded = subject
        return self._pipe

    # --- cells ---

    def _content(self, case: Case, method: Method) -> dict[str, Any]:
        names = ("steps", "guidance_scale", "reference_guidance_scale")
        settings = {name: getattr(self.settings, name) for name in names}
        motion = {"motion": self._motion_key} if method.one_dimensional and self._motion_key else {}
        return {
            **motion,
            "model": self.model_key,
            "subject": self.trainings.content(case.subject, method.subject),
            "case": _plain(case),
            "method": {name: value for name, value in method.to_dict().items() if name != "title"},
            "settings": settings,
            "generation": GENERATION_VERSION,
        }

    def _generated(self, case: Case, method: Method) -> tuple[ViewScores, Cost]:
        """A method's scores of a case, and what generating it took."""
        content = self._content(case, method)

        def make(folder: Path) -> None:
            generated = generate(self._pipeline(case.subject), method, case, self.settings, self._motion)
            if generated.images is not None:
                save_images(folder, generated.images)
            values = {**asdict(generated.cost), "error": generated.error}
            (folder / "generated.json").write_text(json.dumps(values) + "\n", encoding="utf-8")

        folder = self.cells.get("views", content, make)
        values = json.loads((folder / "generated.json").read_text(encoding="utf-8"))
        error = values.pop("error")
        if error is not None:
            return ViewScores.worst(case, error, reader=self.ruler.reader is not None), Cost(**values)
        return self._scored(content, case, lambda _: load_images(folder)), Cost(**values)

    def _scored(self, content: dict[str, Any], case: Case, images: Callable[[Case], Tensor]) -> ViewScores:
        """Scores of views that depend on `content`."""
        key = {**content, "scores": SCORES_VERSION, "reader": self.reader_key}

        def make(folder: Path) -> None:
            values = self.ruler.score(images(case), case).to_dict()
            (folder / "scores.json").write_text(json.dumps(values, allow_nan=False) + "\n", encoding="utf-8")

        folder = self.cells.get("scores", key, make)
        return ViewScores(**json.loads((folder / "scores.json").read_text(encoding="utf-8")))

    # --- numbers ---

    def _row(self, scores: dict[Case, ViewScores], costs: dict[Case, Cost] | None) -> dict[str, Any]:
        by_path = {
            path: {"numbers": self._numbers({c: s for c, s in scores.items() if c.path == path}, costs)}
            for path in self.settings.paths
        }
        each = {case.name: one.to_dict() for case, one in scores.items()}
        return {"numbers": self._numbers(scores, costs), "paths": by_path, "each": each}

    def _numbers(self, scores: dict[Case, ViewScores], costs: dict[Case, Cost] | None) -> dict[str, Any]:
        def summary(cases: list[Case]) -> dict[str, float | None]:
            numbers = summarized([scores[case] for case in cases])
            if costs is not None:
                numbers["seconds"] = mean(costs[case].seconds for case in cases)
                numbers["peak GiB"] = max(costs[case].peak_gib for case in cases)
            return numbers

        seeds = range(self.settings.seeds)
        numbers = mean_and_spread([summary([case for case in scores if case.seed == seed]) for seed in seeds])
        if len(seeds) > 1:
            return numbers
        subjects = list(dict.fromkeys(case.subject for case in scores))
        by_subject = mean_and_spread([summary([case for case in scores if case.subject == one]) for one in subjects])
        return {name: {"mean": numbers[name]["mean"], "spread": by_subject[name]["spread"]} for name in numbers}

    def _training_costs(self, subjects: list[ToySubject], kind: SubjectKind) -> dict[str, Any]:
        costs = [self.trainings.cost(subject, kind) for subject in subjects]
        return {
            title: {
                "mean": mean(cost[name] for cost in costs),
                "spread": stdev(cost[name] for cost in costs) if len(costs) > 1 else None,
            }
            for title, name in (("seconds", "seconds"), ("peak GiB", "peak_gib"))
        }


def cases_shown(settings: SuiteSettings) -> Iterator[Case]:
    """One case of every subject and path: those whose views are worth a look."""
    for subject in subjects_of(settings):
        yield from (case for case in cases_of(settings, subject) if case.prompt_index == 0 and case.seed == 0)


def _plain(case: Case) -> dict[str, Any]:
    values = asdict(case)
    poses = case.cameras().camera_to_world.double().round(decimals=6).tolist()
    return {**values, "prompt": case.prompt, "poses": poses}
