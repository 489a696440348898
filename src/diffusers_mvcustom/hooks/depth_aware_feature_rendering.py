"""Depth-aware feature rendering (DFR): the anchor's features, rendered into every other view through its depth."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..errors import MVCustomError
from ..models import motion_inputs_replaced
from .denoising_hook import DenoisingHook, DenoisingRun, DenoisingStep
from .feature_map_sizes import motion_module_sizes

_UP_BLOCK = re.compile(r"up_blocks\.(\d+)\.motion_modules\.\d+")


@dataclass
class DepthAwareFeatureRendering(DenoisingHook):
    """Replaces, in chosen layers, what the anchor saw by the anchor's own features seen from each camera.

    `F̂_n = M_n ⊙ R(F_a, φ_n) + (1 − M_n) ⊙ F_n` for every frame n that is no anchor: F_a are the anchor's features at
    this layer and step, R renders them through the anchor's feature mesh, M_n is where the mesh is visible. The
    replaced features are the inputs of the chosen motion modules, so the dense spatio-temporal attention sees them.
    Mesh, visibility and barycentrics do not depend on the step: a step is a gather.

    The initial noise is rendered in the same way, its variance kept. What the last layers compute becomes the predicted
    noise: with the anchor's features in its place but noise of its own, a view is told another's noise, and what is between
    the two stays in it as blotches. With the anchor's noise the two agree, and fine structure moves with the camera.

    Source: MVCustom (arXiv 2510.13702), depth-aware feature rendering; the noise is not the paper's (docs/method.md).

    Args:
        start (`float`, defaults to 0.0): Share of the steps after which it begins to act.
        end (`float`, defaults to 0.7): Share of the steps after which it ends (35 of 50 in the paper).
        layers (`str`, *optional*): Regular expression that names the motion modules (as in `unet.named_modules()`) whose
            inputs are replaced; by default those of all up blocks, and without `carry_noise` of all but the last.
        carry_noise (`bool`, defaults to `True`): Whether views start from the anchor's noise where the anchor saw them.
    """

    start: float = 0.0
    end: float = 0.7
    layers: str | None = None
    carry_noise: bool = True

    name: ClassVar[str] = "depth_aware_feature_rendering"
    needs_several_frames: ClassVar[bool] = True
    needs_geometry: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.carry_noise, bool):
            raise MVCustomError(
                f"DepthAwareFeatureRendering.carry_noise: expected true or false, got {self.carry_noise!r}."
            )
        try:
            re.compile("" if self.layers is None else self.layers)
        except (re.error, TypeError) as error:
            raise MVCustomError(
                f"DepthAwareFeatureRendering.layers: expected a regular expression, got {self.layers!r} ({error})."
            ) from error

    def prepare(self, run: DenoisingRun) -> None:
        """Finds the motion modules, computes the warps of their sizes, and lets the views start from the anchor's noise."""
        height, width = run.latents.shape[-2:]
        sizes = motion_module_sizes(run.unet, height, width)
        if self.layers is None:
            names = _up_blocks(sizes, but_the_last=not self.carry_noise)
        else:
            names = {name for name in sizes if re.fullmatch(self.layers, name)}
        chosen = {name: size for name, size in sizes.items() if name in names}
        if not chosen:
            raise MVCustomError(
                f"DepthAwareFeatureRendering.layers: {self.layers!r} names no motion module of this U-Net; it has "
                f"{list(sizes)}."
            )
        geometry = run.anchor_geometry()
        for size in set(chosen.values()):
            geometry.warps(*size)
        if self.carry_noise:
            run.latents = geometry.render_noise(run.latents)
        run.state[id(self)] = (list(chosen), geometry)

    def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
        """Renders the anchor's features during the step's U-Net call."""
        if run.covers(self, step.index):
            names, geometry = run.state[id(self)]
            modules = [run.unet.get_submodule(name) for name in names]
            step.during_unet_call.enter_context(motion_inputs_replaced(modules, geometry.render))


def _up_blocks(names: Iterable[str], *, but_the_last: bool) -> set[str]:
    """Those of the motion modules that are in up blocks; `but_the_last` leaves out the last block if there are several."""
    numbers = {name: int(match[1]) for name in names if (match := _UP_BLOCK.fullmatch(name))}
    last = max(numbers.values(), default=0)
    return {name for name, number in numbers.items() if number < last or last == 0 or not but_the_last}
