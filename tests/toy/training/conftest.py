"""A small store of rendered views."""

import pytest

from diffusers_mvcustom.toy.training.view_store import ViewStore


@pytest.fixture(scope="session")
def small_store(tmp_path_factory):
    """Six scenes, twelve views of 16 × 16."""
    store = ViewStore(tmp_path_factory.mktemp("views"), "train", num_scenes=6, size=16)
    store.fill()
    return store
