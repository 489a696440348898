"""How close FeatureNeRF's colours come to photos that were held out, against simple guesses at the same pixels.

Takes a finished training (its output folder) and writes a table and a picture:

    accelerate launch train_lora.py --config tiny --data buddha/ --holdout 3 --output_dir out/buddha ...
    python benchmarks/held_out_photos.py out/buddha -o docs/buddha

Masked PSNR, at the size of FeatureNeRF's map and with black outside the photo's mask, of

- the subject as trained, and the same before training;
- the mean colour of the subject in the training photos, and (no one could know it) in the held-out photo itself;
- the nearest training photo by viewing direction: as it is; and resampled over a plane through the subject, which undoes
  the cameras' roll, distance and lens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from environment import describe_environment, markdown_table
from PIL import Image, ImageDraw
from torch import Tensor

from diffusers_mvcustom import MVCustomPipeline, SubjectAdapter
from diffusers_mvcustom.cli.training_models import load_training_model
from diffusers_mvcustom.geometry import camera_rays, pixel_centers, project
from diffusers_mvcustom.subjects import ReferenceViews
from diffusers_mvcustom.training import SubjectTrainingConfig
from diffusers_mvcustom.training.losses import subject_before_black
from diffusers_mvcustom.training.subject_parts import held_out_photos, load_photos
from diffusers_mvcustom.training.validation import masked_psnr


def rendered_colors(pipe: MVCustomPipeline, subject: SubjectAdapter, photos: ReferenceViews, prompt: str) -> Tensor:
    """FeatureNeRF's colours at the photos' cameras, `(N, h, w, 3)`, as the pipeline renders them."""
    pipe.load_subject(subject)
    try:
        with torch.no_grad():
            embeds, _ = pipe.encode_prompt(prompt, pipe.unet.device, 1, False)
            return pipe.render_subject(embeds, photos.cameras).rgb
    finally:
        pipe.unload_subject()


def over_plane(source: ReferenceViews, target: ReferenceViews, height: int, width: int, missing: Tensor) -> Tensor:
    """A photo as the target's camera would see it, were the subject a picture on a plane that faces that camera."""
    camera = target.cameras.resize(height, width)
    origins, directions = camera_rays(
        camera.camera_to_world, camera.intrinsics, pixel_centers(height, width).flatten(0, 1)
    )
    normal = camera.camera_to_world[:, None, :3, 2]
    distance = -(origins * normal).sum(-1) / (directions * normal).sum(-1)
    points = origins + distance[..., None] * directions
    pixels, depth = project(points, source.cameras.world_to_camera, source.cameras.intrinsics)
    grid = pixels / torch.tensor([source.width, source.height]) * 2 - 1
    colors = F.grid_sample(source.images, grid[:, None], padding_mode="border", align_corners=False)[:, :, 0]
    inside = (grid.abs() <= 1).all(-1) & (depth > 0)
    colors = torch.where(inside[:, None], colors, missing[None, :, None])
    return colors.transpose(1, 2).unflatten(1, (height, width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="a finished training with --holdout")
    parser.add_argument("-o", "--output", type=Path, required=True, help="writes OUTPUT.md and OUTPUT.png")
    options = parser.parse_args()
    trained = SubjectAdapter.from_pretrained(options.output_dir / "subject")
    config = SubjectTrainingConfig(**trained.config.training["settings"])
    pipe = load_training_model(config)
    factor = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    resolution = config.resolution or pipe.unet.config.sample_size * pipe.vae_scale_factor
    training, held_out = held_out_photos(config, load_photos(config, resolution))
    photos, training = (part.views.fit_area(resolution**2, factor) for part in (held_out, training))
    prompt = config.validation_prompt.replace("{token}", config.token).replace("{noun}", trained.config.class_noun)

    torch.manual_seed(config.seed)
    untrained = SubjectAdapter.create(
        pipe.unet,
        trained.references,
        config.token,
        trained.config.class_noun,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        blocks=list(trained.config.pose_conditioned_blocks),
        feature_nerf=trained.config.feature_nerf,
        num_references=trained.config.num_references,
    )
    guesses = {
        "FeatureNeRF, trained": rendered_colors(pipe, trained, photos, prompt),
        "FeatureNeRF, untrained": rendered_colors(pipe, untrained, photos, prompt),
    }
    count, height, width, _ = guesses["FeatureNeRF, trained"].shape
    mean = (training.images * training.masks).sum((0, 2, 3)) / training.masks.sum()
    own = (photos.images * photos.masks).sum((2, 3)) / photos.masks.sum((2, 3))
    directions = [F.normalize(views.cameras.centers, dim=-1) for views in (photos, training)]
    nearest = (directions[0] @ directions[1].T).argmax(dim=1).tolist()
    as_they_are = F.interpolate(training.images[nearest], (height, width), mode="area").permute(0, 2, 3, 1)
    guesses |= {
        "mean colour of the training photos": mean.expand(count, height, width, 3),
        "mean colour of the held-out photo itself": own[:, None, None].expand(count, height, width, 3),
        "nearest training photo": as_they_are,
        "nearest training photo over a plane": torch.cat(
            [over_plane(training[nearest[n]], photos[n], height, width, mean) for n in range(count)]
        ),
    }
    masks = F.interpolate(photos.masks, (height, width), mode="area").permute(0, 2, 3, 1)
    for name in guesses:
        if not name.startswith("FeatureNeRF"):  # which has to find the subject's outline itself; guesses are given it
            guesses[name] = guesses[name] * masks
    rows = []
    for name, colors in guesses.items():
        values = masked_psnr(colors, photos.images, photos.masks)
        cells = {photo: f"{value:.2f}" for photo, value in zip(photos.names, values.tolist())}
        rows.append({"masked PSNR in dB": name, **cells, "mean": f"{values.mean():.2f}"})
    lines = [
        f"{len(training)} training photos, {count} held out; maps of {width} × {height}; {trained.config.training['steps']} "
        f"steps of {trained.config.training['samples_per_step']} samples. {describe_environment('cpu')['text']}",
        "",
        markdown_table(rows),
        "",
    ]
    options.output.with_suffix(".md").write_text("\n".join(lines))
    print("\n".join(lines))
    sheet(photos, guesses).save(options.output.with_suffix(".png"))


def sheet(photos: ReferenceViews, guesses: dict[str, Tensor], side: int = 128) -> Image.Image:
    """A row for each held-out photo: the photo, then the guesses, the subject before black."""
    count, height, width, _ = next(iter(guesses.values())).shape
    size = (height, width)
    photo, _ = subject_before_black(photos.images, photos.masks, size)
    columns = {"held-out photo": photo, **guesses}
    cell = (round(side * width / height), side)
    picture = Image.new("RGB", (cell[0] * len(columns), cell[1] * count + 28), "white")
    for x, (name, colors) in enumerate(columns.items()):
        words = name.replace(", ", "\n").replace(" of the ", "\nof the ").replace(" photo ", " photo\n")
        ImageDraw.Draw(picture).text((x * cell[0] + 3, 1), words, fill="black", font_size=9, spacing=0)
        for y in range(count):
            image = Image.fromarray((colors[y].clamp(0, 1) * 255).round().byte().numpy())
            picture.paste(image.resize(cell, Image.Resampling.NEAREST), (x * cell[0], 28 + y * cell[1]))
    return picture


if __name__ == "__main__":
    main()
