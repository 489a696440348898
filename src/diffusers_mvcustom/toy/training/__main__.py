"""Trains the toy model, one stage at a time; every stage goes on where it stopped.

python -m diffusers_mvcustom.toy.training views --output toy/          # render (in the background of the rest)
python -m diffusers_mvcustom.toy.training autoencoder --output toy/
python -m diffusers_mvcustom.toy.training text --output toy/           # optional: a head start for the text encoder
python -m diffusers_mvcustom.toy.training latents --output toy/        # optional: encode ahead of the image model
python -m diffusers_mvcustom.toy.training images --output toy/         # text encoder and U-Net, on single views
python -m diffusers_mvcustom.toy.training decoder --output toy/        # optional: the decoder alone, further
python -m diffusers_mvcustom.toy.training depth --output toy/
python -m diffusers_mvcustom.toy.training reader --output toy/         # attributes, for measuring
python -m diffusers_mvcustom.toy.training clips --output toy/          # for train_backbone.py
python -m diffusers_mvcustom.toy.training assemble --output toy/ --model models/toy --reader models/toy-attribute-reader
python -m diffusers_mvcustom.toy.training alignment --output docs/ --model models/toy --reader models/toy-attribute-reader
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..attribute_reader import AttributeReader
from ..splits import Split
from .assembly import assemble, assemble_reader
from .attribute_reader import reader_run, train_reader
from .autoencoder import autoencoder_run, decoder_run, latent_autoencoder, train_autoencoder
from .clips import export_clips
from .depth_model import depth_run, train_depth_model
from .image_model import LatentStore, image_model_run, train_image_model
from .text_alignment import measure_text_alignment
from .text_encoder import text_run, train_text_encoder, trained_text_encoder
from .view_store import ViewStore

STEPS = {"text": 600, "autoencoder": 3_000, "decoder": 3_000, "images": 60_000, "depth": 6_000, "reader": 3_000}
BATCH = {"text": 128, "autoencoder": 16, "decoder": 16, "images": 32, "depth": 16, "reader": 32}
TIMED = ("autoencoder", "images", "depth", "reader")
SCENES = {"train": 40_000, "reader": 4_000}


def main() -> None:
    """Runs the stage that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["views", "latents", *STEPS, "clips", "assemble", "alignment"])
    parser.add_argument("--output", type=Path, required=True, help="folder of views and checkpoints")
    parser.add_argument(
        "--scenes", type=int, help="scenes to train on, two views each; by default 40,000, 4,000 for the reader"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that render views")
    parser.add_argument("--clips", type=int, default=4_000, help="camera paths of the training split")
    parser.add_argument("--model", type=Path, help="folder that assemble writes to")
    parser.add_argument(
        "--start-from", type=Path, help="model folder whose weights stages without a checkpoint start from"
    )
    parser.add_argument("--reader", type=Path, help="folder that assemble writes the attribute reader to")
    parser.add_argument("--motion-adapter", type=Path, help="result of the backbone trainer, for assemble")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, help="images: instead of 0.0006, for larger batches")
    parser.add_argument("--seconds", type=float, help="autoencoder, images, depth, reader: end after so long")
    parser.add_argument("--loaders", type=int, default=0, help="images: processes that draw views ahead, for a GPU")
    parser.add_argument("--compile", action="store_true", help="images: torch.compile the U-Net; needs a C++ compiler")
    options = parser.parse_args()
    if options.compile and options.stage != "images":
        parser.error(f"--compile: only of the stage images, not of {options.stage}")
    if options.stage != "images" and (options.learning_rate is not None or options.loaders):
        parser.error(f"--learning-rate, --loaders: only of the stage images, not of {options.stage}")
    if options.seconds is not None and options.stage not in TIMED:
        parser.error(f"--seconds: only of the stages {', '.join(TIMED)}, not of {options.stage}")
    if options.stage == "clips":
        export_clips(options.output / "clips", "train", options.clips, progress=tqdm, workers=options.workers)
        return
    if options.stage == "assemble":
        if options.model is None and options.reader is None:
            parser.error("assemble: --model or --reader is needed")
        if options.model is not None:
            parts = {"motion_adapter": options.motion_adapter, "start_from": options.start_from}
            assemble(options.output, options.model, **parts)
        if options.reader is not None:
            print(assemble_reader(options.output, options.reader))
        return
    if options.stage == "alignment":
        if options.model is None or options.reader is None:
            parser.error("alignment: --model and --reader are needed")
        _measure(options)
        return
    if options.stage == "text":
        settings = {"max_steps": options.max_steps or STEPS["text"], "batch_size": options.batch_size or BATCH["text"]}
        train_text_encoder(text_run(options.output / "text", **settings, device=options.device, seed=options.seed))
        return
    split: Split = "reader" if options.stage == "reader" else "train"
    scenes = options.scenes or SCENES[split]
    store = ViewStore(options.output / ("views" if split == "train" else f"{split}-views"), split, scenes)
    if options.stage in ("views", "reader"):
        ViewStore(options.output / "validation-views", "validation", 300).fill(tqdm, workers=options.workers)
        store.fill(tqdm, workers=options.workers)
    if options.stage == "views":
        return
    while len(store) < min(2_000, 2 * scenes):
        print(f"waiting for views: {len(store)} so far")
        time.sleep(2)
    _train(options, store)


