"""A few inputs of each entry point in every test run; `python tests/fuzz/run.py` tries as many as there is time for."""

import tempfile
import warnings
from pathlib import Path

import pytest
from fuzz.all_targets import ALL_TARGETS
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("target", ALL_TARGETS, ids=lambda target: target.name)
def test_only_clear_errors_come_out(target, monkeypatch):
    """Quickly, within bounded memory, without touching anything that is not the caller's (see `fuzz.watch`)."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    @settings(
        max_examples=15,
        derandomize=True,  # the same inputs in every run
        database=None,
        deadline=None,  # `fuzz.watch` measures CPU time, which a busy machine does not change
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def try_one(value):
        with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(temporary) / "inner"
            folder.mkdir()
            target.try_one(folder, value)

    try_one()
