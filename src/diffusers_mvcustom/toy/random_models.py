"""Complete sets of real model components with random weights, built without any download.

They stand in for pretrained models wherever only shapes and wiring matter: tests, documentation, benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from typing import Any, Literal

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from torch import nn
from transformers import (
    BeitConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
    ZoeDepthImageProcessor,
)

from ..errors import MVCustomError
from .averaging_autoencoder import LATENT_SCALE, set_averaging_weights
from .tokenizer import word_tokenizer

Size = Literal["tiny", "sd15"]

_UNET: dict[Size, dict[str, Any]] = {
    "tiny": {
        "sample_size": 16,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,  # in Stable Diffusion 1.5's configuration this is the number of heads
        "cross_attention_dim": 32,
    },
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
}
_VAE: dict[Size, dict[str, Any]] = {
    "tiny": {
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 1,
        "sample_size": 64,
        "scaling_factor": LATENT_SCALE,
    },
    "sd15": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 512,
    },
}
_TEXT_ENCODER: dict[Size, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "sd15": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
_IMAGE_ENCODER: dict[Size, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "image_size": 32,
        "patch_size": 16,
    },
    "sd15": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "projection_dim": 1024,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
}
_VOCABULARY_SIZE = {"tiny": None, "sd15": 49408}
_WORDS = (
    "a an and at background beautiful black blue by car chair close cube day edge evening field forest garden grass "
    "green head high in lake large light morning mossy mountain mug near next night of on orange photo picture red "
    "rock sea sky small snow soft sphere standing statue street studio sunset table teddy the toy tree under water "
    "white with wooden yellow"
)
_STRENGTH = 3.0
_STRENGTHENED = ("proj_out.weight", "to_out.0.weight", "conv_out.weight")


def random_components(
    size: Size = "tiny",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    depth_estimator: bool = True,
    image_encoder: bool = False,
) -> dict[str, Any]:
    """Builds every component of a motion pipeline with random weights. Needs no network and no files.

    Args:
        size (`str`, *optional*, defaults to `"tiny"`): `"tiny"` (3 MB in all; 64×64 pixels, 16×16 latents; its
            autoencoder is not random but keeps the mean colours of 4×4 pixels, so that latents say something) or
            `"sd15"` (the shapes of Stable Diffusion 1.5 with the AnimateDiff motion adapter v1.5-2; 1.3 billion
            parameters in the U-Net).
        seed (`int`, *optional*, defaults to 0): The same seed gives the same weights on the same kind of device. The
            global generators of the CPU and of a CUDA `device` are untouched.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Floating dtype of all weights.
        device (`torch.device` or `str`, *optional*): Where the models are built, by default the CPU. Drawing the random
            numbers is nearly all of the time, and a GPU draws them in no time.
        depth_estimator (`bool`, *optional*, defaults to `True`): Whether to add `depth_estimator` and
            `depth_image_processor` (ZoeDepth).
        image_encoder (`bool`, *optional*, defaults to `False`): Whether to add the `image_encoder` and
            `feature_extractor` of IP-Adapter; otherwise both are `None`.

    Returns:
        `dict`: `vae`, `text_encoder`, `tokenizer`, `unet` (`UNetMotionModel`), `scheduler` (DDIM, as AnimateDiff uses
        it), `feature_extractor`, `image_encoder` and, if asked, `depth_estimator` and `depth_image_processor`. Models
        are in eval mode.

    Example:

        >>> from diffusers_mvcustom.toy import random_components
        >>> components = random_components("tiny")
        >>> components["unet"].config.block_out_channels
        (16, 32, 32)
    """
    checked_size(size)
    tokenizer = word_tokenizer(_WORDS.split(), _VOCABULARY_SIZE[size])
    components: dict[str, Any] = {"tokenizer": tokenizer, "scheduler": _scheduler()}
    with _random_weights(seed, dtype, device):
        components["vae"] = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(_VAE[size]["block_out_channels"]),
            up_block_types=("UpDecoderBlock2D",) * len(_VAE[size]["block_out_channels"]),
            latent_channels=4,
            **_VAE[size],
        )
        if size == "tiny":
            set_averaging_weights(components["vae"])
        components["text_encoder"] = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=_TEXT_ENCODER[size]["hidden_size"],
                **_TEXT_ENCODER[size],
            )
        )
        components["unet"] = UNetMotionModel(**_motion_config(size))
        _strengthen_attention(components["unet"])
        components["image_encoder"] = components["feature_extractor"] = None
        if image_encoder:
            components["image_encoder"] = CLIPVisionModelWithProjection(CLIPVisionConfig(**_IMAGE_ENCODER[size]))
            pixels = _IMAGE_ENCODER[size]["image_size"]
            components["feature_extractor"] = CLIPImageProcessor(
                size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
            )
        if depth_estimator:
            components["depth_estimator"] = _zoe_depth(size)
            components["depth_image_processor"] = ZoeDepthImageProcessor(
                **({"size": {"height": 64, "width": 64}, "ensure_multiple_of": 32} if size == "tiny" else {})
            )
    return _ready(components, dtype)


def random_unet2d_and_motion_adapter(
    size: Size = "tiny", *, seed: int = 0, dtype: torch.dtype | None = None
) -> tuple[UNet2DConditionModel, MotionAdapter]:
    """A stock image U-Net and a motion adapter that fit each other and the other components of [`random_components`].

    `UNetMotionModel.from_unet2d(unet, motion_adapter)` makes a motion U-Net of the same shapes from them.
    """
    checked_size(size)
    config = _UNET[size]
    with _random_weights(seed, dtype):
        unet = UNet2DConditionModel(**config)
        motion_adapter = MotionAdapter(
            block_out_channels=config["block_out_channels"],
            motion_layers_per_block=config["layers_per_block"],
            motion_num_attention_heads=config["attention_head_dim"],
            motion_norm_num_groups=config["norm_num_groups"],
            motion_max_seq_length=32,
            use_motion_mid_block=True,
        )
        _strengthen_attention(motion_adapter)
    ready = _ready({"unet": unet, "motion_adapter": motion_adapter}, dtype)
    return ready["unet"], ready["motion_adapter"]


def save_random_model(
    folder: str | PathLike[str], size: Size = "tiny", *, seed: int = 0, dtype: torch.dtype | None = None
) -> None:
    """Writes random components as the repository of a stock `AnimateDiffPipeline`.

    Args:
        folder (`str` or `os.PathLike`): Where to write `model_index.json` and a folder per component.
        size (`str`, *optional*, defaults to `"tiny"`): See [`random_components`].
        seed (`int`, *optional*, defaults to 0): See [`random_components`].
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): See [`random_components`].
    """
    components = random_components(size, seed=seed, dtype=dtype, depth_estimator=False)
    AnimateDiffPipeline(**components, motion_adapter=None).save_pretrained(folder)


def checked_size(size: str) -> Size:
    """A size by its name, such as a command's option has it.

    Raises:
        MVCustomError: for an unknown one; the message lists those that there are.
    """
    for known in _UNET:
        if size == known:
            return known
    raise MVCustomError(f"size: expected one of {sorted(_UNET)}, got {size!r}.")


@contextmanager
def _random_weights(seed: int, dtype: torch.dtype | None, device: torch.device | str | None = None) -> Iterator[None]:
    """Seeds a fork of the generators and builds modules in `dtype` on `device` at once, without a float32 copy."""
    default = torch.get_default_dtype()
    place = None if device is None else torch.device(device)
    gpus = [place] if place is not None and place.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), nullcontext() if place is None else place:
        torch.manual_seed(seed)
        try:
            torch.set_default_dtype(dtype or default)
            yield
        finally:
            torch.set_default_dtype(default)


def _ready(components: dict[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    for component in components.values():
        if isinstance(component, nn.Module):
            component.eval()
            if dtype is not None and component.dtype != dtype:
                component.to(dtype=dtype)
    return components


def _motion_config(size: Size) -> dict[str, Any]:
    config = dict(_UNET[size])
    config["num_attention_heads"] = config["motion_num_attention_heads"] = config.pop("attention_head_dim")
    for key in ("down_block_types", "up_block_types"):
        config[key] = tuple(name.replace("2D", "Motion") for name in config[key])
    return {**config, "motion_max_seq_length": 32, "use_motion_mid_block": True}


@torch.no_grad()
def _strengthen_attention(model: nn.Module) -> None:
    """Makes frames and texts matter clearly; at the scale of fresh layers a test could miss that they do not."""
    for name, parameter in model.named_parameters():
        if name.endswith(_STRENGTHENED):
            parameter.mul_(_STRENGTH)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="linspace",
    )


def _zoe_depth(size: Size) -> ZoeDepthForDepthEstimation:
    if size == "sd15":
        return ZoeDepthForDepthEstimation(ZoeDepthConfig())
    backbone = BeitConfig(
        image_size=64,
        patch_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        use_relative_position_bias=True,
        initializer_range=0.2,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return ZoeDepthForDepthEstimation(
        ZoeDepthConfig(
            backbone_config=backbone,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
            bottleneck_features=16,
            num_relative_features=8,
            bin_embedding_dim=8,
            initializer_range=0.2,
            num_attractors=[4, 4, 2, 1],
            bin_configurations=[{"name": "nyu", "n_bins": 16, "min_depth": 0.1, "max_depth": 10.0}],
        )
    )
