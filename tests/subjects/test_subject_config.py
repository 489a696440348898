import dataclasses
import json
import re

import pytest

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models.feature_nerf import FeatureNeRFConfig
from diffusers_mvcustom.subjects import SubjectConfig
from diffusers_mvcustom.subjects.subject_config import SUBJECT_CONFIG_NAME


@pytest.fixture
def config() -> SubjectConfig:
    return SubjectConfig(
        token="<my-mug>",
        class_noun="mug",
        initializer_token="cup",
        pose_conditioned_blocks={"mid_block.b": 32, "up_blocks.0.a": 16},
        feature_nerf=FeatureNeRFConfig(num_samples=7),
        reference_prompt="one {noun}, {token}, é",
        num_references=5,
        reference_timestep=20,
        base_model="you/base",
        versions={"torch": "2.6"},
        training={"steps": 10, "rates": [0.1, 0.2]},
    )


def test_every_field_comes_back(config, tmp_path):
    config.save(tmp_path / "subject_config.json")
    loaded = SubjectConfig.load(tmp_path / "subject_config.json")
    assert loaded == config
    assert list(loaded.pose_conditioned_blocks) == ["mid_block.b", "up_blocks.0.a"]
    assert loaded.reference_prompt_text == "one mug, <my-mug>, é"


def test_the_file_lists_every_field(config):
    assert set(config.to_dict()) == {"format_version", *(field.name for field in dataclasses.fields(SubjectConfig))}
    json.dumps(config.to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": "my mug"}, "token: expected one word"),
        ({"token": ""}, "token: expected a text"),
        ({"class_noun": 3}, "class_noun: expected a text"),
        ({"pose_conditioned_blocks": {}}, "pose_conditioned_blocks: expected"),
        ({"pose_conditioned_blocks": {"a": 0}}, "pose_conditioned_blocks: expected"),
        ({"pose_conditioned_blocks": ["a"]}, "pose_conditioned_blocks: expected"),
        ({"num_references": 0}, "num_references: expected"),
        ({"num_references": True}, "num_references: expected"),
        ({"num_references": 2.0}, "num_references: expected"),
        ({"reference_timestep": -1}, "reference_timestep: expected"),
        ({"reference_prompt": "a {noun}"}, "reference_prompt: expected"),
        ({"reference_prompt": "a {token} {adjective}"}, "reference_prompt: expected"),
        ({"reference_prompt": "a {token"}, "reference_prompt: "),
        ({"base_model": 1}, "base_model: expected"),
        ({"versions": {"torch": 2}}, "versions: expected"),
        ({"training": None}, "training: expected"),
        ({"feature_nerf": {"no_such_setting": 1}}, "feature_nerf: .*no_such_setting"),
        ({"feature_nerf": None}, "feature_nerf: expected an object"),
        ({"subject_frame": [1]}, "subject_frame: expected an object"),
        ({"format_version": 2}, "format_version: expected 1, got 2. Made by a newer version"),
        ({"format_version": None}, "format_version: expected 1"),
        ({"extra": 1}, r"unknown keys \['extra'\]"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(config, tmp_path, change, message):
    file = tmp_path / "subject_config.json"
    file.write_text(json.dumps({**config.to_dict(), **change}))
    with pytest.raises(MVCustomError, match=message) as error:
        SubjectConfig.load(file)
    assert str(file) in str(error.value)


def test_every_key_is_required(config, tmp_path):
    file = tmp_path / "subject_config.json"
    for key in config.to_dict():
        file.write_text(json.dumps({name: value for name, value in config.to_dict().items() if name != key}))
        with pytest.raises(MVCustomError, match=key):
            SubjectConfig.load(file)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"3"])
def test_other_content_is_an_error(tmp_path, content):
    file = tmp_path / "subject_config.json"
    file.write_bytes(content)
    with pytest.raises(MVCustomError, match=r"subject_config\.json: "):
        SubjectConfig.load(file)


def test_settings_that_json_cannot_hold_are_refused(config, tmp_path):
    for value in (object(), float("nan")):
        with pytest.raises(MVCustomError, match="training: "):
            dataclasses.replace(config, training={"value": value}).save(tmp_path / "subject_config.json")
    assert not (tmp_path / "subject_config.json").exists()


def test_the_subject_in_a_trainings_folder_is_named(config, tmp_path):
    (tmp_path / "subject").mkdir()
    config.save(tmp_path / "subject" / SUBJECT_CONFIG_NAME)
    with pytest.raises(MVCustomError, match=f"no subject's; {re.escape(str(tmp_path / 'subject'))} is one"):
        SubjectConfig.load(tmp_path / SUBJECT_CONFIG_NAME)
