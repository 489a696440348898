"""A folder for each page to run its blocks in."""

from __future__ import annotations

import shutil

import pytest
from docs.workshop import write_workshop


@pytest.fixture(scope="session")
def _stocked(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("workshop") / "stocked")


@pytest.fixture
def workshop(_stocked, tmp_path):
    """A fresh copy of the folder that `docs.workshop` describes."""
    return shutil.copytree(_stocked, tmp_path / "workshop")
