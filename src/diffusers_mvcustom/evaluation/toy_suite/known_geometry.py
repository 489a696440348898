"""What is known of an asked-for scene before any picture is made: the subject on its ground under the sky."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...cameras import Cameras
from ...toy import render
from .cases import Case


@dataclass(frozen=True, eq=False)
class KnownGeometry:
    """The true subject on its ground, without other objects, from the target cameras of a case.

    Args:
        cameras ([`Cameras`]): The N target cameras.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): Renders in the light that the prompt names.
        depth (`torch.Tensor` of shape `(N, H, W)`): Exact z-depth; the sky is 30 units away.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`): 1 where the subject is.
    """

    cameras: Cameras
    images: Tensor  # [N, 3, H, W]
    depth: Tensor  # [N, H, W]
    masks: Tensor  # [N, 1, H, W]

    @classmethod
    def of(cls, case: Case) -> KnownGeometry:
        """Renders a case's known scene."""
        cameras = case.cameras()
        views = render(case.known_scene(), cameras)
        return cls(cameras, views.images, views.depth[:, 0], views.masks)

    def surroundings(self, margin: int = 2) -> Tensor:
        """Pixels that are not the subject's, nor within `margin` pixels of it: `(N, 1, H, W)`, 0 or 1."""
        grown = F.max_pool2d(self.masks, 2 * margin + 1, stride=1, padding=margin)
        return 1 - grown
