"""What `MVCustomPipeline` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from ..cameras import Cameras, SubjectFrame
from ..errors import MVCustomError
from ..export import AnchorDepth, save_views

ViewFrames = list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor
"""Views as the output types have them: `pil`, `np`, or `pt` and `latent`."""


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
        anchor_discontinuity (`float`, *optional*): The hooks' [`AnchorSettings`]`.discontinuity`.
    """

    frames: ViewFrames
    cameras: Cameras | None = None
    subject_frame: SubjectFrame | None = None
    anchors: tuple[int, ...] | None = None
    anchor_depth: torch.Tensor | None = None
    anchor_discontinuity: float | None = None

    @property
    def geometry(self) -> list[AnchorDepth] | None:
        """What the hooks took for each set's geometry; `None` where no hook asked for it."""
        if self.anchors is None or self.anchor_depth is None:
            return None
        return [AnchorDepth(self.anchors, depth, self.anchor_discontinuity) for depth in self.anchor_depth]

    @property
    def images(self) -> list[list[PIL.Image.Image]]:
        """The views as PIL images, one list per prompt, of a call with `output_type="pil"`.

        Raises:
            MVCustomError: for another output type, whose arrays or tensors are in `frames`.
        """
        if not isinstance(self.frames, list):
            raise MVCustomError(
                f"images: expected views generated with output_type='pil', got {type(self.frames).__name__}; see frames."
            )
        return self.frames

    def save(
        self,
        path: str | PathLike[str],
        fps: int = 8,
        *,
        formats: Sequence[str] | None = None,
        frame: str = "subject",
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Path]:
        """Writes the views to a folder, with their cameras and points, or to one file; see [`save_views`].

        With several prompts, each set of views goes into a folder of its own, `0/`, `1/`, ...

        Args:
            path (`str` or path): A folder, or a file that ends with `.gif`, `.mp4`, `.webp`, `.png` (the contact sheet) or
                `.ply` (the anchor views' pixels as coloured points).
            fps (`int`, defaults to 8): Views a second in moving pictures.
            formats (sequence of `str`, *optional*): What the folder holds beside pictures and `transforms.json`: `gif`,
                `mp4`, `webp`, `colmap`, `colmap-text`, `ply`.
            frame (`str`, defaults to `"subject"`): World of cameras and points: `"subject"`, or `"user"` for the one that
                the subject's photos were posed in.
            records (sequence of mappings, *optional*): How each set of views was made, written beside it as
                `generation.json`, which `mvcustom evaluate` reads.

        Returns:
            The folders written, or the file.

        Raises:
            MVCustomError: before anything is written, for what cannot be.
        """
        if frame not in ("subject", "user"):
            raise MVCustomError(f"frame: expected 'subject' or 'user', got {frame!r}.")
        if frame == "user" and self.subject_frame is None:
            raise MVCustomError(
                "frame: 'user' is the world of the subject's photos, and these views have no subject, or one that does not "
                "say how its frame was made. Save them in the subject frame."
            )
        return save_views(
            path,
            self.frames,
            self.cameras,
            formats=formats,
            fps=fps,
            subject_frame=self.subject_frame if frame == "user" else None,
            geometry=self.geometry,
            records=records,
        )
