"""What the suite asks for: unseen subjects, prompts with new surroundings, camera paths, seeds. All drawn from numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...cameras import Cameras
from ...cameras.trajectories import ViewOptions
from ...errors import MVCustomError
from ...toy import Scene, SceneAttributes, build_scene, describe
from ...toy.attributes import GROUNDS, MAX_OBJECTS, OBJECTS, TIMES, Chooser
from ...toy.scene import FIELD_OF_VIEW
from ...toy.splits import Split, checked_split, sample_attributes, scene_seed

TOKEN = "<subject>"
PATHS = ("rotation", "translation")
TRAINING_GROUND, TRAINING_TIME = "asphalt", "noon"
"""Where the training views of every subject are taken: plain, and never what a prompt asks for."""

_PROMPT_SEEDS = 50_000_000
"""Seeds of the prompts' surroundings begin here, beyond those of the world's own scenes."""


@dataclass(frozen=True)
class SuiteSettings:
    """How large the benchmark is and how it generates.

    Args:
        split (`str`): Whose subjects: `unseen_subjects` for reports, `validation` for choices made while building.
        subjects (`int`): How many of them, from the split's first on.
        prompts (`int`): Prompts a subject.
        seeds (`int`): Noises a prompt and path.
        paths (`tuple` of `str`): Camera paths, of [`PATHS`].
        views (`int`): Views on a path.
        steps (`int`): Denoising steps.
        guidance_scale (`float`): Text guidance.
        reference_guidance_scale (`float`, *optional*): Guidance by the subject's photos, of methods with FeatureNeRF.
        training_views (`int`): Views that a subject is learnt from.
        size (`int`): Side of the views in pixels.
    """

    split: Split = "unseen_subjects"
    subjects: int = 4
    prompts: int = 2
    seeds: int = 2
    paths: tuple[str, ...] = PATHS
    views: int = 8
    steps: int = 25
    guidance_scale: float = 2.0
    reference_guidance_scale: float | None = 1.5
    training_views: int = 30
    size: int = 64

    def __post_init__(self) -> None:
        checked_split(self.split)
        least = {"subjects": 1, "prompts": 1, "seeds": 1, "views": 4, "steps": 1, "training_views": 3, "size": 16}
        for name, value in least.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < value:
                raise MVCustomError(f"{name}: expected a whole number of at least {value}, got {given!r}.")
        if not self.paths or set(self.paths) - set(PATHS) or len(set(self.paths)) != len(self.paths):
            raise MVCustomError(f"paths: expected some of {PATHS}, each once, got {self.paths!r}.")

    def quick(self) -> SuiteSettings:
        """One subject, one prompt, one seed, all paths."""
        return replace(self, subjects=1, prompts=1, seeds=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "paths": list(self.paths)}


@dataclass(frozen=True)
class ToySubject:
    """One subject of a split: what it looks like, and its seed, which is its identity."""

    split: Split
    index: int

    @property
    def attributes(self) -> SceneAttributes:
        """Those of its own scene. The subject's are its; the surroundings' are replaced."""
        return sample_attributes(self.split, self.index)

    @property
    def seed(self) -> int:
        """The subject's identity."""
        return scene_seed(self.split, self.index)

    def training_scene(self) -> Scene:
        """The subject alone on [`TRAINING_GROUND`]."""
        alone = replace(self.attributes, ground=TRAINING_GROUND, time=TRAINING_TIME, object_count=0)
        return build_scene(alone, subject_seed=self.seed, surroundings_seed=self.seed)

    def training_cameras(self, count: int, size: int) -> Cameras:
        """Cameras all around at changing heights and distances; the farthest is at distance 1."""
        choose = Chooser(31 * self.seed + 5)
        start = choose.uniform(0.0, 360.0)
        cameras = []
        for i in range(count):
            azimuth = start + 360.0 * (i + choose.uniform(-0.3, 0.3)) / count
            cameras.append(
                Cameras.orbit(
                    1,
                    azimuth=(azimuth, azimuth),
                    elevation=choose.uniform(6.0, 40.0),
                    radius=1.0 if i == 0 else choose.uniform(0.82, 1.0),
                    field_of_view=FIELD_OF_VIEW,
                    height=size,
                    width=size,
                )
            )
        return Cameras.cat(cameras)