def _measure(options: argparse.Namespace) -> None:
    """Writes `toy_text_alignment.md` and a sheet of samples, `toy_samples.png`, into the folder."""
    from ...pipelines import MVCustomPipeline

    pipe = MVCustomPipeline.from_pretrained(options.model, dtype=torch.float32).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    reader = AttributeReader.from_pretrained(options.reader, dtype=torch.float32)
    measured = measure_text_alignment(pipe, reader, seed=options.seed, progress=tqdm)
    options.output.mkdir(parents=True, exist_ok=True)
    head = (
        f"{len(measured.captions)} captions of scenes whose pairs of category and colour never occur in training; each "
        "names every attribute that a view of its scene shows; one view each, 25 steps, guidance 5. Read by the attribute "
        "reader; true renders of the same scenes tell what it can see at best."
    )
    (options.output / "toy_text_alignment.md").write_text(f"{head}\n\n{measured.table()}\n", encoding="utf-8")
    measured.save_sheet(options.output / "toy_samples.png")
    print(measured.table())


def _train(options: argparse.Namespace, store: ViewStore) -> None:
    settings = {"device": options.device, "seed": options.seed}
    folder = options.output / options.stage
    if options.stage in STEPS:
        settings["max_steps"] = options.max_steps or STEPS[options.stage]
        settings["batch_size"] = options.batch_size or BATCH[options.stage]
    if options.stage in TIMED:
        settings["max_seconds"] = options.seconds
    if options.stage == "autoencoder":
        run = autoencoder_run(folder, **settings, start_from=options.start_from)
        train_autoencoder(run, run.modules["vae"], store)
    elif options.stage == "depth":
        train_depth_model(depth_run(folder, **settings, start_from=options.start_from), store)
    elif options.stage == "reader":
        stores = [store]
        if (options.output / "views" / "views.json").is_file():
            stores.append(ViewStore.at(options.output / "views"))  # what the images are trained on, if it is there
        train_reader(reader_run(folder, **settings), stores)
    else:
        only_read = {"device": options.device, "seed": options.seed, "max_steps": 1, "batch_size": 1}
        vae = latent_autoencoder(options.output, store, options.start_from, **only_read)
        if options.stage == "decoder":
            train_autoencoder(decoder_run(folder, vae, **settings), vae, store)
            return
        latents = LatentStore(store, vae, options.output / "latents")
        if options.stage == "latents":
            latents.fill(tqdm)
        else:
            text_encoder = trained_text_encoder(options.output / "text", options.device)
            if options.learning_rate is not None:
                settings["learning_rate"] = options.learning_rate
            run = image_model_run(folder, **settings, start_from=options.start_from, text_encoder=text_encoder)
            train_image_model(run, latents, compiled=options.compile, workers=options.loaders)


if __name__ == "__main__":
    main()
