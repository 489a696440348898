"""The pose-conditioned transformer block: a stock block that mixes rendered subject features into its hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, _chunked_feed_forward
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from ..errors import MVCustomError
from .feature_nerf import FeatureNeRF


class PoseConditioning:
    """What the pose-conditioned blocks of one subject are told during a U-Net call.

    All blocks of a subject share one instance. Outside its context managers it is empty and the blocks are exactly
    the stock blocks. With gradient checkpointing the context must stay open during the backward pass, which runs the
    blocks again.
    """

    def __init__(self) -> None:
        self._rendered: Mapping[str, Tensor] | None = None
        self._collected: dict[str, Tensor] | None = None

    @contextmanager
    def rendered(self, features: Mapping[str, Tensor]) -> Iterator[None]:
        """Mixes `features` into the blocks for the length of the context.

        Args:
            features (mapping of `str` to `torch.Tensor`): rendered subject features X_y by block name, each of shape
                `(batch, height * width, channels)` in the batch order of the U-Net call (frames innermost). A zero
                row means that the references are dropped for this batch element.
        """
        with self._holding("_rendered", features):
            yield

    def replace_rendered(self, features: Mapping[str, Tensor]) -> None:
        """Other features for the rest of the open [`~PoseConditioning.rendered`] context.

        A training step opens the context around forward and backward pass and renders inside of it.
        """
        if self._rendered is None:
            raise RuntimeError("PoseConditioning: replace_rendered needs an open rendered() context.")
        self._rendered = features

    @contextmanager
    def collecting(self) -> Iterator[dict[str, Tensor]]:
        """Records every block's hidden states before its feed-forward, `(batch, height * width, channels)` by name."""
        collected: dict[str, Tensor] = {}
        with self._holding("_collected", collected):
            yield collected

    @contextmanager
    def _holding(self, attribute: str, value: Mapping[str, Tensor]) -> Iterator[None]:
        if self._rendered is not None or self._collected is not None:
            raise RuntimeError("PoseConditioning: one U-Net call at a time; this subject's blocks are already in use.")
        setattr(self, attribute, value)
        try:
            yield
        finally:
            setattr(self, attribute, None)

    @property
    def active(self) -> bool:
        """Whether a call conditions or collects just now."""
        return self._rendered is not None or self._collected is not None

    def __call__(self, block: PoseConditionedTransformerBlock, hidden_states: Tensor) -> Tensor:
        """Conditions the block on rendered features, or collects its input."""
        if self._collected is not None:
            self._collected[block.block_name] = hidden_states
            return hidden_states
        if self._rendered is None:
            return hidden_states
        features = self._rendered.get(block.block_name)
        if features is None:
            raise MVCustomError(
                f"features: expected rendered features for block {block.block_name!r}, got {sorted(self._rendered)}."
            )
        if features.shape != hidden_states.shape:
            raise MVCustomError(
                f"features[{block.block_name!r}]: expected shape {tuple(hidden_states.shape)} (batch * frames, "
                f"height * width, channels), got {tuple(features.shape)}. Rendered for other cameras or another size?"
            )
        return block.pose_conditioner.projection(hidden_states, features)