@dataclass(frozen=True)
class Case:
    """One generation that is asked for, by whatever method.

    Args:
        subject ([`ToySubject`]): Whom.
        prompt_index (`int`): Which of the subject's prompts.
        path (`str`): Which camera path, of [`PATHS`].
        seed (`int`): Of the noise.
        views (`int`), size (`int`): Number and side of the views.
    """

    subject: ToySubject
    prompt_index: int
    path: str
    seed: int
    views: int
    size: int

    @property
    def name(self) -> str:
        """Short and unique within a run: `subject 0, prompt 1, rotation, seed 0`."""
        return f"subject {self.subject.index}, prompt {self.prompt_index}, {self.path}, seed {self.seed}"

    @property
    def attributes(self) -> SceneAttributes:
        """The subject in the surroundings that the prompt names, which are not those it was learnt in."""
        choose = Chooser(_PROMPT_SEEDS + 1000 * self.subject.seed + self.prompt_index)
        return replace(
            self.subject.attributes,
            ground=choose.choice([ground for ground in GROUNDS if ground != TRAINING_GROUND]),
            time=choose.choice(TIMES),
            objects=choose.choice(OBJECTS),
            object_count=choose.integer(1, MAX_OBJECTS),
        )

    @property
    def prompt(self) -> str:
        """With the subject's token in the place of what it looks like."""
        return describe(self.attributes, token=TOKEN)

    def true_scene(self, variant: int = 0) -> Scene:
        """A scene as the prompt says, with the true subject; every `variant` has other surroundings."""
        seed = _PROMPT_SEEDS + 1000 * self.subject.seed + self.prompt_index + 7_000_003 * variant
        return build_scene(self.attributes, subject_seed=self.subject.seed, surroundings_seed=seed)

    def known_scene(self) -> Scene:
        """What is known of the scene without looking at a picture: the subject on its ground under the sky."""
        return replace(self.true_scene(), objects=())

    def cameras(self) -> Cameras:
        """The target cameras: an arc of 90° around the subject, or 0.4 sideways past it."""
        choose = Chooser(_PROMPT_SEEDS + 1000 * self.subject.seed + 17 * self.prompt_index + PATHS.index(self.path))
        azimuth, elevation = choose.uniform(0.0, 360.0), choose.uniform(12.0, 30.0)
        rotation = self.path == "rotation"
        view: ViewOptions = {
            "radius": 0.95 if rotation else 1.05,
            "field_of_view": FIELD_OF_VIEW,
            "height": self.size,
            "width": self.size,
        }
        if rotation:
            return Cameras.orbit(self.views, azimuth=(azimuth - 45.0, azimuth + 45.0), elevation=elevation, **view)
        return Cameras.translate(self.views, offset=(0.4, 0.0, 0.0), azimuth=azimuth, elevation=elevation, **view)


def subjects_of(settings: SuiteSettings) -> list[ToySubject]:
    """The subjects of a run, of different categories as long as there are any left.

    Example:

        >>> from diffusers_mvcustom.evaluation.toy_suite.cases import SuiteSettings, subjects_of
        >>> subjects = subjects_of(SuiteSettings(subjects=4))
        >>> len({subject.attributes.category for subject in subjects})
        4
    """
    chosen: list[ToySubject] = []
    counts: dict[str, int] = {}
    index = 0
    while len(chosen) < settings.subjects:
        subject = ToySubject(settings.split, index)
        category = subject.attributes.category
        if counts.get(category, 0) <= len(chosen) // 8:
            counts[category] = counts.get(category, 0) + 1
            chosen.append(subject)
        index += 1
    return chosen


def cases_of(settings: SuiteSettings, subject: ToySubject) -> Iterator[Case]:
    """All cases of a subject."""
    for prompt_index in range(settings.prompts):
        for path in settings.paths:
            for seed in range(settings.seeds):
                yield Case(subject, prompt_index, path, seed, settings.views, settings.size)
