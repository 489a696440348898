"""Classifier-free guidance over text and references: which branches the U-Net evaluates, and how they combine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import MVCustomError


@dataclass(frozen=True)
class Branch:
    """One condition under which the noise is predicted: which text, and with the references or without."""

    positive: bool
    references: bool


def guidance_branches(
    guidance_scale: float,
    reference_guidance_scale: float | None,
    references: bool,
) -> tuple[list[Branch], list[float]]:
    """The branches e_0, e_1, ... of a step and the scales s_1, ... of `e_0 + s_1 (e_1 − e_0) + s_2 (e_2 − e_1)`.

    Text guidance alone keeps the references in both branches: `e(∅, Y) + s (e(c, Y) − e(∅, Y))`. With
    `reference_guidance_scale` (s_Y) the references are guided too:
    `e(∅, ∅) + s_Y (e(∅, Y) − e(∅, ∅)) + s (e(c, Y) − e(∅, Y))`. Without text guidance (`guidance_scale <= 1`) the
    prompt takes the place of ∅.

    Args:
        guidance_scale (`float`): s, the scale of text guidance; 1 or less is none.
        reference_guidance_scale (`float`, *optional*): s_Y; `None` is none.
        references (`bool`): Whether references condition this step at all.

    Example:

        >>> branches, scales = guidance_branches(5.0, 3.0, True)
        >>> [(branch.positive, branch.references) for branch in branches], scales
        ([(False, False), (False, True), (True, True)], [3.0, 5.0])
    """
    by_text = guidance_scale > 1
    branches, scales = [], []
    if reference_guidance_scale is not None and references:
        branches.append(Branch(positive=not by_text, references=False))
        scales.append(float(reference_guidance_scale))
    if by_text:
        branches.append(Branch(positive=False, references=references))
        scales.append(float(guidance_scale))
    branches.append(Branch(positive=True, references=references))
    return branches, scales


def combine(predictions: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """The guided prediction from those of the branches, all of one shape."""
    guided = predictions[0]
    for before, after, scale in zip(predictions, predictions[1:], scales):
        guided = guided + scale * (after - before)
    return guided


@dataclass
class Conditions:
    """Everything that conditions the U-Net and does not depend on the timestep.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(batch, length, dim)`): The prompt's states.
        negative_prompt_embeds (`torch.Tensor`, *optional*): The negative prompt's, of the same shape.
        features (mapping, *optional*): Rendered subject features X_y by block, each `(texts, frames, pixels, C)`, the
            texts being the negative prompts (if any) and then the prompts.
        image_embeds (list of `torch.Tensor`, *optional*): IP-Adapter's states, each `(texts, images, dim)` alike.
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None
    features: Mapping[str, Tensor] | None = None
    image_embeds: list[Tensor] | None = None

    _assembled: dict[tuple, Any] = field(default_factory=dict, repr=False)

    def replace_text(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor | None) -> None:
        """Other text states from the next step on."""
        self.prompt_embeds, self.negative_prompt_embeds = prompt_embeds, negative_prompt_embeds
        self._assembled.clear()

    def _negative_states(self) -> Tensor:
        if self.negative_prompt_embeds is None:
            raise MVCustomError("negative_prompt_embeds: guidance needs a negative prompt's states, got None.")
        return self.negative_prompt_embeds

    def text_states(self, branches: Sequence[Branch], num_frames: int) -> Tensor:
        """Text states in the U-Net's batch order (branch, batch, frame), `(branches * batch * frames, L, D)`."""

        def assemble() -> Tensor:
            states = [self.prompt_embeds if branch.positive else self._negative_states() for branch in branches]
            return torch.cat(states).repeat_interleave(num_frames, dim=0)

        return self._once(("text", num_frames, *branches), assemble)

    def image_states(self, branches: Sequence[Branch]) -> dict[str, list[Tensor]] | None:
        """IP-Adapter's `added_cond_kwargs` in the order (branch, batch)."""
        image_embeds = self.image_embeds
        if image_embeds is None:
            return None
        return self._once(
            ("image", *branches),
            lambda: {"image_embeds": [torch.cat(self._by_branch(states, branches)) for states in image_embeds]},
        )

    def subject_features(self, branches: Sequence[Branch]) -> dict[str, Tensor]:
        """X_y by block in the order (branch, batch, frame); zeros where a branch has no references.

        Text guidance alone takes them as they lie: a copy would be 0.2 GiB for 16 views of 512 × 512 pixels.
        """

        def assemble() -> dict[str, Tensor]:
            features = {}
            for name, states in (self.features or {}).items():
                if branches == [Branch(False, True), Branch(True, True)]:
                    parts = [states]
                else:
                    rows = zip(self._by_branch(states, branches), branches)
                    parts = [row if branch.references else torch.zeros_like(row) for row, branch in rows]
                features[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(0, 1)
            return features

        return self._once(("subject", *branches), assemble)

    def _once(self, key: tuple, assemble: Callable[[], Any]) -> Any:
        """Nothing here depends on the timestep, so nothing is put together twice."""
        if key not in self._assembled:
            self._assembled[key] = assemble()
        return self._assembled[key]

    def _by_branch(self, states: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
        batch = len(self.prompt_embeds)
        return [states[-batch:] if branch.positive else states[:batch] for branch in branches]
