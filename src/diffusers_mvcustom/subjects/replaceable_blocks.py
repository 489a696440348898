"""The U-Net's blocks whose places pose-conditioned blocks take: found, checked and replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import ModelMixin
from torch import nn

from ..errors import MVCustomError, enumerated
from ..models.pose_conditioned_block import PoseConditionedTransformerBlock
from .subject_config import SubjectConfig
from .unet_blocks import text_conditioned_blocks

if TYPE_CHECKING:
    from diffusers.models.attention import BasicTransformerBlock


def replaceable_blocks(unet: ModelMixin, config: SubjectConfig) -> dict[str, BasicTransformerBlock]:
    """The blocks of a U-Net that a subject conditions on the camera, by name.

    Args:
        unet (`UNetMotionModel`): A U-Net of the shapes that the subject was made for.
        config ([`SubjectConfig`]): The subject's settings, with the names and channels of its blocks.

    Raises:
        MVCustomError: if another subject has them, one is missing or has other channels, or they carry hooks of offloading,
            are compiled, or have no weights.
    """
    others = [name for name, module in unet.named_modules() if isinstance(module, PoseConditionedTransformerBlock)]
    if others:
        raise MVCustomError(f"another subject is attached to this U-Net (at {others}); detach it first.")
    available = text_conditioned_blocks(unet)
    expected = config.pose_conditioned_blocks
    if missing := [name for name in expected if name not in available]:
        raise MVCustomError(
            f"subject {config.token!r}: made for the base model {config.base_model}, and this one differs: "
            f"the U-Net lacks the blocks {enumerated(missing, 3)}; it has {enumerated(available, 3)}."
        )
    other = {name: available[name] for name in expected if available[name] != expected[name]}
    if other:
        name, channels = next(iter(other.items()))
        raise MVCustomError(
            f"subject {config.token!r}: made for the base model {config.base_model}, and this one differs: "
            f"expected blocks with the channels {expected[name]} in {name}, the U-Net has {channels} "
            f"({len(other)} of {len(expected)} blocks do not fit)."
        )
    blocks = {name: unet.get_submodule(name) for name in expected}
    for name, block in blocks.items():
        _check_replaceable(name, block)
    return blocks


def put_block(unet: nn.Module, name: str, block: nn.Module) -> None:
    """Puts a block into a place of a U-Net, by the place's name."""
    parent, _, index = name.rpartition(".")
    setattr(unet.get_submodule(parent), index, block)  # of a ModuleList


def _check_replaceable(name: str, block: nn.Module) -> None:
    """Refuses blocks whose forward was taken over: the block that stands in would be bypassed, or never moved."""
    hooked = any(
        hasattr(module, "_hf_hook") or getattr(getattr(module, "_diffusers_hook", None), "hooks", None)
        for module in block.modules()
    )
    forward = block.__dict__.get("forward")  # a removed hook leaves the class's own here
    if hooked or getattr(forward, "__func__", forward) not in (None, type(block).forward):
        raise MVCustomError(
            f"block {name!r} carries hooks (of CPU or group offloading, or of a cache); load the subject before "
            "enabling them."
        )
    if getattr(block, "_compiled_call_impl", None) is not None:
        raise MVCustomError(f"block {name!r} is compiled; load the subject before compiling.")
    if any(parameter.is_meta for parameter in block.parameters()):
        raise MVCustomError(
            f"block {name!r} has no weights (meta device); load the subject after the U-Net's weights."
        )
