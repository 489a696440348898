"""Which transformer blocks of a U-Net can be pose-conditioned, in which order they run, and at which size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from diffusers import ModelMixin
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from ..errors import MVCustomError


def text_conditioned_blocks(unet: ModelMixin) -> dict[str, int]:
    """The spatial transformer blocks with text cross-attention, in the order in which the U-Net runs them.

    Args:
        unet (`UNetMotionModel` or `UNet2DConditionModel`): The U-Net.

    Returns:
        `dict`: Channels of each block by its module name, as in `unet.named_modules()`. The blocks of motion modules
        are not among them.

    Raises:
        MVCustomError: for another kind of model.
    """
    return {name: block.dim for name, block in _blocks(unet)}


def default_blocks(unet: ModelMixin) -> list[str]:
    """The blocks that a subject conditions unless it is told otherwise.

    The last block of the down path, the mid block, and every block of the up path whose feature map is 1/2 or 1/4 of
    the latents: there the layout of a view is decided, and rays are few. In Stable Diffusion 1.5 these are the last
    block of `down_blocks.2`, the mid block, and the three blocks each of `up_blocks.1` and `up_blocks.2` (8 of 16).
    """
    names = list(text_conditioned_blocks(unet))
    last_down = [name for name in names if name.startswith("down_blocks.")][-1:]
    chosen = [
        name
        for name in names
        if name in last_down
        or name.startswith("mid_block.")
        or (name.startswith("up_blocks.") and _level(unet, name) in (1, 2))
    ]
    return chosen or names


def select_blocks(unet: ModelMixin, blocks: str | Sequence[str] | None = None) -> dict[str, int]:
    """Channels of the chosen blocks by name, in the order in which the U-Net runs them.

    Args:
        unet (`UNetMotionModel`): The U-Net.
        blocks (`str` or `list[str]`, *optional*): Names of blocks, or one regular expression that has to match a whole
            name. By default see [`default_blocks`].

    Raises:
        MVCustomError: if a name is unknown or nothing matches; the message lists the blocks that there are.
    """
    available = text_conditioned_blocks(unet)
    if blocks is None:
        chosen = set(default_blocks(unet))
    elif isinstance(blocks, str):
        try:
            pattern = re.compile(blocks)
        except re.error as error:
            raise MVCustomError(f"blocks: {blocks!r} is not a regular expression: {error}.") from error
        chosen = {name for name in available if pattern.fullmatch(name)}
    else:
        chosen = set(blocks)
    unknown = sorted(chosen - available.keys())
    if unknown or not chosen:
        problem = f"does not know {unknown}" if unknown else f"has none that matches {blocks!r}"
        raise MVCustomError(
            f"blocks: expected text-conditioned transformer blocks of the U-Net, which {problem}. Available: "
            f"{list(available)}."
        )
    return {name: channels for name, channels in available.items() if name in chosen}


def feature_map_size(unet: nn.Module, block_name: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of the feature map at a block, for latents of `height` × `width`."""
    for _ in range(_level(unet, block_name)):  # stride 2 with padding 1 rounds sizes up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _blocks(unet: ModelMixin) -> Iterator[tuple[str, BasicTransformerBlock]]:
    if not all(isinstance(getattr(unet, part, None), nn.Module) for part in ("down_blocks", "mid_block", "up_blocks")):
        raise MVCustomError(
            f"unet: expected a U-Net with down_blocks, mid_block and up_blocks, got {type(unet).__name__}."
        )
    parts = [(f"down_blocks.{i}", part) for i, part in enumerate(unet.down_blocks)]
    parts.append(("mid_block", unet.mid_block))
    parts += [(f"up_blocks.{i}", part) for i, part in enumerate(unet.up_blocks)]
    for part_name, part in parts:
        for j, transformer in enumerate(getattr(part, "attentions", None) or ()):
            for k, block in enumerate(getattr(transformer, "transformer_blocks", None) or ()):
                if isinstance(block, BasicTransformerBlock) and block.attn2 is not None:
                    yield f"{part_name}.attentions.{j}.transformer_blocks.{k}", block


def _level(unet: ModelMixin, block_name: str) -> int:
    """How many times the latents are halved on the way to the block."""
    halvings = [0]  # before each down block, then after all
    for down_block in unet.down_blocks:
        halvings.append(halvings[-1] + (1 if down_block.downsamplers else 0))
    kind, index = block_name.split(".")[:2]
    if kind == "mid_block":
        return halvings[-1]
    return halvings[int(index)] if kind == "down_blocks" else halvings[len(unet.down_blocks) - 1 - int(index)]
