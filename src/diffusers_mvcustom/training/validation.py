"""Pictures and numbers of a validation: FeatureNeRF against photos, and generated views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..subjects import ReferenceViews, SubjectRendering
from .losses import subject_before_black

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline


def masked_psnr(
    rendered: Tensor,  # [N, h, w, 3]
    photos: Tensor,  # [N, 3, H, W]
    masks: Tensor | None = None,  # [N, 1, H, W]
) -> Tensor:
    """PSNR in dB of each rendered picture against its photo at the picture's size, inside the mask, `(N,)`.

    Higher is better. Pictures show the subject before black, so photos are compared with black outside their masks,
    averaged over the picture's (larger) pixels.
    """
    target, weights = subject_before_black(photos.to(rendered), masks, (rendered.shape[1], rendered.shape[2]))
    error = (rendered - target).square().mean(dim=-1)
    mean = (error * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp(min=1e-6)
    return -10 * mean.clamp(min=1e-12).log10()


def compare_with_photos(
    rendering: SubjectRendering, views: ReferenceViews
) -> tuple[float | None, float | None, Image.Image]:
    """PSNR, opacity error and a picture with a row for each view: photo, colours, opacity, depth."""
    rgb, opacity, depth = rendering.rgb, rendering.opacity, rendering.depth
    masks = None if views.masks is None else views.masks
    psnr = None if rgb is None else masked_psnr(rgb.cpu(), views.images, masks).mean().item()
    opacity_error = None
    if masks is not None:
        target = F.interpolate(masks, opacity.shape[-2:], mode="area")[:, 0]
        opacity_error = (opacity.cpu() - target).abs().mean().item()
    near, far = depth.amin(), depth.amax()
    columns = [
        views.images.permute(0, 2, 3, 1),
        _gray(opacity.cpu()) if rgb is None else rgb.cpu(),
        _gray(opacity.cpu()),
        _gray((1 - (depth - near) / (far - near).clamp(min=1e-6)).cpu() * opacity.cpu()),
    ]
    side = max(128, views.height)
    cells = [_resized(column, side, round(side * views.width / views.height)) for column in columns]
    rows = [torch.cat(list(row), dim=1) for row in zip(*cells)]
    return psnr, opacity_error, _picture(torch.cat(rows))


def generate_validation_views(
    pipe: MVCustomPipeline,
    embedding: Tensor | None,
    token: str,
    prompt: str,
    cameras: Cameras,
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> list[Image.Image]:
    """Views of the subject as it is now, through the real pipeline, without hooks.

    The pipeline's text encoder and tokenizer are as before afterwards.
    """
    if embedding is not None:
        pipe.load_textual_inversion({token: embedding.detach().float().cpu()}, token=token)
    quiet = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    try:
        generator = torch.Generator().manual_seed(seed)
        return pipe(
            prompt,
            cameras=cameras,
            hooks=[],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
            decode_chunk_size=1,  # beside what training holds there may be no room for more
        ).images[0]
    finally:
        pipe.set_progress_bar_config(**quiet)
        if embedding is not None:
            pipe.unload_textual_inversion(token)
            pipe.text_encoder.config.vocab_size = pipe.text_encoder.get_input_embeddings().num_embeddings


def side_by_side(photos: Tensor, views: list[Image.Image]) -> Image.Image:
    """Photos `(N, 3, H, W)` above the views generated at their cameras."""
    width, height = views[0].size
    sheet = Image.new("RGB", (width * len(views), height * 2))
    for column, (photo, view) in enumerate(zip(photos, views)):
        sheet.paste(_picture(photo.permute(1, 2, 0)).resize((width, height)), (column * width, 0))
        sheet.paste(view, (column * width, height))
    return sheet


def _gray(values: Tensor) -> Tensor:
    return values[..., None].expand(*values.shape, 3)


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pictures.permute(0, 3, 1, 2).float(), (height, width), mode="nearest").permute(0, 2, 3, 1)


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy().astype(np.uint8))
