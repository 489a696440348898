"""A subject from an arc of cameras for some prompts, with and without the hooks: what `mvcustom demo` makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import torch
from torch import Tensor

from ..cameras import Cameras
from ..data.output_folder import written_at_once
from ..errors import MVCustomError
from ..export import views_to_pil
from .labelled_sheets import LabelledViews, below, labelled_sheet, side_by_side

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline, MVCustomPipelineOutput
    from ..subjects import ReferenceViews

PROMPTS = (
    "a {token} {noun} on a beach at sunset with two trees",
    "a {token} {noun} in the snow at noon with two barrels",
)
"""What the demo asks for, in words of the toy world's captions."""

AZIMUTH, ELEVATION = (-40.0, 40.0), 20.0
"""The arc of cameras in degrees, as long as the camera paths that the shipped model's motion modules learned from."""

GUIDANCE, REFERENCE_GUIDANCE = 2.0, 1.5
"""By the text and by the photos. With text guidance alone the small model keeps the subject's shape and loses its colours."""

_KINDS = (("with-dfr-and-clc", "with DFR and CLC"), ("without", "without DFR and CLC"))
_SHEET, _ANIMATION, _README = "overview.png", "overview.gif", "README.txt"
_MILLISECONDS = 150


@dataclass(frozen=True)
class DemoSummary:
    """What a demo has made.

    Args:
        output (`Path`): Folder of all files.
        prompts (`tuple[str, ...]`): As they were asked for, the subject's token in them.
        cameras ([`Cameras`]): Of every set of views.
        steps (`int`): Denoising steps.
        seed (`int`): Of the noise, the same for all sets.
        seconds (`float`): How long it took.
    """

    output: Path
    prompts: tuple[str, ...]
    cameras: Cameras
    steps: int
    seed: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{len(self.prompts)} prompts × {len(_KINDS)} × {len(self.cameras)} views of {self.cameras.width} × "
            f"{self.cameras.height} in {self.seconds:.1f} s ({self.steps} steps, seed {self.seed}) → {self.output} "
            f"(look at {_SHEET} and {_ANIMATION}; {_README} says what the rest is)"
        )


