"""Views of the toy world, rendered once and read many times."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...cameras import Cameras
from ...errors import MVCustomError
from ..attributes import MAX_OBJECTS, Chooser, SceneAttributes
from ..captions import describe
from ..rendering import LEAST_SHARES, SHOWN, render, unseen_attributes
from ..scene import FIELD_OF_VIEW
from ..splits import Split, sample_attributes, sample_scene

VIEWS_PER_SCENE = 2
_RECORD_NAME = "views.json"
_FORMAT = 2


class ViewStore:
    """Single views of a split's scenes, two a scene, from cameras all around: pixels, depth and what captions may name.

    Filled from the first scene on and at any time as full as `rendered_scenes` says, so it can be read while another
    process fills it, and filling goes on where it stopped.

    Args:
        folder (`Path`): Where the views lie.
        split (`str`): Of which scenes.
        num_scenes (`int`): How many scenes it is to hold.
        size (`int`): Side of the views in pixels.
    """

    def __init__(self, folder: Path, split: Split = "train", num_scenes: int = 40_000, size: int = 64) -> None:
        self.folder, self.split, self.num_scenes, self.size = folder, split, num_scenes, size
        folder.mkdir(parents=True, exist_ok=True)
        record = {"format": _FORMAT, "split": split, "num_scenes": num_scenes, "size": size}
        if not (folder / _RECORD_NAME).exists():
            self._write({**record, "rendered_scenes": 0})
        stored = {name: value for name, value in self._record().items() if name in record}
        if stored != record:
            raise MVCustomError(f"{folder}: holds views of {stored}, expected {record}.")
        count = num_scenes * VIEWS_PER_SCENE
        self.images = self._file("images", (count, 3, size, size), np.uint8)
        self.depth = self._file("depth", (count, size, size), np.float16)
        self.shares = self._file("shares", (count, len(SHOWN) + MAX_OBJECTS), np.float16)

    @classmethod
    def at(cls, folder: Path) -> ViewStore:
        """The store that is there already, of whatever split and size.

        Raises:
            MVCustomError: if there is none.
        """
        path = folder / _RECORD_NAME
        if not path.is_file():
            raise MVCustomError(f"{folder}: there are no rendered views; run the stage `views` first.")
        record = json.loads(path.read_text())
        return cls(folder, record["split"], record["num_scenes"], record["size"])

    @property
    def rendered_scenes(self) -> int:
        """How many scenes are there so far."""
        return self._record()["rendered_scenes"]

    def __len__(self) -> int:
        return self.rendered_scenes * VIEWS_PER_SCENE

    def fill(
        self, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter, block: int = 50, workers: int = 1
    ) -> None:
        """Renders what is missing, in `workers` processes."""
        blocks = [
            range(start, min(start + block, self.num_scenes))
            for start in range(self.rendered_scenes, self.num_scenes, block)
        ]
        if workers == 1:
            self._store(progress(blocks), map(self._rendered, blocks))
            return
        with multiprocessing.get_context("spawn").Pool(
            workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            jobs = [(self.split, self.size, scenes) for scenes in blocks]
            self._store(progress(blocks), pool.imap(_render_block, jobs))

    def _rendered(self, scenes: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _render_block((self.split, self.size, scenes))

    def _store(self, blocks: Iterable[range], rendered: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        for scenes, (images, depth, shares) in zip(blocks, rendered):
            where = slice(scenes.start * VIEWS_PER_SCENE, scenes.stop * VIEWS_PER_SCENE)
            self.images[where], self.depth[where], self.shares[where] = images, depth, shares
            for file in (self.images, self.depth, self.shares):
                file.flush()
            self._write({**self._record(), "rendered_scenes": scenes.stop})

    def pixels(self, indices: list[int], device: torch.device | str = "cpu") -> Tensor:
        """Views `(N, 3, size, size)` in [-1, 1]."""
        return torch.from_numpy(self.images[indices]).to(device).float() / 127.5 - 1

    def depths(self, indices: list[int], device: torch.device | str = "cpu") -> Tensor:
        """Their exact z-depth, `(N, size, size)`."""
        return torch.from_numpy(self.depth[indices]).to(device).float()

    def caption(self, index: int, wording: int) -> str:
        """A caption of a view: `wording` chooses the words and which attributes are named."""
        return describe(
            self.attributes(index),
            Chooser(wording),
            object_count=self.object_count(index),
            unseen=self.unseen(index),
        )

    def attributes(self, index: int) -> SceneAttributes:
        """The attributes of a view's scene."""
        return sample_attributes(self.split, index // VIEWS_PER_SCENE)

    def object_count(self, index: int) -> int:
        """How many of the scene's other objects a view shows."""
        return int((self.shares[index, len(SHOWN) :] >= LEAST_SHARES["objects"]).sum())

    def object_counts(self) -> np.ndarray:
        """[`object_count`] of all views rendered so far, `(N,)`."""
        return (self.shares[: len(self), len(SHOWN) :] >= LEAST_SHARES["objects"]).sum(1)

    def unseen(self, index: int) -> set[str]:
        """Those of `rendering.SHOWN` that a view does not show enough of to be named."""
        return unseen_attributes(self.shares[index].tolist())

    def _file(self, name: str, shape: tuple[int, ...], dtype: type) -> np.memmap:
        path = self.folder / f"{name}.npy"
        if path.exists():
            return np.lib.format.open_memmap(path, mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    def _record(self) -> dict:
        return json.loads((self.folder / _RECORD_NAME).read_text())

    def _write(self, record: dict) -> None:
        temporary = self.folder / f".{_RECORD_NAME}"
        temporary.write_text(json.dumps(record))
        os.replace(temporary, self.folder / _RECORD_NAME)


def _render_block(job: tuple[Split, int, range]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, depth and shares (see `RenderedViews.shares`) of all views of some scenes."""
    split, size, scenes = job
    each = [render(sample_scene(split, index), view_cameras(split, index, size)) for index in scenes]
    return (
        np.concatenate([(views.images * 255).round().byte().numpy() for views in each]),
        np.concatenate([views.depth[:, 0].numpy().astype(np.float16) for views in each]),
        np.concatenate([views.shares().numpy().astype(np.float16) for views in each]),
    )


def view_cameras(split: Split, scene_index: int, size: int, count: int = VIEWS_PER_SCENE) -> Cameras:
    """Cameras all around a scene's subject, at changing heights, distances and lenses, not always quite at it."""
    choose = Chooser(7_919 * (scene_index + 1) + hash_of(split))
    cameras = []
    for _ in range(count):
        azimuth, elevation = choose.uniform(0.0, 360.0), choose.uniform(4.0, 42.0)
        target = tuple(choose.uniform(-0.06, 0.06) for _ in range(3))
        cameras.append(
            Cameras.orbit(
                1,
                azimuth=(azimuth, azimuth),
                elevation=elevation,
                radius=choose.uniform(0.8, 1.25),
                target=target,
                field_of_view=FIELD_OF_VIEW + choose.uniform(-4.0, 4.0),
                height=size,
                width=size,
            )
        )
    return Cameras.cat(cameras)


def hash_of(split: Split) -> int:
    """A number for each split, the same in every run."""
    return sum(ord(letter) << (8 * (place % 3)) for place, letter in enumerate(split))
