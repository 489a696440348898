"""How many of the attributes that a caption names a model's views show, as the attribute reader sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import torch
from torch import Tensor

from ...cameras import Cameras
from ..attribute_reader import AttributeReader, text_alignment
from ..captions import describe, read_caption
from ..labelled_sheets import below, beside, enlarged, text_block
from ..rendering import render
from ..splits import Split, sample_attributes, sample_scene
from .view_store import view_cameras

if TYPE_CHECKING:
    from ...pipelines import MVCustomPipeline

BATCH = 25


@dataclass(frozen=True)
class TextAlignment:
    """What was measured.

    Args:
        generated (`dict`): Share of the named attributes that generated views show, by attribute and of `"all"`.
        rendered (`dict`): The same of true renders of the captions' scenes: what the reader can see at best.
        captions (`list[str]`): What was asked for.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): The generated views, in [0, 1].
        wrong (`list[list[str]]`): The attributes of each view that are not as asked for.
    """

    generated: dict[str, float]
    rendered: dict[str, float]
    captions: list[str]
    images: Tensor  # [N, 3, H, W]
    wrong: list[list[str]]

    def table(self) -> str:
        """As a markdown table."""
        rows = [
            f"| {name} | {self.generated[name]:.1%} | {self.rendered[name]:.1%} |"
            for name in sorted(self.generated, key=lambda name: (name == "all", name))
        ]
        head = ["| attribute | generated | true renders |", "|---|---|---|"]
        return "\n".join([*head, *rows])

    def save_sheet(self, path: Path, count: int = 40, columns: int = 8) -> None:
        """The first `count` views, each over its caption and over the attributes that are not as asked for."""
        cells = []
        for view, caption, wrong in list(zip(self.images, self.captions, self.wrong))[:count]:
            pixels = (view * 255).round().byte().permute(1, 2, 0).numpy()
            picture = enlarged(PIL.Image.fromarray(pixels))
            seen = f"not: {', '.join(wrong)}" if wrong else "all as asked for"
            cells.append(below([picture, *(text_block(text, 13, picture.width) for text in (caption, seen))]))
        rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        below([beside(row) for row in rows]).save(path)


@torch.no_grad()
def measure_text_alignment(
    pipe: MVCustomPipeline,
    reader: AttributeReader,
    *,
    split: Split = "unseen_combinations",
    count: int = 200,
    steps: int = 25,
    guidance_scale: float = 5.0,
    seed: int = 0,
    progress: Callable = iter,
) -> TextAlignment:
    """Generates one view for each of a split's captions, which name all that a view of the scene shows, and reads it.

    Args:
        pipe ([`MVCustomPipeline`]): The model; without a subject.
        reader ([`AttributeReader`]): Trained on scenes of its own.
        split (`str`): Whose scenes are asked for; `unseen_combinations` never occur in training.
        count (`int`): How many.
        steps (`int`), guidance_scale (`float`): Of the generation.
        seed (`int`): Of the noise.
        progress (`Callable`): Wraps the loop.
    """
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    device = pipe.device
    captions, truths, generated = [], [], []
    for index in range(count):
        views = render(sample_scene(split, index), view_cameras(split, index, size, 1))
        attributes = sample_attributes(split, index)
        in_view = int(views.visible_objects()[0])
        captions.append(describe(attributes, object_count=in_view, unseen=views.unseen(0)))
        truths.append(views.images)
    generator = torch.Generator().manual_seed(seed)
    camera = Cameras.orbit(1, height=size, width=size)
    for start in progress(range(0, count, BATCH)):
        frames = pipe(
            captions[start : start + BATCH],
            cameras=camera,
            hooks=[],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type="pt",
        ).frames
        assert isinstance(frames, Tensor)  # of output_type pt
        generated.append(frames[:, 0].float().cpu())
    images = torch.cat(generated)
    reader = reader.to(device).eval()
    asked = [read_caption(caption) for caption in captions]
    seen = reader.read(images.to(device))
    wrong = [[name for name, value in named.items() if one.get(name) != value] for one, named in zip(seen, asked)]
    return TextAlignment(
        text_alignment(seen, asked),
        text_alignment(reader.read(torch.cat(truths).to(device)), asked),
        captions,
        images,
        wrong,
    )
