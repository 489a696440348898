"""diffusers' `callback_on_step_end` in the denoising loop: what it is offered, and what becomes of its changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from .guidance import Conditions

if TYPE_CHECKING:
    from .pipeline_mvcustom import MVCustomPipeline

StepEndCallback: TypeAlias = (
    "Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | PipelineCallback | MultiPipelineCallbacks"
)


class StepCallback:
    """Calls the user's callback after a step; changed prompts count from the next step on.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline of the call.
        callback (`Callable`): `callback(pipe, step, timestep, kwargs) -> dict`.
        tensor_inputs (sequence of `str`): Names of the tensors that it is given.
        conditions ([`Conditions`]): Where changed prompts go.
    """

    def __init__(
        self, pipe: MVCustomPipeline, callback: StepEndCallback, tensor_inputs: Sequence[str], conditions: Conditions
    ) -> None:
        self.pipe = pipe
        self.callback = callback
        self.tensor_inputs = tensor_inputs
        self.conditions = conditions

    def __call__(self, index: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """The latents to go on with, `(batch, channels, frames, h, w)`."""
        conditions = self.conditions
        negative, batch_size = conditions.negative_prompt_embeds, len(conditions.prompt_embeds)
        embeds = [conditions.prompt_embeds] if negative is None else [negative, conditions.prompt_embeds]
        offered: dict[str, Any] = {
            "latents": latents,
            "prompt_embeds": torch.cat(embeds),
            "negative_prompt_embeds": negative,
        }
        given = {name: offered[name] for name in self.tensor_inputs}
        returned: dict[str, Any] = self.callback(self.pipe, index, timestep, given) or {}
        changed = returned.get("prompt_embeds", offered["prompt_embeds"])
        changed_negative = returned.get("negative_prompt_embeds", negative)
        if changed is not offered["prompt_embeds"]:  # negative prompts first, as offered
            changed_negative = changed[:batch_size] if len(changed) > batch_size else changed_negative
            conditions.replace_text(changed[-batch_size:], changed_negative)
        elif changed_negative is not negative:
            conditions.replace_text(conditions.prompt_embeds, changed_negative)
        return returned.get("latents", latents)
