"""A procedural world and random models: everything that tests and examples need without a download.

The world has scenes of known geometry: [`sample_scene`] draws one, [`render`] gives its views with exact depth and masks,
[`describe`] its caption. [`random_components`] builds pipeline components with random weights.

What needs diffusers is imported when it is first used: rendering needs torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names
from .attributes import ATTRIBUTE_VALUES, SceneAttributes
from .captions import caption_words, describe, read_caption
from .rendering import RenderedViews, render
from .scene import Scene
from .splits import HELD_OUT_PAIRS, SPLITS, build_scene, sample_attributes, sample_scene

if TYPE_CHECKING:
    from .attribute_reader import AttributeReader, text_alignment
    from .random_models import random_components, random_unet2d_and_motion_adapter, save_random_model

__all__ = [
    "ATTRIBUTE_VALUES",
    "HELD_OUT_PAIRS",
    "SPLITS",
    "AttributeReader",
    "RenderedViews",
    "Scene",
    "SceneAttributes",
    "build_scene",
    "caption_words",
    "describe",
    "random_components",
    "random_unet2d_and_motion_adapter",
    "read_caption",
    "render",
    "sample_attributes",
    "sample_scene",
    "save_random_model",
    "text_alignment",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AttributeReader": "attribute_reader",
        "random_components": "random_models",
        "random_unet2d_and_motion_adapter": "random_models",
        "save_random_model": "random_models",
        "text_alignment": "attribute_reader",
    },
)
