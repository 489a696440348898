"""Results on disk under a key of everything they depend on, so that a run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor


class Cells:
    """A folder of results, each in a folder of its own that is complete or not there at all.

    Args:
        folder (`Path`): Made if it is not there, with a `.gitignore` of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")

    def get(self, kind: str, content: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of a result, made first if it is not there.

        Args:
            kind (`str`): What it is, the beginning of the folder's name.
            content (`dict`): Everything the result depends on, as JSON holds it.
            make (`Callable[[Path], None]`): Writes the result into an empty folder.
        """
        final = self.place(kind, content)
        if not final.is_dir():
            partial = self.folder / f".{final.name}.{uuid4().hex}"
            partial.mkdir()
            try:
                make(partial)
                (partial / "content.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
                os.rename(partial, final)
            except OSError:
                if not final.is_dir():  # another run on the same cells may have been faster
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return final

    def has(self, kind: str, content: dict[str, Any]) -> bool:
        """Whether a result is there."""
        return self.place(kind, content).is_dir()

    def place(self, kind: str, content: dict[str, Any]) -> Path:
        """Where a result is, or will be."""
        return self.folder / f"{kind}-{key_of(content)}"


def key_of(content: dict[str, Any]) -> str:
    """16 hexadecimal digits for values that JSON holds, whatever the order of their names."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def folder_key(folder: Path, suffixes: tuple[str, ...] = (".safetensors", ".json")) -> str:
    """A digest of a model folder's weights and configurations, by their names and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in suffixes:
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(stream.read())
    return digest.hexdigest()


def image_model_key(folder: Path) -> str:
    """A digest of a pipeline's folder without its motion modules and settings: of all that training a subject depends on."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                for weight in sorted(weights.keys()):
                    if "motion_modules." not in weight:
                        digest.update(f"{name} {weight}".encode())
                        digest.update(weights.get_tensor(weight).contiguous().flatten().view(torch.uint8).numpy())
        elif file.suffix == ".json" and name != "model_index.json":
            digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()


def save_images(folder: Path, images: Tensor) -> None:
    """Views `(N, 3, H, W)` in [0, 1] side by side in one file, `views.png`, at 8 bits."""
    strip = (images.float() * 255).round().clamp(0, 255).byte().permute(2, 0, 3, 1).flatten(1, 2)
    Image.fromarray(strip.cpu().numpy()).save(folder / "views.png")


def load_images(folder: Path) -> Tensor:
    """The views that [`save_images`] wrote, square ones."""
    with Image.open(folder / "views.png") as image:
        strip = torch.from_numpy(np.array(image.convert("RGB"))).float() / 255  # [H, N * W, 3]
    side = len(strip)
    return strip.view(side, -1, side, 3).permute(1, 3, 0, 2).contiguous()
