"""Settings of a FeatureNeRF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import MVCustomError
from ..files.text_files import is_finite_number

LARGEST_WIDTH = 2**16
"""Channels of a layer at most; settings come from files of others, and memory is asked for by them."""


@dataclass(frozen=True)
class FeatureNeRFConfig:
    """Settings of a [`FeatureNeRF`]. Lengths are in the subject frame, whose farthest reference camera is at distance 1.

    Args:
        hidden_channels (`int`, *optional*): Width of the per-view MLP; by default that of the features.
        num_samples (`int`, defaults to 24): Samples on a ray.
        near (`float`, defaults to 0.1): Distance from the target camera at which its rays begin. It is small, for target
            cameras may come closer than the references did; of 24 samples one lies before 0.18.
        far (`float`, defaults to 2.0): Distance at which they end.
        point_frequencies (`int`, defaults to 16): Frequencies of the positional encoding of points.
        ray_frequencies (`int`, defaults to 8): Frequencies of the positional encoding of rays and directions.
        encoding_octaves (`float`, defaults to 7.5): The frequencies are `π · 2^e` with e spaced evenly from 0 to this. With
            16 frequencies these are half octaves, down to a period of 0.011: about a pixel of a 64 × 64 map at distance
            1, and well within what float32 coordinates resolve.
        predict_rgb (`bool`, defaults to `True`): Whether colours are rendered too (training compares them with photos).
        importance_share (`float`, defaults to 0.75): Of the samples on an opaque ray, the share that goes to where an
            earlier block found the subject, in [0, 1).
        initial_opacity (`float`, defaults to 0.5): Opacity of a full ray before training, in (0, 1). An untrained field
            is an even fog. At one half the mask can pull it both ways, and the first and the last sample on the ray
            differ by only a factor of two in what they contribute, so every depth is learnt from.

    Example:

        >>> from diffusers_mvcustom.models import FeatureNeRFConfig
        >>> config = FeatureNeRFConfig(num_samples=12)
        >>> FeatureNeRFConfig.from_dict(config.to_dict()) == config
        True
    """

    hidden_channels: int | None = None
    num_samples: int = 24
    near: float = 0.1
    far: float = 2.0
    point_frequencies: int = 16
    ray_frequencies: int = 8
    encoding_octaves: float = 7.5
    predict_rgb: bool = True
    importance_share: float = 0.75
    initial_opacity: float = 0.5

    def __post_init__(self) -> None:
        if self.hidden_channels is not None:
            self._check_count("hidden_channels", 1, LARGEST_WIDTH)
        self._check_count("num_samples", 1, 4096)
        self._check_count("point_frequencies", 0, 1024)
        self._check_count("ray_frequencies", 0, 1024)
        if not isinstance(self.predict_rgb, bool):
            raise MVCustomError(f"predict_rgb: expected true or false, got {self.predict_rgb!r}.")
        self._check_number("far", "a positive length", lambda value: value > 0)
        self._check_number("near", f"a length in (0, far = {self.far:g})", lambda value: 0 < value < self.far)
        self._check_number("encoding_octaves", "a number in [0, 64]", lambda value: 0 <= value <= 64)
        self._check_number("importance_share", "a number in [0, 1)", lambda value: 0 <= value < 1)
        self._check_number("initial_opacity", "a number in (0, 1)", lambda value: 0 < value < 1)

    def _check_count(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise MVCustomError(
                f"{name}: expected a whole number of at least {least}, at most {most:,}, got {value!r}."
            )

    def _check_number(self, name: str, expected: str, fits: Any) -> None:
        value = getattr(self, name)
        if not is_finite_number(value) or not fits(value):
            raise MVCustomError(f"{name}: expected {expected}, got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureNeRFConfig:
        """Settings from JSON; what is missing has its default value.

        Raises:
            MVCustomError: naming unknown keys, or a value that cannot be used.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, set(values) - known))
        if unknown:
            raise MVCustomError(f"unknown keys {unknown}, expected some of {sorted(known)}. Made by a newer version?")
        return cls(**values)
