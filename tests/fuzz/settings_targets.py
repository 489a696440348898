"""Files of settings: trainers' yaml, prompts, records of generations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from diffusers_mvcustom.cli.prompt_file import read_prompts
from diffusers_mvcustom.export import read_record
from diffusers_mvcustom.training.backbone_training_config import BackboneTrainingConfig
from diffusers_mvcustom.training.command_line import parse_settings
from diffusers_mvcustom.training.subject_training_config import SubjectTrainingConfig
from diffusers_mvcustom.training.video_captions import read_metadata, read_sidecar

from .mutations import as_json, spoiled, spoiled_bytes, spoiled_text
from .targets import Target

ALIAS_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n" for before, after in zip("abcdefgh", "bcdefghi")
)
"""Ten to the ninth texts in a few lines of YAML."""
TAGS = (
    "!!python/object/apply:os.system [true]",
    "!!int ''",
    "!!bool x",
    "!!timestamp x",
    "!!binary é",
    "2024-13-45",
    "? [a]: b",
)

_ENTRIES = ["one", {"prompt": "a mug", "subject": "you/mug", "seed": 3, "output": "mine"}, {"prompt": "two"}]
_SUBJECT = {
    "model": "tiny",
    "data": "photos",
    "output_dir": "out",
    "token": "<it>",
    "prompts": ["a {token} {noun}"],
    "feature_nerf": {"num_samples": 8},
    "max_train_steps": 10,
    "learning_rate": 1e-4,
    "holdout": 1,
}
_BACKBONE = {
    "model": "tiny",
    "data": ["videos"],
    "output_dir": "out",
    "resolution": [64, 64],
    "window_schedule": [[0, 1], [0.5, None]],
    "validation_prompts": ["a mug"],
    "min_crop": 0.8,
}
_RECORD = {
    "prompt": "a <it> mug",
    "token": "<it>",
    "subject": None,
    "seed": 0,
    "hooks": ["KnownViews"],
    "anchors": [1],
}


def _named(names: list[str], contents: Callable[[str], st.SearchStrategy]) -> st.SearchStrategy:
    return st.sampled_from(names).flatmap(lambda name: contents(name).map(lambda content: (name, content)))


def _as_yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, OverflowError):
        return as_json(value)


def _yaml_of(value: Any) -> st.SearchStrategy:
    text = yaml.safe_dump(value)
    tagged = st.sampled_from(TAGS).map(lambda tag: (text + f"\nmodel: {tag}\n").encode())
    special = st.sampled_from([ALIAS_BOMB.encode(), ("[" * 500).encode(), b"", b"- 1\n", b"\t", text.encode()])
    return spoiled(value).map(_as_yaml) | spoiled(value).map(as_json) | spoiled_text(text) | tagged | special


def _prompts() -> st.SearchStrategy:
    def contents(name: str) -> st.SearchStrategy:
        if name.endswith(".txt"):
            return spoiled_text("a mug\na car\n")
        if name.endswith(".json"):
            return spoiled(_ENTRIES).map(as_json) | spoiled_bytes(json.dumps(_ENTRIES).encode())
        return _yaml_of(_ENTRIES)

    return _named(["p.txt", "p.json", "p.json", "p.yaml", "p.csv"], contents)


def _read_prompts(folder: Path, file: tuple[str, bytes]) -> None:
    for request in read_prompts(folder / file[0]):
        target = folder / request.output
        assert target.parent == folder, request.output
        target.is_dir()
        f"{request.prompt}{request.output}{request.subject}".encode()
        assert request.seed is None or -(2**63) <= request.seed < 2**64


def _settings(folder: Path, file: tuple[str, bytes]) -> None:
    subject = file[0] == "subject.yaml"
    config = SubjectTrainingConfig if subject else BackboneTrainingConfig
    options = {"program": "train", "description": "", "epilog": ""}
    parse_settings(
        config, ["--config", str(folder / file[0])], preset_prefix="" if subject else "backbone_", **options
    )


def _captions(folder: Path, file: tuple[str, bytes]) -> None:
    if file[0].startswith("metadata"):
        for name in read_metadata(folder / file[0], None):
            assert (folder / name).is_relative_to(folder)
            assert ".." not in Path(name).parts, name
            (folder / name).exists()
    else:
        read_sidecar(file[1], Path(file[0]).suffix, None, "clip")


def _caption_files() -> st.SearchStrategy:
    row = {"file_name": "a.mp4", "caption": "a mug"}

    def contents(name: str) -> st.SearchStrategy:
        if name.endswith(".csv"):
            return spoiled_text("file_name,caption\na.mp4,a mug\n")
        return spoiled(row).map(as_json) | spoiled_bytes(json.dumps(row).encode())

    return _named(["metadata.jsonl", "metadata.csv", "clip.json", "clip.txt"], contents)


def _write_named(folder: Path, file: tuple[str, bytes]) -> None:
    (folder / file[0]).write_bytes(file[1])


SETTINGS_TARGETS = (
    Target("prompt file", _prompts, _write_named, _read_prompts),
    Target(
        "trainer settings",
        lambda: _named(["subject.yaml", "backbone.yaml"], lambda n: _yaml_of(_SUBJECT if n[0] == "s" else _BACKBONE)),
        _write_named,
        _settings,
        weight=2.0,
    ),
    Target(
        "generation record",
        lambda: _named(
            ["generation.json"], lambda n: spoiled(_RECORD).map(as_json) | spoiled_bytes(json.dumps(_RECORD).encode())
        ),
        _write_named,
        lambda folder, file: read_record(folder),
        weight=0.5,
    ),
    Target("video captions", _caption_files, _write_named, _captions, weight=0.5),
)
