"""The folder in which the documentation's blocks run: what a reader would have there, at its smallest.

Models and subjects that the pages name lie there as folders of tiny random models under the same names, so that the same
lines run that a reader would write; nothing is fetched. `photos/`, which the pages mean to be without cameras, has those of
`posed/`, as finding cameras takes minutes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from docs.page_blocks import DOCS, blocks_of
from PIL import Image
from safetensors.torch import save_file
from synthetic_capture import write_capture

BASE = "you/base"
STYLE = "you/watercolour"
IMAGE_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
MOTION_ADAPTER = "guoyww/animatediff-motion-adapter-v1-5-3"
DEPTH_MODEL = "Intel/zoedepth-nyu-kitti"
OTHER_DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"


def write_workshop(folder: Path) -> Path:
    """Writes everything that pages take for granted; returns `folder`."""
    from diffusers import StableDiffusionPipeline

    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.cameras import normalize_cameras
    from diffusers_mvcustom.toy import random_components, random_unet2d_and_motion_adapter

    pipe = MVCustomPipeline(**random_components("tiny"))
    pipe.save_pretrained(folder / BASE)
    pipe.depth_estimator.save_pretrained(folder / DEPTH_MODEL)
    pipe.depth_image_processor.save_pretrained(folder / DEPTH_MODEL)
    unet, adapter = random_unet2d_and_motion_adapter("tiny")
    adapter.save_pretrained(folder / MOTION_ADAPTER)
    image_model = StableDiffusionPipeline(
        **{name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    image_model.save_pretrained(folder / IMAGE_MODEL)
    _write_other_depth_model(folder / OTHER_DEPTH_MODEL)

    write_capture(folder / "posed")
    shutil.copytree(folder / "posed", folder / "photos")
    cameras, frame = normalize_cameras(_capture(folder).cameras)
    _write_subject(pipe, folder, cameras, frame)
    (folder / STYLE).mkdir(parents=True)
    save_file(_lora(pipe), folder / STYLE / "pytorch_lora_weights.safetensors")
    shutil.copytree(folder / "posed" / "images", folder / "videos" / "around-a-cube")
    adapter.save_pretrained(folder / "out" / "backbone" / "motion_adapter")
    Image.fromarray(np.full((64, 64, 3), (90, 140, 200), np.uint8)).save(folder / "anchor.png")
    (folder / "path.json").write_text(_first_json(DOCS / "generating.md"))
    (folder / "prompts.json").write_text(json.dumps(["a mug by a lake", {"prompt": "a car", "output": "car"}]))
    return folder


def _lora(pipe) -> dict[str, torch.Tensor]:
    """LoRA of one layer, in diffusers' names."""
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora"
    channels = pipe.unet.config.block_out_channels[0]
    return {f"{layer}.down.weight": torch.ones(2, channels), f"{layer}.up.weight": torch.ones(channels, 2)}


def _capture(folder: Path):
    from diffusers_mvcustom.cameras import load_capture

    return load_capture(folder / "posed")


def _first_json(page: Path) -> str:
    """The camera file that the page shows."""
    return next(block.text for block in blocks_of(page) if block.language == "json")


def _write_subject(pipe, folder: Path, cameras, frame) -> None:
    from diffusers_mvcustom import ReferenceViews, SubjectAdapter
    from diffusers_mvcustom.models import FeatureNeRFConfig
    from diffusers_mvcustom.subjects import initial_token_embedding

    subject = SubjectAdapter.create(
        pipe.unet,
        ReferenceViews.from_capture(_capture(folder).with_cameras(cameras)),
        token="<my-mug>",
        class_noun="mug",
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, "mug"),
        subject_frame=frame,
        base_model=BASE,
        blocks="mid_block.*",
        feature_nerf=FeatureNeRFConfig(num_samples=4),
        num_references=2,
    )
    subject.lora_state_dict = _lora(pipe)
    subject.save_pretrained(folder / "you" / "my-mug")


def _write_other_depth_model(folder: Path) -> None:
    """Depth Anything instead of ZoeDepth."""
    from diffusers_mvcustom.toy.training.depth_model import depth_image_processor, new_depth_model

    new_depth_model().save_pretrained(folder)
    depth_image_processor().save_pretrained(folder)
