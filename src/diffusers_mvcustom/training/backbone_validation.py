"""How motion modules do: the error on clips they were not trained on, and clips generated from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from ..cameras import Cameras
from .backbone_batches import ClipBatches
from .backbone_model import BackboneTrainingModel
from .video_clips import VideoClips

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline

_NOISE_SHARES = (0.125, 0.375, 0.625, 0.875)
_FRAME_MILLISECONDS = 125


@dataclass
class BackboneValidation:
    """One validation.

    Args:
        step (`int`): Updates made.
        loss (`float`, *optional*): Mean denoising error on the videos that were held out.
        clips (`list[list[PIL.Image.Image]]`): The frames generated for each prompt.
    """

    step: int
    loss: float | None
    clips: list[list[Image.Image]]

    @property
    def values(self) -> dict[str, float]:
        """The numbers by name."""
        return {} if self.loss is None else {"validation_loss": self.loss}

    @property
    def summary(self) -> str:
        """One line."""
        parts = [] if self.loss is None else [f"loss {self.loss:.4f} on held-out videos"]
        return ", ".join([*parts, *([f"{len(self.clips)} clips generated"] if self.clips else [])])

    def sheet(self) -> Image.Image | None:
        """All frames: a row for each prompt."""
        if not self.clips:
            return None
        return make_image_grid([frame for clip in self.clips for frame in clip], len(self.clips), len(self.clips[0]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The sheet as trackers take it, `(1, H, W, 3)` of 8 bits."""
        sheet = self.sheet()
        return {} if sheet is None else {"clips": np.asarray(sheet)[None]}

    def save(self, folder: Path, name: str | None = None) -> None:
        """Writes `folder/NAME.png`, the sheet, and `folder/NAME-N.gif` for each prompt."""
        sheet = self.sheet()
        if sheet is None:
            return
        name = name or f"step-{self.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(folder / f"{name}.png")
        for number, (first, *rest) in enumerate(self.clips):
            first.save(
                folder / f"{name}-{number}.gif",
                save_all=True,
                append_images=rest,
                duration=_FRAME_MILLISECONDS,
                loop=0,
            )


@torch.no_grad()
def held_out_loss(model: BackboneTrainingModel, batches: ClipBatches, clips: VideoClips) -> float:
    """Mean denoising error over one clip of each video, at four noise levels, always with the same noise.

    Args:
        model ([`BackboneTrainingModel`]): What is trained.
        batches ([`ClipBatches`]): Of the training, so that errors are comparable.
        clips ([`VideoClips`]): The videos held out.
    """
    errors = []
    for number in range(len(clips.sources)):
        sample = clips[number]
        for share in _NOISE_SHARES:
            (batch,) = batches([sample], [int(share * batches.num_timesteps)])
            errors.append(model.errors(batch).mean())
    return torch.stack(errors).mean().item()


def generate_clips(
    pipe: MVCustomPipeline,
    prompts: Sequence[str],
    *,
    num_frames: int,
    size: tuple[int, int],
    steps: int,
    guidance: float,
    seed: int,
) -> list[list[Image.Image]]:
    """A clip for each prompt through the pipeline itself, without subject and hooks."""
    quiet = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    cameras = Cameras.orbit(num_frames, height=size[0], width=size[1])  # only how many, and their size
    try:
        return [
            pipe(
                prompt,
                cameras=cameras,
                hooks=[],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            for prompt in prompts
        ]
    finally:
        pipe.set_progress_bar_config(**quiet)
