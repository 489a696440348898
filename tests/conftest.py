"""Fixtures of several rooms. None is built, and no model library imported, unless a test asks for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def pytest_configure() -> None:
    """One thread a process unless told otherwise, in the processes that tests start, too.

    Models are tiny here, every core has a worker, and threads would mostly wait for each other.

    On a busy machine that waiting is most of the time (measured: 22 s with one thread, 52 s with two, 230 s with two on
    a loaded machine).
    """
    # Ctrl-C is ignored where a script starts pytest in its background; the tests of it need it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def make_components() -> Callable[..., dict[str, Any]]:
    """`random_components`, each call giving fresh models (about 0.1 s at tiny size)."""
    from diffusers_mvcustom.toy import random_components

    return random_components


@pytest.fixture
def components(make_components) -> dict[str, Any]:
    """Fresh tiny components with a depth estimator."""
    return make_components("tiny")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Where real data lies: `MVCUSTOM_DATA`, or `shared/data` beside the repository."""
    named = os.environ.get("MVCUSTOM_DATA")
    return Path(named) if named else Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def buddha(data_folder) -> Path:
    """The 13 posed photos of a Buddha head (Zenodo 1203283, CC BY 4.0)."""
    folder = data_folder / "buddha"
    if not (folder / "transforms.json").is_file():
        pytest.skip(f"real photos are not here ({folder}); set MVCUSTOM_DATA to a folder that holds buddha/")
    return folder


@pytest.fixture(scope="session")
def cube_capture(tmp_path_factory) -> Path:
    """Twelve posed, masked 64×48 views of a cube at the origin, in the subject frame (see `synthetic_capture`)."""
    from synthetic_capture import write_capture

    return write_capture(tmp_path_factory.mktemp("cube") / "capture")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a tiny model of random weights, with a depth model."""
    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.toy import random_components

    folder = tmp_path_factory.mktemp("tiny-model")
    MVCustomPipeline(**random_components("tiny")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_without_depth(tmp_path_factory) -> Path:
    """Folder of a tiny model of random weights, without a depth model."""
    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.toy import random_components

    folder = tmp_path_factory.mktemp("tiny-model-without-depth")
    MVCustomPipeline(**random_components("tiny", depth_estimator=False)).save_pretrained(folder)
    return folder


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps one state for a whole process; the next test gets a new one."""
    from accelerate import PartialState

    yield
    PartialState._reset_state()


@pytest.fixture
def mvcustom(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Runs `mvcustom` in a folder of its own and returns what it printed; `code` is the exit code that it has to have."""
    from command_line import run_mvcustom

    for name, value in (("COLUMNS", "200"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)

    def mvcustom(*arguments, code=0):
        ended = run_mvcustom(tmp_path, *arguments)
        assert ended.returncode == code, ended.stderr[-3000:]
        return ended

    return mvcustom
