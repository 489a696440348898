"""The motion modules' transformer, told how far its attention reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from ..errors import MVCustomError
from .attention_windows import AttentionWindows, WindowSetting
from .spatio_temporal_attention import SpatioTemporalAttnProcessor

if TYPE_CHECKING:
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.attention_processor import Attention


class SpatioTemporalTransformer3D(AnimateDiffTransformer3D):
    """AnimateDiff's motion transformer that tells its attention the size of the map and its window.

    Same weights, names and state dict as the stock class. Stock modules are turned into it by
    [`enable_spatio_temporal_attention`], which assigns the class: names, hooks and adapters on the module stay.
    """

    attention_windows: AttentionWindows
    temporal_heads: int
    bypassed: bool
    replace_input: Callable[[Tensor], Tensor] | None

    def forward(
        self,
        hidden_states: Tensor,  # [B * F, C, h, w]
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """As the stock module's, with its hidden states `(batch * frames, C, h, w)`."""
        if self.bypassed:
            return hidden_states
        if self.replace_input is not None:
            hidden_states = self.replace_input(hidden_states)
        height, width = hidden_states.shape[-2:]
        window = self.attention_windows.at(height, width)
        for block in self.transformer_blocks:
            _check_num_frames(block, num_frames)
            if window != 1:
                _check_processors(block)
        if window != 1:
            reach = {"spatial_size": (height, width), "spatial_window": window, "temporal_heads": self.temporal_heads}
            cross_attention_kwargs = {**(cross_attention_kwargs or {}), **reach}
        return super().forward(
            hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs
        )


def enable_spatio_temporal_attention(
    unet: nn.Module, windows: WindowSetting | AttentionWindows, temporal_heads: int = 0
) -> None:
    """Gives the motion modules of a U-Net dense spatio-temporal attention with these windows.

    Where every window is 1 the stock processors stay in place, so the U-Net is AnimateDiff's to the last bit.

    Args:
        unet (`UNetMotionModel`): Changed in place; its weights, their names and its state dict are not.
        windows ([`AttentionWindows`] or its setting): How far attention reaches.
        temporal_heads (`int`): How many of the motion modules' heads, the first ones, go on attending along time alone
            whatever the window is. 0 is the paper's attention. With some, much of what AnimateDiff learnt is kept, and
            only the other heads cost what dense attention costs.

    Raises:
        MVCustomError: for a wrong setting, or a U-Net without motion modules.
    """
    windows = AttentionWindows(windows)
    check_temporal_heads(unet, temporal_heads)
    transformers = _motion_transformers(unet)
    processor = AttnProcessor2_0 if windows.temporal_only else SpatioTemporalAttnProcessor
    for transformer in transformers:
        if not isinstance(transformer, SpatioTemporalTransformer3D):
            transformer.__class__ = SpatioTemporalTransformer3D
            transformer.bypassed = False
            transformer.replace_input = None
        transformer.attention_windows, transformer.temporal_heads = windows, temporal_heads
        for block in transformer.transformer_blocks:
            for attention in _attentions(block):
                if type(attention.processor) in (AttnProcessor2_0, SpatioTemporalAttnProcessor) or (
                    not windows.temporal_only
                ):
                    attention.set_processor(processor())


def disable_spatio_temporal_attention(unet: nn.Module) -> None:
    """Undoes [`enable_spatio_temporal_attention`]: the stock classes and processors are back."""
    enable_spatio_temporal_attention(unet, 1)
    for transformer in _motion_transformers(unet):
        transformer.__class__ = AnimateDiffTransformer3D
        del transformer.attention_windows, transformer.temporal_heads, transformer.bypassed, transformer.replace_input


@contextmanager
def motion_bypassed(unet: nn.Module) -> Iterator[None]:
    """Runs a U-Net as the image model that its spatial layers are: motion modules pass their input on unchanged.

    For single images such as reference photos, which have no motion to be seen.

    Raises:
        MVCustomError: if the motion modules are not [`SpatioTemporalTransformer3D`].
    """
    transformers = _motion_transformers(unet)
    if not all(isinstance(transformer, SpatioTemporalTransformer3D) for transformer in transformers):
        raise MVCustomError(
            "unet: call enable_spatio_temporal_attention(unet, 1) first; stock motion modules cannot be bypassed."
        )
    before = [transformer.bypassed for transformer in transformers]
    try:
        for transformer in transformers:
            transformer.bypassed = True
        yield
    finally:
        for transformer, bypassed in zip(transformers, before):
            transformer.bypassed = bypassed


