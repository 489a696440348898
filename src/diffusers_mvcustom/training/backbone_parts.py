"""What backbone training starts from, and how motion modules leave a U-Net again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import MotionAdapter, UNetMotionModel
from torch import nn

from ..errors import MVCustomError
from ..models import AttentionWindows

_MARK = "motion_modules."
_LONGEST_CLIP = 32


def motion_parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a U-Net's motion modules by name; what backbone training trains.

    Raises:
        MVCustomError: if there are none.
    """
    found = {name: parameter for name, parameter in unet.named_parameters() if _MARK in name}
    if not found:
        raise MVCustomError(f"model: expected a U-Net with motion modules, got {type(unet).__name__} without any.")
    return found


def fresh_motion_adapter(unet_config: Mapping[str, Any]) -> MotionAdapter:
    """New motion modules for a U-Net, of AnimateDiff's form; their output is zero, so they change nothing at first.

    Weights are drawn from the global generator.

    Args:
        unet_config (mapping): Configuration of a `UNet2DConditionModel` or `UNetMotionModel`.

    Example:

        >>> from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter
        >>> unet, _ = random_unet2d_and_motion_adapter("tiny")
        >>> adapter = fresh_motion_adapter(unet.config)
        >>> adapter.down_blocks[0].motion_modules[0].proj_out.weight.abs().max().item()
        0.0
    """
    config = dict(unet_config)
    motion = "motion_num_attention_heads" in config
    # In the configuration of Stable Diffusion 1.5 `attention_head_dim` is the number of heads.
    heads = config["motion_num_attention_heads"] if motion else config.get("num_attention_heads")
    adapter = MotionAdapter(
        block_out_channels=tuple(config["block_out_channels"]),
        motion_layers_per_block=config["layers_per_block"],
        motion_transformer_layers_per_block=config.get("temporal_transformer_layers_per_block", 1),
        motion_mid_block_layers_per_block=config.get("mid_block_layers", 1),
        motion_transformer_layers_per_mid_block=config.get("temporal_transformer_layers_per_mid_block") or 1,
        motion_num_attention_heads=heads or config["attention_head_dim"],
        motion_norm_num_groups=config["norm_num_groups"],
        motion_max_seq_length=config.get("motion_max_seq_length", _LONGEST_CLIP),
        use_motion_mid_block=config.get("use_motion_mid_block", True),
    )
    for name, parameter in adapter.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(parameter)
    return adapter


@torch.no_grad()
def extract_motion_adapter(unet: UNetMotionModel, windows: AttentionWindows, temporal_heads: int = 0) -> MotionAdapter:
    """A U-Net's motion modules as a stock motion adapter, with their attention's reach in its configuration.

    Args:
        unet (`UNetMotionModel`): Left as it is.
        windows ([`AttentionWindows`]), temporal_heads (`int`): What `attention_window="auto"` and `temporal_heads="auto"`
            of the pipeline are to find.

    Raises:
        MVCustomError: if the motion modules are not of a form that a motion adapter has.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # its own weights are replaced at once
            adapter = fresh_motion_adapter(unet.config)
        weights = {name: weight for name, weight in unet.state_dict().items() if _MARK in name}
        adapter.load_state_dict({name: weight.float().cpu() for name, weight in weights.items()})
    except (RuntimeError, ValueError, TypeError) as error:
        raise MVCustomError(f"model: its motion modules do not fit into a motion adapter: {error}") from error
    adapter.register_to_config(attention_window=windows.setting, temporal_heads=temporal_heads)
    return adapter.eval()


def clip_size(
    resolution: int | tuple[int, int] | None, unet_config: Mapping[str, Any], factor: int
) -> tuple[int, int]:
    """Height and width of the training frames.

    Args:
        resolution (`int`, pair of `int`, or `None`): As set; `None` is the model's own.
        unet_config (mapping): Configuration of the U-Net.
        factor (`int`): Pixels of a latent.

    Raises:
        MVCustomError: if the model cannot take the size.
    """
    if resolution is None:
        sample = unet_config["sample_size"]
        if sample is None:
            raise MVCustomError("resolution: expected a size, the model does not name one.")
        height, width = (sample, sample) if isinstance(sample, int) else sample
        resolution = (height * factor, width * factor)
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    multiple = factor * 2 ** (len(unet_config["block_out_channels"]) - 1)
    if height % multiple or width % multiple or min(height, width) < multiple:
        near = [max(multiple, side // multiple * multiple) for side in (height, width)]
        raise MVCustomError(
            f"resolution: expected multiples of {multiple} for this model, got {height} × {width}; try {near[0]} × {near[1]}."
        )
    return height, width
