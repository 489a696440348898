"""Reads a scene's attributes off a picture: the ruler for text alignment in the toy world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..errors import MVCustomError
from .attributes import ATTRIBUTE_VALUES


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.GroupNorm(1, after))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = _convolution(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return features + F.silu(self.change(features))


class AttributeReader(ModelMixin, ConfigMixin):
    """A small convolutional classifier with one answer for each of [`SceneAttributes`]' attributes.

    Args:
        channels (`tuple`, *optional*): Of its layers; each but the first halves the picture.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.toy import AttributeReader
        >>> reader = AttributeReader(channels=(4, 8, 8)).eval()
        >>> sorted(reader.read(torch.rand(2, 3, 64, 64))[0])[:3]
        ['category', 'color', 'ground']
    """

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (32, 64, 96, 128, 192)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels):
            finest = before == 3
            layers += [_convolution(before, after, stride=1 if finest else 2), nn.SiLU()]
            layers += [] if finest else [_Residual(after)]
        self.features = nn.Sequential(*layers)
        self.answers = nn.ModuleDict(
            {name: nn.Linear(2 * channels[-1], len(values)) for name, values in ATTRIBUTE_VALUES.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Scores of all values of all attributes, `(N, values)` each.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1], 64 × 64 pixels in training.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise MVCustomError(f"images: expected shape (N, 3, H, W), got {tuple(images.shape)}.")
        features = self.features(2 * images - 1).flatten(2)
        pooled = torch.cat([features.mean(-1), features.amax(-1)], dim=-1)
        return {name: answer(pooled) for name, answer in self.answers.items()}

    @torch.no_grad()
    def read(self, images: Tensor) -> list[dict[str, object]]:
        """The most likely attributes of every picture. Without other objects there is no `objects`.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        """
        best = {name: scores.argmax(-1).tolist() for name, scores in self(images.to(self.dtype)).items()}
        found = [
            {name: ATTRIBUTE_VALUES[name][labels[index]] for name, labels in best.items()}
            for index in range(len(images))
        ]
        for one in found:
            if one["object_count"] == 0:
                del one["objects"]
        return found


def text_alignment(found: Sequence[Mapping[str, object]], asked: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Share of the asked-for attributes that pictures show: of each attribute, and `"all"` of all together.

    Args:
        found (`list[dict]`): What pictures show, as [`AttributeReader.read`] says.
        asked (`list[dict]`): What their captions name, as [`read_caption`] says. Attributes not named do not count.

    Example:

        >>> from diffusers_mvcustom.toy import text_alignment
        >>> text_alignment([{"category": "car", "color": "red"}], [{"category": "car", "color": "blue"}])
        {'category': 1.0, 'color': 0.0, 'all': 0.5}
    """
    if len(found) != len(asked):
        raise MVCustomError(f"found: expected one of each of the {len(asked)} captions, got {len(found)}.")
    right: dict[str, list[bool]] = {}
    for seen, named in zip(found, asked):
        for name, value in named.items():
            right.setdefault(name, []).append(seen.get(name) == value)
    shares = {name: sum(values) / len(values) for name, values in right.items()}
    total = [value for values in right.values() for value in values]
    return {**shares, "all": sum(total) / len(total)} if total else shares
