"""The subject as the views of one window need it; every camera is rendered once, whatever window it is in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import Cameras
from ..subjects import SubjectRendering


@dataclass(frozen=True)
class SubjectFeatures:
    """What a generation uses of a [`SubjectRendering`].

    Args:
        features (mapping): X_y by block, each `(texts, frames, pixels, C)`.
        depth (`torch.Tensor` of shape `(frames, h, w)`), opacity (`torch.Tensor` of shape `(frames, h, w)`): Of the last
            block.
    """

    features: Mapping[str, Tensor]
    depth: Tensor  # [M, h, w]
    opacity: Tensor  # [M, h, w]

    @classmethod
    def of(cls, rendering: SubjectRendering) -> SubjectFeatures:
        """The parts of a rendering that a call keeps."""
        return cls(rendering.features, rendering.depth, rendering.opacity)

    @classmethod
    def of_frames(cls, parts: Sequence[SubjectFeatures]) -> SubjectFeatures:
        """Joins features of single frames, in order."""
        return cls(
            {name: torch.cat([part.features[name] for part in parts], dim=1) for name in parts[0].features},
            torch.cat([part.depth for part in parts]),
            torch.cat([part.opacity for part in parts]),
        )

    def frame(self, index: int) -> SubjectFeatures:
        """The features of one frame."""
        one = slice(index, index + 1)
        return SubjectFeatures(
            {name: states[:, one] for name, states in self.features.items()}, self.depth[one], self.opacity[one]
        )

    def clone(self) -> SubjectFeatures:
        """A copy that does not keep the other frames alive."""
        features = {name: states.clone() for name, states in self.features.items()}
        return SubjectFeatures(features, self.depth.clone(), self.opacity.clone())


class SubjectOfWindows:
    """Renders the subject window by window, and keeps the views that later windows know.

    Args:
        render (`Callable`): `render(cameras) -> SubjectRendering`, see `MVCustomPipeline.subject_renderer`.
        cameras ([`Cameras`]): All target cameras at the size of the views.
    """

    def __init__(self, render: Callable[[Cameras], SubjectRendering], cameras: Cameras) -> None:
        self._render: Callable[[Cameras], SubjectRendering] | None = render
        self._cameras = cameras
        self._kept: dict[int, SubjectFeatures] = {}

    def of_window(self, frames: Sequence[int], needed_later: Collection[int], last: bool) -> SubjectFeatures:
        """The features of `frames`, in this order. What is not `needed_later` is not kept; after the `last` nothing is."""
        new = [frame for frame in frames if frame not in self._kept]
        parts = dict(self._kept)
        features = None
        if new:
            assert self._render is not None  # given up after the last window only
            features = SubjectFeatures.of(self._render(self._cameras[new]))
            parts |= {frame: features.frame(i) for i, frame in enumerate(new)}
        if features is None or len(new) < len(frames):
            features = SubjectFeatures.of_frames([parts[frame] for frame in frames])
        self._kept = {frame: kept for frame, kept in self._kept.items() if frame in needed_later}
        self._kept |= {frame: parts[frame].clone() for frame in new if frame in needed_later}
        if last:
            self._render = None  # with it go the references' features
        return features
