"""Trains the toy model, one stage at a time; every stage goes on where it stopped.

python -m diffusers_mvcustom.toy.training views --output toy/          # render (in the background of the rest)
python -m diffusers_mvcustom.toy.training autoencoder --output toy/
python -m diffusers_mvcustom.toy.training depth --output toy/
python -m diffusers_mvcustom.toy.training images --output toy/         # text encoder and U-Net, on single views
python -m diffusers_mvcustom.toy.training assemble --output toy/ --model models/toy
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .assembly import assemble
from .autoencoder import autoencoder_run, finished_autoencoder, train_autoencoder
from .clips import export_clips
from .depth_model import depth_run, train_depth_model
from .image_model import LatentStore, image_model_run, train_image_model
from .view_store import ViewStore

STEPS = {"autoencoder": 3_000, "depth": 6_000, "images": 60_000}
BATCH = {"autoencoder": 16, "depth": 16, "images": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["views", *STEPS, "clips", "assemble"])
    parser.add_argument("--output", type=Path, required=True, help="folder of views and checkpoints")
    parser.add_argument("--scenes", type=int, default=40_000, help="scenes of the training split, two views each")
    parser.add_argument("--clips", type=int, default=4_000, help="camera paths of the training split")
    parser.add_argument("--model", type=Path, help="folder that assemble writes to")
    parser.add_argument("--motion-adapter", type=Path, help="result of the backbone trainer, for assemble")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.stage == "clips":
        export_clips(options.output / "clips", "train", options.clips, progress=tqdm)
        return
    if options.stage == "assemble":
        if options.model is None:
            parser.error("assemble: --model is needed")
        assemble(options.output, options.model, motion_adapter=options.motion_adapter)
        return
    store = ViewStore(options.output / "views", num_scenes=options.scenes)
    if options.stage == "views":
        ViewStore(options.output / "validation-views", "validation", 300).fill(tqdm)
        store.fill(tqdm)
        return
    while len(store) < min(2_000, 2 * options.scenes):
        print(f"waiting for views: {len(store)} so far")
        time.sleep(20)
    settings = {
        "max_steps": options.max_steps or STEPS[options.stage],
        "batch_size": options.batch_size or BATCH[options.stage],
        "device": options.device,
        "seed": options.seed,
    }
    runs = {"autoencoder": autoencoder_run, "depth": depth_run, "images": image_model_run}
    run = runs[options.stage](options.output / options.stage, **settings)
    if options.stage == "autoencoder":
        train_autoencoder(run, store)
    elif options.stage == "depth":
        train_depth_model(run, store)
    else:
        settings["max_steps"] = settings["batch_size"] = 1  # of the autoencoder, which is only read
        vae = finished_autoencoder(autoencoder_run(options.output / "autoencoder", **settings), store)
        train_image_model(run, LatentStore(store, vae, options.output / "latents"))


if __name__ == "__main__":
    main()