class PoseProjection(nn.Module):
    """`x ← P [x ; X_y]`, P a linear layer without bias, initialised to `[I | 0]` (so it starts as the identity).

    P is stored as its difference from `[I | 0]`, and the mixed states are computed as `x + D [x ; X_y]`. That is the
    same map, but the identity is exact in every dtype: a fresh projection returns `x` bit for bit.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.difference = nn.Linear(2 * channels, channels, bias=False)
        nn.init.zeros_(self.difference.weight)

    def forward(
        self,
        hidden_states: Tensor,  # [..., C]
        features: Tensor,  # [..., C]
    ) -> Tensor:
        """The states mixed with the features, of their shape."""
        features = features.to(hidden_states.dtype)
        return hidden_states + self.difference(torch.cat([hidden_states, features], dim=-1))


class PoseConditioner(nn.Module):
    """What a pose-conditioned block has beyond its stock block: the FeatureNeRF and the projection."""

    def __init__(self, feature_nerf: FeatureNeRF) -> None:
        super().__init__()
        self.feature_nerf = feature_nerf
        self.projection = PoseProjection(feature_nerf.channels)


class PoseConditionedTransformerBlock(BasicTransformerBlock):
    """A stock transformer block with `x ← P [x ; X_y]` between its attentions and its feed-forward.

    It shares every submodule with the stock block that it stands in for, under the same names, so LoRA, IP-Adapter
    and offloading see the block they know; the stock block can be put back at any time.

    Source: the pose-conditioned transformer block of CustomDiffusion360 (arXiv 2404.12333), as used by MVCustom.
    """

    block_name: str
    conditioning: PoseConditioning

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Use PoseConditionedTransformerBlock.from_block(block, ...).")

    @classmethod
    def from_block(
        cls,
        block: BasicTransformerBlock,
        pose_conditioner: PoseConditioner,
        conditioning: PoseConditioning,
        block_name: str,
    ) -> PoseConditionedTransformerBlock:
        """Builds the block around `block`'s own submodules. `block` itself is not changed.

        Raises:
            MVCustomError: if `block` is not a text-conditioned block of a stock U-Net's spatial layers (with plain layer
                norms, and without the positional embedding of motion modules or GLIGEN's fuser), or has other channels
                than `pose_conditioner`.
        """
        if isinstance(block, PoseConditionedTransformerBlock):
            raise MVCustomError(f"block {block_name!r} already belongs to an attached subject; detach that first.")
        problem = _why_not_text_conditioned(block)
        if problem is not None:
            raise MVCustomError(
                f"block {block_name!r}: expected a text-conditioned BasicTransformerBlock of a U-Net's spatial layers, "
                f"got {problem}."
            )
        channels = pose_conditioner.feature_nerf.channels
        if channels != block.dim:
            raise MVCustomError(
                f"block {block_name!r}: expected a pose conditioner of the block's {block.dim} channels, got {channels}."
            )
        conditioned = cls.__new__(cls)
        nn.Module.__init__(conditioned)
        conditioned.__dict__.update(block.__dict__)
        conditioned.__dict__.pop("forward", None)  # left behind by hooks that were on the block and are off again
        conditioned._modules = dict(block._modules)  # our own registry over the same submodules
        conditioned.pose_conditioner = pose_conditioner
        conditioned.conditioning = conditioning
        conditioned.block_name = block_name
        # Not `conditioned.train`: the submodules are the stock block's, and may be in different modes.
        pose_conditioner.train(block.training)
        return conditioned

    def forward(
        self,
        hidden_states: Tensor,  # [B, P, C]
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,  # [B, L, D]
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict | None = None,
    ) -> Tensor:
        """As the stock block's, with the projection between attentions and feed-forward."""
        if not self.conditioning.active:
            return super().forward(
                hidden_states,
                attention_mask=attention_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                timestep=timestep,
                cross_attention_kwargs=cross_attention_kwargs,
                class_labels=class_labels,
                added_cond_kwargs=added_cond_kwargs,
            )
        cross_attention_kwargs = cross_attention_kwargs or {}
        attended = self.attn1(
            self.norm1(hidden_states),
            encoder_hidden_states=encoder_hidden_states if self.only_cross_attention else None,
            attention_mask=attention_mask,
            **cross_attention_kwargs,
        )
        hidden_states = attended + hidden_states
        attended = self.attn2(
            self.norm2(hidden_states),
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask,
            **cross_attention_kwargs,
        )
        hidden_states = self.conditioning(self, attended + hidden_states)
        normed = self.norm3(hidden_states)
        if self._chunk_size is None:
            return self.ff(normed) + hidden_states
        return _chunked_feed_forward(self.ff, normed, self._chunk_dim, self._chunk_size) + hidden_states

    def attend_text(
        self,
        features: Tensor,  # [B, P, C]
        encoder_hidden_states: Tensor,  # [B, L, D]
    ) -> Tensor:
        """The block's own text cross-attention with its residual, for FeatureNeRF's point features, `(B, P, C)`.

        Runs the attention's weights (LoRA included) with a plain processor: an IP-Adapter's processor expects image
        states beside the text, which the subject's features have none of.
        """
        return features + AttnProcessor2_0()(
            self.attn2, self.norm2(features), encoder_hidden_states=encoder_hidden_states
        )


def _why_not_text_conditioned(block: nn.Module) -> str | None:
    if not isinstance(block, BasicTransformerBlock):
        return type(block).__name__
    if block.norm_type != "layer_norm":
        return f"one with norm_type {block.norm_type!r}"
    if block.attn2 is None or not block.attn2.is_cross_attention:
        return "one without text attention"
    if block.pos_embed is not None:
        return "one with a positional embedding (of a motion module?)"
    if hasattr(block, "fuser"):
        return "one with GLIGEN's fuser"
    return None
