"""What `MVCustomPipeline` returns."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from ..cameras import Cameras, SubjectFrame
from ..export import save_views


@dataclass
class MVCustomPipelineOutput(BaseOutput):
    """Views and the cameras that they were generated for.

    Args:
        frames (list of lists of `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            One set of views per prompt: PIL images; arrays of shape `(batch, N, H, W, 3)` in [0, 1]; tensors of shape
            `(batch, N, 3, H, W)` in [0, 1]; or latents `(batch, channels, N, h, w)`.
        cameras ([`Cameras`], *optional*): The N target cameras at the views' size, in the subject frame.
        subject_frame ([`SubjectFrame`], *optional*): The way back from the subject frame to the photos' world.
        anchors (`tuple` of `int`, *optional*): The anchor frames, if a hook used them; of a path that was generated
            window by window also the views that were handed over, in order.
        anchor_depth (`torch.Tensor` of shape `(batch, anchors, H, W)`, *optional*): Their z-depth.
    """

    frames: list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor
    cameras: Cameras | None = None
    subject_frame: SubjectFrame | None = None
    anchors: tuple[int, ...] | None = None
    anchor_depth: torch.Tensor | None = None

    def save(self, folder: str | PathLike, fps: int = 8) -> None:
        """Writes frames, GIF, contact sheet, transforms.json and a COLMAP model to `folder`; see [`save_views`].

        With several prompts, each set of views goes into a folder of its own, `0/`, `1/`, ...
        """
        save_views(folder, self.frames, self.cameras, fps=fps)
