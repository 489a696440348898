"""At which size each motion module of a U-Net works."""

from __future__ import annotations

from diffusers import UNetMotionModel


def motion_module_sizes(unet: UNetMotionModel, height: int, width: int) -> dict[str, tuple[int, int]]:
    """The feature map's (height, width) at every motion module, in execution order, without running the U-Net.

    Args:
        unet (`UNetMotionModel`): The motion U-Net.
        height (`int`), width (`int`): The latents' size.

    Returns:
        `dict` from module name (as in `unet.named_modules()`) to the size of its input.
    """
    sizes: dict[str, tuple[int, int]] = {}
    levels = []
    for i, block in enumerate(unet.down_blocks):
        levels.append((height, width))
        sizes.update({f"down_blocks.{i}.motion_modules.{j}": levels[-1] for j in range(len(block.motion_modules))})
        if block.downsamplers is not None:  # stride 2 with padding 1: sizes are rounded up
            height, width = (height + 1) // 2, (width + 1) // 2
    for j in range(len(getattr(unet.mid_block, "motion_modules", None) or ())):
        sizes[f"mid_block.motion_modules.{j}"] = (height, width)
    for i, block in enumerate(unet.up_blocks):
        size = levels[len(levels) - 1 - i]
        sizes.update({f"up_blocks.{i}.motion_modules.{j}": size for j in range(len(block.motion_modules))})
    return sizes
