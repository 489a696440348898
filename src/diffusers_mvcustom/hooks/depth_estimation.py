"""Monocular depth of a generated view, with any depth model of transformers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import MVCustomError

_DISPARITY_MODELS = {"dpt"}
"""Model types whose output is relative inverse depth and whose configuration does not say so."""


def predicts_disparity(depth_estimator: PreTrainedModel) -> bool:
    """Whether the model's output is relative inverse depth (larger is nearer) instead of depth."""
    config = depth_estimator.config
    kind = getattr(config, "depth_estimation_type", None)  # Depth Anything: "relative" or "metric"
    return kind == "relative" or (kind is None and config.model_type in _DISPARITY_MODELS)


@torch.no_grad()
def estimate_depth(
    depth_estimator: PreTrainedModel,
    depth_image_processor: BaseImageProcessor,
    images: Tensor,  # [N, 3, H, W] in [0, 1]
) -> Tensor:
    """Runs a transformers depth model on images.

    Args:
        depth_estimator (`transformers.PreTrainedModel`): `ZoeDepthForDepthEstimation` (the paper's), or any other model
            for depth estimation.
        depth_image_processor (`transformers.BaseImageProcessor`): The model's image processor.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].

    Returns:
        `torch.Tensor` of shape `(N, H, W)`, float32: the model's output resampled to the images' pixels, in the model's
        own units (see [`predicts_disparity`]).

    Raises:
        MVCustomError: if the model returns something that is not one finite map per image.
    """
    height, width = images.shape[-2:]
    arrays = [image.permute(1, 2, 0).float().cpu().mul(255).round().byte().numpy() for image in images]
    inputs = depth_image_processor(images=arrays, return_tensors="pt")
    # Weights that sequential offloading has laid on meta are loaded where the images are.
    device = images.device if depth_estimator.device.type == "meta" else depth_estimator.device
    pixel_values = inputs["pixel_values"].to(device=device, dtype=depth_estimator.dtype)
    depth = depth_estimator(pixel_values=pixel_values).predicted_depth.float()
    if depth.ndim != 3 or len(depth) != len(images):
        raise MVCustomError(
            f"depth_estimator: expected predicted_depth of shape ({len(images)}, h, w), got {tuple(depth.shape)}."
        )
    if not depth.isfinite().all():
        raise MVCustomError("depth_estimator: it returned NaN or infinite depth. Half precision? Try float32 for it.")
    pad_height, pad_width = _zoe_padding(depth_estimator, depth_image_processor, height, width)
    padded = (height + 2 * pad_height, width + 2 * pad_width)
    depth = F.interpolate(depth[:, None], size=padded, mode="bilinear", align_corners=False)[:, 0]
    return depth[:, pad_height : pad_height + height, pad_width : pad_width + width].to(images.device)


def _zoe_padding(
    depth_estimator: PreTrainedModel, processor: BaseImageProcessor, height: int, width: int
) -> tuple[int, int]:
    """Rows and columns that ZoeDepth's processor mirrors around the image against artefacts at its rim.

    Its own post-processing would remove them, but that needs torchvision.
    """
    if depth_estimator.config.model_type != "zoedepth" or not getattr(processor, "do_pad", False):
        return 0, 0
    return int(math.sqrt(height / 2) * 3), int(math.sqrt(width / 2) * 3)
