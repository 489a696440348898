"""What a subject's folder says about it in words and numbers: `subject_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeGuard

from ..cameras import SubjectFrame
from ..errors import MVCustomError
from ..files.text_files import read_json
from ..models.feature_nerf_config import LARGEST_WIDTH, FeatureNeRFConfig
from .placeholders import placeholders

FORMAT_VERSION = 1
SUBJECT_CONFIG_NAME = "subject_config.json"


@dataclass(frozen=True)
class SubjectConfig:
    """A subject's settings.

    Args:
        token (`str`): The new word that stands for the subject in prompts, such as `"<my-mug>"`. No spaces.
        class_noun (`str`): What kind of thing it is, such as `"mug"`.
        initializer_token (`str`): The known word whose embedding the new one started from.
        pose_conditioned_blocks (`dict[str, int]`): Channels of each pose-conditioned transformer block by its module
            name in the U-Net, in the order in which the U-Net runs them.
        feature_nerf ([`FeatureNeRFConfig`]): Settings of every block's FeatureNeRF.
        subject_frame ([`SubjectFrame`], *optional*): The similarity between the photos' world and the subject frame,
            in which all cameras are given. `None` if the photos' world already is the subject frame.
        reference_prompt (`str`): The text that the reference views are seen with; `{token}` and `{noun}` are filled
            in.
        num_references (`int`, *optional*, defaults to 8): How many reference views a generation uses.
        reference_timestep (`int`, *optional*, defaults to 0): Noise level at which the U-Net sees the reference views;
            0 leaves them clean.
        base_model (`str`, *optional*): Hub id of the model that the subject was trained on.
        versions (`dict[str, str]`, *optional*): Versions of the packages that made the subject.
        training (`dict`, *optional*): The trainer's settings, for the record.

    Raises:
        MVCustomError: naming the field, what was expected and what came.
    """

    token: str
    class_noun: str
    initializer_token: str
    pose_conditioned_blocks: Mapping[str, int]
    feature_nerf: FeatureNeRFConfig
    subject_frame: SubjectFrame | None = None
    reference_prompt: str = "a photo of a {token} {noun}"
    num_references: int = 8
    reference_timestep: int = 0
    base_model: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("token", "class_noun", "initializer_token", "reference_prompt"):
            _check(self, name, lambda value: isinstance(value, str) and value.strip(), "a text that is not empty")
        _check(self, "token", lambda value: not any(c.isspace() for c in value), "one word without spaces")
        _check(self, "base_model", lambda value: value is None or isinstance(value, str), "a text or null")
        _check(self, "num_references", lambda value: _is_int(value) and value >= 1, "a whole number of at least 1")
        _check(self, "reference_timestep", lambda value: _is_int(value) and value >= 0, "a whole number of at least 0")
        _check(
            self,
            "pose_conditioned_blocks",
            lambda value: (
                isinstance(value, Mapping)
                and value
                and all(_is_int(c) and 0 < c <= LARGEST_WIDTH for c in value.values())
            ),
            f"channels (at most {LARGEST_WIDTH:,}) by block name, at least one block",
        )
        _check(
            self,
            "versions",
            lambda value: isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()),
            "texts by package name",
        )
        _check(self, "training", lambda value: isinstance(value, Mapping), "settings by name")
        if "token" not in placeholders(self.reference_prompt, "reference_prompt"):
            raise MVCustomError(
                "reference_prompt: expected a text with {token} and, if wanted, {noun}, got "
                f"{self.reference_prompt!r}."
            )

    @property
    def reference_prompt_text(self) -> str:
        """The reference prompt with the subject's token and class noun."""
        return self.reference_prompt.format(token=self.token, noun=self.class_noun)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["feature_nerf"] = self.feature_nerf.to_dict()
        values["subject_frame"] = None if self.subject_frame is None else self.subject_frame.to_dict()
        for name in ("pose_conditioned_blocks", "versions", "training"):
            values[name] = dict(values[name])
        return {"format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SubjectConfig:
        """The inverse of [`~SubjectConfig.to_dict`]. Every key has to be there, and no other.

        Raises:
            MVCustomError: naming the key.
        """
        if not isinstance(values, Mapping):
            raise MVCustomError(f"expected an object with the subject's settings, got {type(values).__name__}.")
        version = values.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            newer = (
                " Made by a newer version of this package?" if _is_int(version) and version > FORMAT_VERSION else ""
            )
            raise MVCustomError(f"format_version: expected {FORMAT_VERSION}, got {version!r}.{newer}")
        known = {"format_version", *(entry.name for entry in fields(cls))}
        if missing := sorted(known - values.keys()):
            raise MVCustomError(f"expected the keys {sorted(known)}, but {missing} are missing.")
        if unknown := sorted(values.keys() - known):
            raise MVCustomError(f"expected the keys {sorted(known)}, got unknown keys {unknown}.")
        values = {name: value for name, value in values.items() if name != "format_version"}
        values["feature_nerf"] = _part("feature_nerf", FeatureNeRFConfig, values["feature_nerf"])
        if values["subject_frame"] is not None:
            values["subject_frame"] = _part("subject_frame", SubjectFrame, values["subject_frame"])
        return cls(**values)

    def save(self, file: str | PathLike[str]) -> None:
        """Writes the settings as JSON."""
        try:
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise MVCustomError(f"training: expected values that JSON can hold: {error}.") from error
        Path(file).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: str | PathLike[str]) -> SubjectConfig:
        """Reads the settings.

        Raises:
            MVCustomError: naming the file and the key that is missing, unknown or of another kind than expected.
        """
        file = Path(file)
        absent = ", so the folder is no subject's"
        if (file.parent / "subject" / file.name).is_file():
            absent += f"; {file.parent / 'subject'} is one"
        elif (file.parent / "transforms.json").is_file():
            absent += " but photos with cameras, of which `mvcustom train-lora --data` makes a subject"
        values = read_json(file, absent=absent)
        try:
            return cls.from_dict(values)
        except MVCustomError as error:
            raise MVCustomError(f"{file}: {error}") from error


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(config: SubjectConfig, name: str, accept: Any, expected: str) -> None:
    value = getattr(config, name)
    if not accept(value):
        raise MVCustomError(f"{name}: expected {expected}, got {value!r}.")


def _part(name: str, part: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise MVCustomError(f"{name}: expected an object, got {value!r}.")
    try:
        return part.from_dict(value)
    except (TypeError, ValueError, KeyError) as error:
        raise MVCustomError(f"{name}: {str(error).removeprefix(name + ': ')}") from error
