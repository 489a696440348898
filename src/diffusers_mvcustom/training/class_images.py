"""Images of the subject's class, for prior preservation: the user's own, or made by the model before training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..cameras import Cameras
from ..errors import MVCustomError
from ..files.pictures import opened_picture
from ..files.text_files import read_json, read_text
from ..models.motion_transformer import motion_bypassed

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_RECORD_NAME = "class_images.json"


def read_class_images(folder: Path, resolution: int, default_text: str) -> tuple[Tensor, list[str]]:
    """Class images at the training resolution (covered and cropped at the centre) and their texts.

    Args:
        folder (`Path`): Images; a .txt of the same name is an image's text.
        resolution (`int`): R.
        default_text (`str`): The text of images without one.

    Returns:
        `torch.Tensor` of shape `(N, 3, R, R)` in [0, 1], and a list of `str`.

    Raises:
        MVCustomError: naming the folder or the image that cannot be read.
    """
    import numpy as np
    from PIL import ImageOps

    if not folder.is_dir():
        raise MVCustomError(f"class_data_dir: there is no folder {folder}.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    images, texts = [], []
    for file in files:
        with opened_picture(file) as image:
            fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (resolution, resolution))
        images.append(torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255)
        text_file = file.with_suffix(".txt")
        texts.append(read_text(text_file).strip() if text_file.is_file() else default_text)
    if not images:
        raise MVCustomError(f"class_data_dir: {folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return torch.stack(images), texts


def generate_class_images(
    pipe: MVCustomPipeline,
    folder: Path,
    text: str,
    count: int,
    resolution: int,
    *,
    seed: int,
    num_inference_steps: int = 50,
) -> None:
    """Makes class images with the model as it is before training, until there are `count` in the folder.

    Each is written under another name first, so an interrupted run goes on where it stopped.

    Args:
        pipe ([`MVCustomPipeline`]): Without a subject.
        folder (`Path`): Where to write.
        text (`str`): The prompt.
        count (`int`): How many there should be.
        resolution (`int`): Side in pixels.
        seed (`int`): Image n is made from seed + n.
        num_inference_steps (`int`): Denoising steps.

    Raises:
        MVCustomError: if the folder holds images of another prompt or size.
    """
    record = {"prompt": text, "resolution": resolution, "seed": seed, "num_inference_steps": num_inference_steps}
    folder.mkdir(parents=True, exist_ok=True)
    record_file = folder / _RECORD_NAME
    if record_file.is_file():
        stored = read_json(record_file)
        if stored != record:
            raise MVCustomError(
                f"class images: {folder} holds images made with {stored}, and now {record} are asked for. Delete the "
                "folder or take another output_dir."
            )
    else:
        record_file.write_text(json.dumps(record, indent=1), encoding="utf-8")
    missing = [n for n in range(count) if not (folder / f"{n:04d}.png").is_file()]
    camera = Cameras.orbit(1, height=resolution, width=resolution)
    pipe.set_progress_bar_config(disable=True)
    with motion_bypassed(pipe.unet):
        for n in tqdm(missing, desc="class images", disable=not missing):
            images = pipe(
                text,
                cameras=camera,
                hooks=[],
                num_inference_steps=num_inference_steps,
                generator=torch.Generator().manual_seed(seed + n),
            ).images
            temporary = folder / f".{n:04d}.png"
            images[0][0].save(temporary, format="PNG")
            os.replace(temporary, folder / f"{n:04d}.png")
    pipe.set_progress_bar_config(disable=False)
