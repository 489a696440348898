"""One loaded model, and what people ask of it: the app without its browser."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..cameras import Cameras
from ..errors import MVCustomError
from .camera_paths import CameraPath
from .results import Results, write_results

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline, MVCustomPipelineOutput

_KEPT_RUNS = 8
"""Runs whose files are kept; those of older ones are deleted."""

_PREVIEW_VIEWS, _PREVIEW_STEPS = 3, 8

Progress = Callable[[float, str], None]
"""Told what share of a run is done, and what is being done."""


class Cancelled(Exception):
    """The run was cancelled by whom it was made for."""


@dataclass(frozen=True)
class Order:
    """What to generate.

    Args:
        prompt (`str`): With a subject it names the subject's token.
        path ([`CameraPath`]): The target cameras.
        negative_prompt (`str`): What to keep away from.
        height (`int`, *optional*), width (`int`, *optional*): Size of the views, by default the model's.
        steps (`int`): Denoising steps.
        guidance_scale (`float`): Text guidance.
        reference_guidance_scale (`float`, *optional*): Guidance by the subject's photos; without it there is none.
        seed (`int`): Of the noise.
        dfr (`bool`), clc (`bool`): Depth-aware feature rendering and consistent-aware latent completion.
        compare (`bool`): Whether to generate a second set, from the same noise, without either.
        frame (`str`): World of the written cameras and points: `"subject"` or `"user"`.
    """

    prompt: str
    path: CameraPath = CameraPath()  # noqa: RUF009  (frozen)
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    steps: int = 25
    guidance_scale: float = 5.0
    reference_guidance_scale: float | None = None
    seed: int = 0
    dfr: bool = True
    clc: bool = True
    compare: bool = False
    frame: str = "subject"

    def preview(self) -> Order:
        """A quick look at the same: few views and steps, without hooks."""
        views, steps = min(_PREVIEW_VIEWS, self.path.views), min(_PREVIEW_STEPS, self.steps)
        path = replace(self.path, views=views)
        return replace(self, path=path, steps=steps, dfr=False, clc=False, compare=False)


class Workshop:
    """Holds one pipeline, generates one order at a time, and cancels it when told to.

    Args:
        device (`str`, *optional*): By default cuda where there is one.
        dtype (`torch.dtype`): Of the pipeline's models.
    """

    def __init__(self, device: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = dtype
        self.pipe: MVCustomPipeline | None = None
        self.model: str | None = None
        self.subject: str | None = None
        self._busy = threading.Lock()
        self._cancelled: set[str] = set()
        self._running: str | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="mvcustom-app-")
        self._runs: list[Path] = []

    def load(self, model: str, subject: str | None = None) -> None:
        """Loads another model or subject, folders or Hub ids. After an error what was loaded stays.

        Raises:
            MVCustomError: naming what cannot be loaded.
        """
        from ..pipelines import MVCustomPipeline

        model, subject = model.strip(), (subject or "").strip() or None
        if not model:
            raise MVCustomError("model: expected a folder or Hub id, got an empty text.")
        with self._busy:
            if (model, subject) == (self.model, self.subject):
                return
            pipe = MVCustomPipeline.from_pretrained(model, dtype=self.dtype).to(self.device)
            pipe.set_progress_bar_config(disable=True)
            if subject is not None:
                pipe.load_subject(subject)
            self.pipe, self.model, self.subject = pipe, model, subject

    @property
    def references(self) -> Cameras | None:
        """The subject's reference cameras."""
        subject = self._loaded.subject
        return None if subject is None else subject.references.cameras

    @property
    def side(self) -> int:
        """Height and width of the model's views."""
        return self._loaded.unet.config.sample_size * self._loaded.vae_scale_factor

    @property
    def has_hooks(self) -> bool:
        """Whether the model can use its views' depth."""
        return bool(self._loaded.hooks)

    @property
    def description(self) -> str:
        """What is loaded, in one line."""
        config = None if self._loaded.subject is None else self._loaded.subject.config
        subject = "no subject" if config is None else f"subject {config.token} ({config.class_noun})"
        hooks = "" if self.has_hooks else ", no depth model: no DFR and CLC"
        return f"{self.model}, {subject}, {self.side} × {self.side}, on {self.device}{hooks}"

    @property
    def example_prompt(self) -> str:
        """A prompt that names the subject."""
        config = None if self._loaded.subject is None else self._loaded.subject.config
        named = "mug" if config is None else f"{config.token} {config.class_noun}"
        return f"a {named} on a beach at sunset with two trees"

    def cameras(self, order: Order) -> Cameras:
        """The target cameras of an order.

        Raises:
            MVCustomError: see [`CameraPath.cameras`].
        """
        height, width = (int(side or self.side) for side in (order.height, order.width))
        return order.path.cameras(self.references, height, width)

    def generate(self, order: Order, progress: Progress = lambda share, text: None, run: str = "") -> Results:
        """Generates an order: one set of views, or two from the same noise.

        Args:
            order ([`Order`]): What to generate.
            progress (`Callable`): `progress(share, text)`, called from step to step.
            run (`str`): The run's name, by which [`~Workshop.cancel`] knows it. One that was told to stop before it
                begins does not.

        Raises:
            MVCustomError: for what cannot be generated.
            Cancelled: if it was cancelled. Nothing is written then.
        """
        if not order.prompt.strip():
            raise MVCustomError("prompt: expected a text, got an empty one.")
        if order.steps < 1:
            raise MVCustomError(f"steps: expected a whole number of at least 1, got {order.steps!r}.")
        with self._busy:
            self._running = run
            try:
                return self._generate(order, progress, run)
            finally:
                self._running = None
                self._cancelled.discard(run)

    def cancel(self, run: str = "") -> bool:
        """Stops a run after its current step; returns whether it was running."""
        running = self._running == run
        if running:
            self._cancelled.add(run)
            self._loaded._interrupt = True  # also skips what is left of a preview pass
        return running

    def close(self) -> None:
        """Deletes all files."""
        self._folder.cleanup()

    @property
    def _loaded(self) -> MVCustomPipeline:
        if self.pipe is None:
            raise MVCustomError("model: none is loaded yet.")
        return self.pipe

    def _generate(self, order: Order, progress: Progress, run: str) -> Results:
        started = time.perf_counter()
        cameras = self.cameras(order)
        if order.frame == "user" and self._loaded.subject is None:
            raise MVCustomError("frame: 'user' is the world of a subject's photos; load a subject.")
        kinds = self._kinds(order)
        noise = self._noise(order, cameras)
        outputs = {}
        for number, (label, hooks) in enumerate(kinds.items()):

            def told(step: int, number: int = number, label: str = label) -> None:
                text = f"{label}: step {step} of {order.steps}" if step else f"{label}: preparing"
                progress((number + step / order.steps) / len(kinds), text)

            outputs[label] = self._views(order, cameras, noise, hooks, told, run)
        progress(1.0, "writing")
        height, width, seconds = cameras.height, cameras.width, time.perf_counter() - started
        summary = (
            f"{len(outputs)} × {len(cameras)} views of {width} × {height} in {seconds:.1f} s ({order.steps} steps, seed "
            f"{order.seed}): {', '.join(outputs)}"
        )
        folder = Path(self._folder.name) / f"run-{time.time_ns()}"
        results = write_results(folder, outputs, self._record(order), summary=summary, frame=order.frame)
        self._runs.append(folder)
        while len(self._runs) > _KEPT_RUNS:
            shutil.rmtree(self._runs.pop(0), ignore_errors=True)
        return results

    def _views(
        self,
        order: Order,
        cameras: Cameras,
        noise: torch.Tensor,  # [1, C, N, h, w]
        hooks: list,
        told: Callable[[int], None],
        run: str,
    ) -> MVCustomPipelineOutput:
        def on_step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            self._stop_if_cancelled(run)
            told(index + 1)
            return tensors

        self._stop_if_cancelled(run)
        told(0)
        output = self._loaded(
            order.prompt,
            cameras=cameras,
            negative_prompt=order.negative_prompt.strip() or None,
            num_inference_steps=int(order.steps),
            guidance_scale=float(order.guidance_scale),
            reference_guidance_scale=order.reference_guidance_scale if self._loaded.subject is not None else None,
            hooks=hooks,
            latents=noise.clone(),
            generator=torch.Generator().manual_seed(int(order.seed)),
            callback_on_step_end=on_step_end,
        )
        self._stop_if_cancelled(run)
        return output

    def _stop_if_cancelled(self, run: str) -> None:
        if run in self._cancelled:
            raise Cancelled

    def _kinds(self, order: Order) -> dict[str, list]:
        """The hooks of each set by its label."""
        from ..hooks import ConsistentAwareLatentCompletion, DepthAwareFeatureRendering

        named = {"DFR": (order.dfr, DepthAwareFeatureRendering), "CLC": (order.clc, ConsistentAwareLatentCompletion)}
        wanted = {name: kind for name, (chosen, kind) in named.items() if chosen}
        hooks = [hook for hook in self._loaded.hooks if isinstance(hook, tuple(wanted.values()))]
        if not hooks:
            if order.compare:
                raise MVCustomError("compare: expected DFR or CLC to compare with; choose one, or a model with depth.")
            return {"without DFR and CLC": []}
        kinds = {f"with {' and '.join(wanted)}": hooks}
        return {**kinds, "without DFR and CLC": []} if order.compare else kinds

    def _noise(self, order: Order, cameras: Cameras) -> torch.Tensor:
        """Initial noise `(1, C, N, h, w)`, drawn on the CPU so that it is the same on every device."""
        pipe = self._loaded
        height, width = (side // pipe.vae_scale_factor for side in (cameras.height, cameras.width))
        shape = (1, pipe.unet.config.in_channels, len(cameras), height, width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(int(order.seed)))
        return noise.to(pipe.unet.device, pipe.unet.dtype)

    def _record(self, order: Order) -> dict[str, Any]:
        from dataclasses import asdict

        return {"model": self.model, "subject": self.subject, **asdict(order)}
