"""The `mvcustom` command, in this process: any arguments, any files."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from diffusers_mvcustom.cli import main
from diffusers_mvcustom.errors import MVCustomError

from .mutations import as_json, odd_numbers, odd_paths, odd_texts, spoiled
from .targets import Target

# Each has a "nothing" that stays, so that none of them gets to work that takes long.
_COMMANDS: dict[tuple[str, ...], tuple[list[str], list[str]]] = {
    ("cameras", "convert"): (["transforms.json", "converted"], ["--format", "--height", "--convention"]),
    ("cameras", "show"): (["transforms.json", "-o", "plot.png"], ["--normalize", "--width", "--convention"]),
    ("evaluate",): (["."], ["--prompt", "--seed", "--threads", "--device", "--write-to", "--reference", "--clip"]),
    ("generate",): (
        ["--model", "nothing", "-o", "views", "--orbit", "2", "--prompt", "a mug"],
        [
            *(
                "--steps",
                "--azimuth",
                "--device",
                "--dtype",
                "--scheduler",
                "--seed",
                "--prompts",
                "--views",
                "--window",
                "--temporal-heads",
            ),
            *("--elevation", "--rise", "--radius", "--target", "--field-of-view", "--height", "--cameras", "--spiral"),
        ],
    ),
    ("prepare",): (
        ["photos", "-o", "prepared"],
        ["--masks", "--max-size", "--frames", "--up", "--caption", "--token"],
    ),
    ("subject", "create"): (
        ["transforms.json", "-o", "subject", "--model", "nothing", "--token", "<it>", "--class-noun", "mug"],
        ["--up"],
    ),
    ("toy", "photos"): (["toy", "--count", "3", "--size", "16"], ["--split", "--index"]),
    ("random-model",): (["model", "--size", "nothing"], ["--seed"]),
    ("benchmark",): (["-o", "report", "--model", "nothing"], ["--split", "--reader", "--subjects"]),
    ("train-lora",): (["--config", "nothing.yaml"], ["--rank", "--data"]),
    ("train-backbone",): (["--config", "nothing.yaml"], ["--num_frames", "--data"]),
    ("demo",): (["--device", "nothing", "--model", "nothing"], ["--views", "--steps"]),
}


def one_view() -> dict[str, Any]:
    """A set of a single view, which evaluation always refuses in the end."""
    pose = np.eye(4)
    pose[2, 3] = 1.0
    frame = {"file_path": "frames/0000.png", "transform_matrix": pose.tolist()}
    return {"fl_x": 16.0, "fl_y": 16.0, "cx": 8.0, "cy": 8.0, "w": 16, "h": 16, "frames": [frame]}


@st.composite
def _calls(draw: Callable) -> tuple[list[str], bytes]:
    """Arguments, and the transforms.json that lies in the working folder."""
    command = draw(st.sampled_from(sorted(_COMMANDS)))
    given, options = _COMMANDS[command]
    arguments = [*command, *given]
    odd = odd_texts | odd_paths | odd_numbers.map(repr)
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["option", "option", "replace", "drop", "add"]))
        position = draw(st.integers(len(command), len(arguments) - 1))
        if kind == "option":
            arguments += [draw(st.sampled_from(options)), draw(odd)]
        elif kind == "replace" and arguments[position] != "nothing":
            arguments[position] = draw(odd)
        elif (
            kind == "drop"
            and len(arguments) > len(command) + 1
            and "nothing" not in arguments[position : position + 2]
        ):
            del arguments[position]
        else:
            arguments.insert(position, draw(odd))
    # What a shell cannot pass to a program is none of ours.
    arguments = [argument.encode("utf-8", "ignore").decode().replace("\0", "")[:3000] for argument in arguments]
    content = draw(st.just(as_json(one_view())) | spoiled(one_view()).map(as_json))
    return arguments, content


def _write(folder: Path, call: tuple[list[str], bytes]) -> None:
    (folder / "transforms.json").write_bytes(call[1])
    (folder / "frames").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "frames" / "0000.png")
    (folder / "generation.json").write_text(json.dumps({"prompt": "a mug", "token": None}))


def run(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command, run in a folder."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), errors.getvalue()


def _call(folder: Path, call: tuple[list[str], bytes]) -> None:
    before = set(os.listdir(folder))
    code, out, errors = run(call[0], folder)
    made = set(os.listdir(folder)) - before
    if code == 0:
        for name in made:
            _remove(folder / name)
        return
    assert code in (1, 2), code
    assert not made, made
    lines = [line for line in errors.splitlines() if line.startswith("mvcustom")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors + out
    assert errors.splitlines()[-1] == lines[0], errors
    assert lines[0].isprintable(), lines
    assert len(lines[0]) < 2000, len(lines[0])
    if code == 1:
        raise MVCustomError(lines[0])  # counted as refused
    raise MVCustomError(f"usage: {lines[0]}")


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


COMMAND_TARGETS = (Target("command line", _calls, _write, _call, weight=2.0),)
