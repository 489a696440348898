"""A procedural world and random models: everything that tests and examples need without a download.

The world has scenes of known geometry: [`sample_scene`] draws one, [`render`] gives its views with exact depth and masks,
[`describe`] its caption. [`random_components`] builds pipeline components with random weights.
"""

from .attribute_reader import AttributeReader, text_alignment
from .attributes import ATTRIBUTE_VALUES, SceneAttributes
from .captions import caption_words, describe, read_caption
from .random_components import random_components, random_unet2d_and_motion_adapter, save_random_model
from .rendering import RenderedViews, render
from .scene import Scene
from .splits import HELD_OUT_PAIRS, SPLITS, build_scene, sample_attributes, sample_scene

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
