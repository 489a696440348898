"""Prompts as text states, with layers of the text encoder skipped in every release of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .lora_layers import lora_scaled
from .pipeline_part import PipelinePart


class PromptEncodingMixin(PipelinePart):
    """`encode_prompt` of [`MVCustomPipeline`]."""

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,  # [B, L, D]
        negative_prompt_embeds: Tensor | None = None,  # [B, L, D]
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `AnimateDiffPipeline`'s, whose `clip_skip` looks for `text_encoder.text_model`, gone since transformers 5.6."""
        if clip_skip is not None and prompt_embeds is None and not hasattr(self.text_encoder, "text_model"):
            prompt_embeds = self._skipping_layers(prompt, device, clip_skip, lora_scale)
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=lora_scale,
            clip_skip=clip_skip,
        )
        return prompt_embeds, negative_prompt_embeds  # by these names diffusers' tests know what comes out

    def _skipping_layers(self, prompt: Any, device: torch.device, clip_skip: int, lora_scale: float | None) -> Tensor:
        """Text states before the last `clip_skip` layers, after the last layer norm, `(B, L, D)`."""
        tokens = self.tokenizer(
            self.maybe_convert_prompt(prompt, self.tokenizer),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with lora_scaled(self.text_encoder, lora_scale):
            states = self.text_encoder(tokens.input_ids.to(device), output_hidden_states=True).hidden_states
            return self.text_encoder.final_layer_norm(states[-(clip_skip + 1)])
