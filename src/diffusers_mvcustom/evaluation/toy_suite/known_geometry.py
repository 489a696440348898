"""What is known of an asked-for scene before any picture is made: the subject on its ground under the sky."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import Cameras
from ...toy import render
from .cases import Case

_SUNS = 4


@dataclass(frozen=True, eq=False)
class KnownGeometry:
    """The true subject on its ground, without other objects, from the target cameras of a case.

    Args:
        cameras ([`Cameras`]): The N target cameras.
        lit (`torch.Tensor` of shape `(L, N, 3, H, W)`): Renders at the prompt's time of day, with the sun (or moon)
            on L sides: which one it is on, no prompt says.
        depth (`torch.Tensor` of shape `(N, H, W)`): Exact z-depth; the sky is 30 units away.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`): 1 where the subject is.
    """

    cameras: Cameras
    lit: Tensor  # [L, N, 3, H, W]
    depth: Tensor  # [N, H, W]
    masks: Tensor  # [N, 1, H, W]

    @classmethod
    def of(cls, case: Case) -> KnownGeometry:
        """Renders a case's known scene."""
        cameras, scene = case.cameras(), case.known_scene()
        turns = moved_directions(scene.light.direction, _SUNS)
        views = [render(replace(scene, light=replace(scene.light, direction=turn)), cameras) for turn in turns]
        lit = torch.stack([one.images for one in views])
        return cls(cameras, lit, views[0].depth[:, 0], views[0].masks)

    def surroundings(self, margin: int = 2) -> Tensor:
        """Pixels that are not the subject's, nor within `margin` pixels of it: `(N, 1, H, W)`, 0 or 1."""
        grown = F.max_pool2d(self.masks, 2 * margin + 1, stride=1, padding=margin)
        return 1 - grown


def moved_directions(direction: tuple[float, float, float], count: int) -> list[tuple[float, float, float]]:
    """A direction turned about the vertical axis by `count` even parts of a circle, itself first."""
    x, y, z = direction
    angles = [2 * math.pi * k / count for k in range(count)]
    return [(x * math.cos(a) + z * math.sin(a), y, z * math.cos(a) - x * math.sin(a)) for a in angles]