@contextmanager
def motion_inputs_replaced(modules: Sequence[nn.Module], replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Lets motion modules see `replace(hidden_states)` in place of their hidden states, for this context.

    An attribute of the module and not a forward pre-hook: compiled modules look at their attributes in every call, but
    not at hooks that come later.

    Args:
        modules (sequence of [`SpatioTemporalTransformer3D`]): Whose inputs are replaced.
        replace (`Callable`): From hidden states `(batch * frames, C, h, w)` to others of the same shape.

    Raises:
        MVCustomError: for a module of another kind.
    """
    for module in modules:
        if not isinstance(module, SpatioTemporalTransformer3D):
            raise MVCustomError(
                f"modules: expected motion modules with spatio-temporal attention, got {type(module).__name__}; call "
                "enable_spatio_temporal_attention(unet, 1) first."
            )
    transformers = [module for module in modules if isinstance(module, SpatioTemporalTransformer3D)]
    before = [module.replace_input for module in transformers]
    try:
        for module in transformers:
            module.replace_input = replace
        yield
    finally:
        for module, replaced in zip(transformers, before):
            module.replace_input = replaced


def _motion_transformers(unet: nn.Module) -> list[AnimateDiffTransformer3D]:
    return [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]


def _attentions(block: BasicTransformerBlock) -> list[Attention]:
    return [attention for attention in (block.attn1, block.attn2) if attention is not None]


def check_temporal_heads(unet: nn.Module, temporal_heads: int) -> None:
    """Refuses a number of heads along time that a U-Net's motion modules cannot have.

    Raises:
        MVCustomError: for less than 0 or all of the heads, and for a U-Net without motion modules.
    """
    blocks = [block for module in _motion_transformers(unet) for block in module.transformer_blocks]
    if not blocks:
        raise MVCustomError(f"unet: expected motion modules, got {type(unet).__name__} without any.")
    heads = min(attention.heads for block in blocks for attention in _attentions(block))
    whole = isinstance(temporal_heads, int) and not isinstance(temporal_heads, bool)
    if not whole or not 0 <= temporal_heads < heads:
        raise MVCustomError(
            f"temporal_heads: expected a number of heads from 0 to {heads - 1} (the motion modules have {heads}), got "
            f"{temporal_heads!r}. For attention along time in all of them set the attention window to 1."
        )


def _check_num_frames(block: BasicTransformerBlock, num_frames: int) -> None:
    if block.pos_embed is not None and num_frames > (longest := block.pos_embed.pe.shape[1]):
        raise MVCustomError(
            f"num_frames: expected at most {longest} frames (motion_max_seq_length of the motion adapter), got "
            f"{num_frames}. Take fewer cameras, or a motion adapter with a longer sequence."
        )


def _check_processors(block: BasicTransformerBlock) -> None:
    """An attention processor put in place of ours would quietly fall back to attention along time only."""
    for attention in _attentions(block):
        if not isinstance(attention.processor, SpatioTemporalAttnProcessor):
            raise MVCustomError(
                "unet: expected the attention processor SpatioTemporalAttnProcessor in the motion modules, got "
                f"{type(attention.processor).__name__}. Attention slicing, fused projections, xformers and FreeNoise "
                "replace it; undo that (unet.set_attention_backend('xformers') keeps it), then call "
                "enable_spatio_temporal_attention or pipe.set_attention_window again."
            )


def fitting_motion_weights(unet: nn.Module, motion_adapter: nn.Module) -> dict[str, Tensor]:
    """A motion adapter's weights and buffers for a U-Net's motion modules, by the U-Net's names for them.

    Raises:
        MVCustomError: if one that the U-Net has is missing or of another shape.
    """
    own = {name: weight for name, weight in unet.state_dict().items() if "motion_modules." in name}
    given = motion_adapter.state_dict()
    unfit = [name for name, weight in own.items() if name not in given or given[name].shape != weight.shape]
    if unfit:
        found = f"shape {tuple(given[unfit[0]].shape)}" if unfit[0] in given else "none"
        raise MVCustomError(
            f"motion_adapter: it does not fit the model's U-Net: {len(unfit)} of {len(own)} weights, such as {unfit[0]}, of "
            f"which {tuple(own[unfit[0]].shape)} was expected and the adapter has {found}. Made for another model?"
        )
    return {name: given[name] for name in own}
