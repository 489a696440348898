"""What a FeatureNeRF refuses: inputs that do not fit, settings that cannot be used."""

from __future__ import annotations

import json
import math

import pytest
import torch
from reference.feature_nerf_scenes import float_scene

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models import FeatureNeRF, FeatureNeRFConfig, RayDistribution

CONFIG = FeatureNeRFConfig(hidden_channels=6, num_samples=8, point_frequencies=4, ray_frequencies=2)

# --- input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_features": torch.zeros(1, 2, 5, 3, 3)}, r"reference_features: expected shape \(B, V, 4, h, w\)"),
        ({"reference_features": torch.zeros(2, 4, 3, 3)}, "reference_features: expected"),
        (
            {"reference_camera_to_world": torch.eye(4).expand(1, 3, 4, 4)},
            r"reference_camera_to_world: .*\(1, 2, 4, 4\)",
        ),
        ({"reference_intrinsics": torch.eye(3)}, r"reference_intrinsics: expected shape \(1, 2, 3, 3\)"),
        ({"target_camera_to_world": torch.eye(4).expand(3, 4, 4)}, "target_camera_to_world: expected shape"),
        ({"target_camera_to_world": torch.zeros(1, 0, 4, 4)}, "target_intrinsics: expected shape"),
        ({"target_intrinsics": torch.eye(3).expand(1, 2, 3, 3)}, r"target_intrinsics: expected shape \(1, 3, 3, 3\)"),
        ({"reference_masks": torch.ones(1, 2, 1, 3, 3)}, r"reference_masks: expected shape \(1, 2, 3, 3\)"),
        ({"height": 0}, "height: expected at least 1, got 0"),
        ({"rays_per_chunk": 0}, "rays_per_chunk: expected at least 1, got 0"),
        ({"encoder_hidden_states": torch.zeros(1, 1, 2, 3)}, "attend_text: expected both or neither"),
        (
            {"encoder_hidden_states": torch.zeros(1, 2, 3), "attend_text": max},
            r"encoder_hidden_states: .*\(1, T, L, D\)",
        ),
        (
            {"encoder_hidden_states": torch.zeros(1, 0, 2, 3), "attend_text": max},
            "encoder_hidden_states: .*at least one",
        ),
        (
            {"previous": RayDistribution(torch.zeros(1, 2, 2, 2, 3), torch.zeros(1, 2, 2, 2, 2))},
            r"previous: .*\(1, 3\), got \(1, 2\).*other cameras",
        ),
    ],
)
def test_input_of_another_shape_is_refused_by_name(change, message):
    scene = {**float_scene(1, 2, 3, 4, (3, 3), (2, 2)), **change}
    with pytest.raises(MVCustomError, match=message):
        FeatureNeRF(4, CONFIG)(**scene)


# --- settings ---


def test_settings_go_through_json():
    config = FeatureNeRFConfig(hidden_channels=12, num_samples=7, far=3.5, predict_rgb=False)
    assert FeatureNeRFConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert FeatureNeRFConfig.from_dict({}) == FeatureNeRFConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_sampels": 3}, r"unknown keys \['num_sampels'\]"),
        ({"num_samples": 0}, "num_samples: expected a whole number of at least 1, at most 4,096, got 0"),
        ({"num_samples": 2.5}, "num_samples: .* got 2.5"),
        ({"num_samples": True}, "num_samples: .* got True"),
        ({"hidden_channels": 0}, "hidden_channels: .* got 0"),
        ({"near": 0.0}, r"near: expected a length in \(0, far = 2\), got 0"),
        ({"near": 2.0}, r"near: expected a length in \(0, far = 2\), got 2"),
        ({"far": math.inf}, "far: expected a positive length, got inf"),
        ({"far": "2"}, "far: expected a positive length, got '2'"),
        ({"importance_share": 1.0}, r"importance_share: expected a number in \[0, 1\), got 1"),
        ({"initial_opacity": 0.0}, r"initial_opacity: expected a number in \(0, 1\), got 0"),
        ({"encoding_octaves": -1.0}, "encoding_octaves: .* got -1"),
        ({"predict_rgb": 1}, "predict_rgb: expected true or false, got 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(values, message):
    with pytest.raises(MVCustomError, match=message):
        FeatureNeRFConfig.from_dict(values)
