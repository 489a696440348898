"""Results on disk: made once, complete or not there, told apart by what they depend on."""

import pytest
import torch
from safetensors.torch import save_file

from diffusers_mvcustom.evaluation.toy_suite.cells import (
    Cells,
    folder_key,
    image_model_key,
    key_of,
    load_images,
    save_images,
)


def test_a_result_is_made_once(tmp_path):
    cells, made = Cells(tmp_path / "cells"), []

    def make(folder):
        made.append(folder)
        (folder / "result.txt").write_text("done")

    first = cells.get("views", {"seed": 1, "steps": 2}, make)
    again = cells.get("views", {"steps": 2, "seed": 1}, make)
    other = cells.get("views", {"seed": 2, "steps": 2}, make)
    assert first == again != other
    assert len(made) == 2
    assert (first / "result.txt").read_text() == "done"
    assert cells.has("views", {"seed": 1, "steps": 2})
    assert not cells.has("scores", {"seed": 1, "steps": 2})


def test_an_interrupted_result_leaves_nothing(tmp_path):
    cells = Cells(tmp_path)

    def interrupted(folder):
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cells.get("views", {"seed": 1}, interrupted)
    assert not cells.has("views", {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_two_runs_may_share_cells(tmp_path):
    def slower(folder):
        Cells(tmp_path).get("views", {"seed": 1}, lambda other: (other / "by.txt").write_text("the other run"))
        (folder / "by.txt").write_text("this run")

    place = Cells(tmp_path).get("views", {"seed": 1}, slower)
    assert (place / "by.txt").read_text() == "the other run"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", place.name]

    def failing(folder):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        Cells(tmp_path).get("views", {"seed": 2}, failing)


def test_keys_depend_on_every_value():
    keys = {key_of(values) for values in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": {"b": 1}}, {})}
    assert len(keys) == 5


def test_a_model_folder_is_known_by_its_weights_and_configurations(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("card")
    before = folder_key(tmp_path)
    (tmp_path / "README.md").write_text("another card")
    assert folder_key(tmp_path) == before
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weightS")
    assert folder_key(tmp_path) != before


def test_an_image_model_is_known_without_its_motion_modules(tmp_path):
    def key(settings="{}", **weights):
        (tmp_path / "model_index.json").write_text(settings)
        stored = {"conv_in.weight": torch.ones(2, 3), "down.motion_modules.0.bias": torch.ones(4), **weights}
        save_file(stored, tmp_path / "model.safetensors")
        return image_model_key(tmp_path)

    before = key()
    assert key() == before
    assert key('{"attention_window": 3}', **{"down.motion_modules.0.bias": torch.zeros(4)}) == before
    assert key(**{"conv_in.weight": torch.ones(2, 3).half()}) != before
    assert key(**{"conv_in.scale": torch.tensor(1.0)}) != before
    (tmp_path / "config.json").write_text("{}")
    assert key() != before


def test_views_come_back_at_8_bits(tmp_path):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    save_images(tmp_path, images)
    torch.testing.assert_close(load_images(tmp_path), (images * 255).round() / 255)