def run_demo(
    pipe: MVCustomPipeline,
    output: Path,
    *,
    prompts: Sequence[str] = PROMPTS,
    views: int = 8,
    steps: int = 20,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> DemoSummary:
    """Generates the subject for every prompt, with the pipeline's hooks and without, from the same noise and cameras.

    Args:
        pipe ([`MVCustomPipeline`]): With an active subject, and hooks of its own (`pipe.hooks`).
        output (`Path`): Folder to write: all of it, or nothing after an error or Ctrl-C. What an earlier demo wrote there
            is replaced.
        prompts (`list[str]`): With `{token}` and `{noun}` for the subject's.
        views (`int`, defaults to 8): Cameras on the arc.
        steps (`int`, defaults to 20): Denoising steps.
        seed (`int`, defaults to 0): Of the noise. The same seed gives the same files, byte for byte, on the same machine.
        report (`Callable`): Gets a line for each set before it is generated.

    Raises:
        MVCustomError: before anything is generated, if the pipeline lacks subject or hooks, a number cannot be used, or
            the folder holds files of someone else.
    """
    started = time.perf_counter()
    if pipe.subject is None:
        raise MVCustomError("pipe: expected a pipeline with a subject, got one without; call load_subject first.")
    if not pipe.hooks:
        raise MVCustomError(
            "pipe: expected a pipeline with hooks (depth-aware feature rendering, consistent-aware latent completion), got "
            "one without. It has none by default if it has no depth model."
        )
    for name, value, least in (("views", views, 2), ("steps", steps, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise MVCustomError(f"{name}: expected a whole number of at least {least}, got {value!r}.")
    config = pipe.subject.config
    texts = tuple(prompt.format(token=config.token, noun=config.class_noun) for prompt in prompts)
    check_output(output, len(texts))
    cameras = demo_cameras(pipe, views)
    noise = _noise(pipe, cameras, seed)
    with written_at_once(output) as partial:
        sets: list[list[LabelledViews]] = []
        for number, text in enumerate(texts):
            sets.append([])
            for kind, (folder, label) in enumerate(_KINDS):
                report(f"{len(_KINDS) * number + kind + 1}/{len(_KINDS) * len(texts)} {text}, {label}")
                result = _generate(pipe, text, cameras, noise, steps, seed, hooked=kind == 0)
                result.save(partial / f"prompt-{number + 1}" / folder)
                sets[-1].append(LabelledViews(label, views_to_pil(result.frames)[0], text if kind == 0 else None))
        photos = nearest_photos(pipe.subject.references, cameras)
        _write_overviews(partial, sets, photos)
        (partial / _README).write_text(_readme(texts, cameras, steps, seed), encoding="utf-8")
    return DemoSummary(output, texts, cameras, steps, seed, time.perf_counter() - started)


def check_output(output: Path, prompts: int = len(PROMPTS)) -> None:
    """Raises if a demo must not write to this folder: only another demo's files are ever replaced.

    Raises:
        MVCustomError: naming what is there.
    """
    if output.is_dir():
        ours = {_SHEET, _ANIMATION, _README, *(f"prompt-{number + 1}" for number in range(prompts))}
        foreign = sorted(file.name for file in output.iterdir() if file.name not in ours)
        if not foreign:
            return
        there = f"holds {foreign[0]!r}" + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else "")
    elif output.exists():
        there = "is no folder"
    else:
        return
    raise MVCustomError(
        f"output: expected a folder of its own, but {output} {there}, which no demo wrote; name another."
    )


def demo_cameras(pipe: MVCustomPipeline, views: int) -> Cameras:
    """Cameras on an arc at the distance and with the lens of the subject's photos, at the model's size."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    assert pipe.subject is not None  # the demo's models have one
    like = pipe.subject.references.cameras.cover(side, side)
    return Cameras.orbit(views, azimuth=AZIMUTH, elevation=ELEVATION, like=like, height=side, width=side)


def nearest_photos(references: ReferenceViews, cameras: Cameras) -> list[PIL.Image.Image]:
    """For each camera the photo of the subject from the nearest direction, at the cameras' size."""
    directions = torch.nn.functional.normalize(cameras.centers.to(references.cameras.centers), dim=-1)
    photographed = torch.nn.functional.normalize(references.cameras.centers, dim=-1)
    nearest = (directions @ photographed.T).argmax(dim=1).tolist()
    covering = references[sorted(set(nearest))].cover(cameras.height, cameras.width)
    photos = dict(zip(sorted(set(nearest)), views_to_pil(covering.images[None])[0]))
    return [photos[index] for index in nearest]


def _noise(pipe: MVCustomPipeline, cameras: Cameras, seed: int) -> Tensor:
    """Initial noise `(1, C, N, h, w)`, drawn on the CPU so that it is the same on every device."""
    height, width = (side // pipe.vae_scale_factor for side in (cameras.height, cameras.width))
    shape = (1, pipe.unet.config.in_channels, len(cameras), height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pipe.unet.device, pipe.unet.dtype)


def _generate(
    pipe: MVCustomPipeline, text: str, cameras: Cameras, noise: Tensor, steps: int, seed: int, *, hooked: bool
) -> MVCustomPipelineOutput:
    return pipe(
        text,
        cameras=cameras,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        reference_guidance_scale=REFERENCE_GUIDANCE,
        hooks=None if hooked else [],
        latents=noise.clone(),
        generator=torch.Generator().manual_seed(seed),
    )


def _write_overviews(folder: Path, sets: list[list[LabelledViews]], photos: list[PIL.Image.Image]) -> None:
    of_subject = LabelledViews("photos of the subject, each from the direction nearest to the camera below", photos)
    labelled_sheet([of_subject, *(row for kinds in sets for row in kinds)]).save(folder / _SHEET)
    animations = []
    for kinds in sets:
        photo = LabelledViews("photo", photos, kinds[0].heading)
        animations.append(side_by_side([photo, *kinds]))
    frames = [below(parts) for parts in zip(*animations)]
    frames += frames[-2:0:-1]  # and back, as the arc is not closed
    frames[0].save(folder / _ANIMATION, save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)


def _readme(texts: Sequence[str], cameras: Cameras, steps: int, seed: int) -> str:
    prompts = [f"prompt-{number + 1}/  {text}" for number, text in enumerate(texts)]
    return "\n".join(
        [
            "One subject, seen from cameras on an arc, in surroundings that prompts describe.",
            "",
            f"{_SHEET}  photos of the subject, then all views; {_ANIMATION}  the same, moving",
            *prompts,
            "",
            "In each of these folders:",
            "  with-dfr-and-clc/  with depth-aware feature rendering and consistent-aware latent completion",
            "  without/           from the same noise, without them",
            "",
            "In each of those: images/, views.gif, contact_sheet.png; cameras in transforms.json (nerfstudio) and sparse/0/",
            "(COLMAP); with the hooks also points.ply, the points that the anchor's depth gives.",
            "",
            f"{len(cameras)} views of {cameras.width} x {cameras.height}, azimuth {AZIMUTH[0]:g} to {AZIMUTH[1]:g} degrees, "
            f"elevation {ELEVATION:g} degrees, {steps} steps, seed {seed}.",
            "",
        ]
    )
