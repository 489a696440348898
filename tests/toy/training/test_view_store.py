import json

import numpy as np
import pytest
import torch

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import read_caption, render, sample_attributes, sample_scene
from diffusers_mvcustom.toy.splits import SPLITS
from diffusers_mvcustom.toy.training.view_store import VIEWS_PER_SCENE, ViewStore, hash_of, view_cameras


def contents(store):
    return [np.array(part) for part in (store.images, store.depth, store.shares)]


def test_it_holds_renders_of_the_split(small_store):
    assert len(small_store) == 6 * VIEWS_PER_SCENE
    views = render(sample_scene("train", 2), view_cameras("train", 2, 16))
    indices = [2 * VIEWS_PER_SCENE, 2 * VIEWS_PER_SCENE + 1]
    assert torch.allclose((small_store.pixels(indices) + 1) / 2, views.images, atol=0.5 / 255 + 1e-6)
    assert torch.allclose(small_store.depths(indices), views.depth[:, 0], rtol=1e-3)
    assert [small_store.object_count(index) for index in indices] == views.visible_objects().tolist()
    assert small_store.object_counts()[indices].tolist() == views.visible_objects().tolist()
    assert [small_store.unseen(index) for index in indices] == [views.unseen(0), views.unseen(1)]
    assert small_store.attributes(5) == sample_attributes("train", 2)
    # Each view has a camera of its own.
    assert not np.array_equal(small_store.images[4], small_store.images[5])


def test_filling_goes_on_where_it_was_interrupted(small_store, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupting(blocks):
        for number, block in enumerate(blocks):
            if number == 2:
                raise Interrupted
            yield block

    store = ViewStore(tmp_path, "train", num_scenes=6, size=16)
    with pytest.raises(Interrupted):
        store.fill(interrupting, block=2)
    assert (store.rendered_scenes, len(store)) == (4, 8)
    again = ViewStore.at(tmp_path)
    starts = []
    again.fill(lambda blocks: (starts.append(block) or block for block in blocks), block=2)
    assert len(starts) == 1  # the last two scenes
    assert all(np.array_equal(one, other) for one, other in zip(contents(again), contents(small_store)))
    assert len(store) == 12  # whoever reads it sees what another has rendered


@pytest.mark.slow  # each process imports torch
def test_several_processes_render_the_same(small_store, tmp_path):
    store = ViewStore(tmp_path, "train", num_scenes=6, size=16)
    store.fill(block=2, workers=2)
    assert all(np.array_equal(one, other) for one, other in zip(contents(store), contents(small_store)))


def test_captions_name_only_what_the_view_shows(small_store):
    for index in range(len(small_store)):
        attributes, count = small_store.attributes(index), small_store.object_count(index)
        assert count <= attributes.object_count
        for wording in range(5):
            found = read_caption(small_store.caption(index, wording))
            assert found["category"] == attributes.category
            assert found.get("object_count", count) == count
            assert not set(found) & small_store.unseen(index)
    assert len({small_store.caption(0, wording) for wording in range(20)}) > 5
    assert small_store.caption(0, 3) == small_store.caption(0, 3)


def test_a_store_of_something_else_is_refused(small_store, tmp_path):
    with pytest.raises(MVCustomError, match=r"holds views of .*'train'.*, expected .*'validation'"):
        ViewStore(small_store.folder, "validation", num_scenes=6, size=16)
    (tmp_path / "views.json").write_text(json.dumps({"split": "train", "num_scenes": 6, "size": 16}))
    with pytest.raises(MVCustomError, match=r"expected .*'format': 2"):  # of before captions knew what views show
        ViewStore(tmp_path, "train", num_scenes=6, size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["views.json"]
    with pytest.raises(MVCustomError, match="there are no rendered views; run the stage `views` first"):
        ViewStore.at(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_cameras_see_the_subject_and_differ_between_scenes_and_splits():
    assert len({hash_of(split) for split in SPLITS}) == len(SPLITS)
    for scene_index in range(10):
        cameras = view_cameras("train", scene_index, 32)
        toward = -(cameras.centers * cameras.optical_axes).sum(-1) / cameras.centers.norm(dim=-1)
        assert (toward > 0.98).all()
        assert not cameras.allclose(view_cameras("validation", scene_index, 32))
        assert not cameras.allclose(view_cameras("train", scene_index + 1, 32))
    assert view_cameras("train", 0, 32).allclose(view_cameras("train", 0, 32))
