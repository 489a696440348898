"""A procedural world and random models: everything that tests and examples need without a download."""

from .random_components import random_components, random_unet2d_and_motion_adapter, save_random_model

__all__ = ["random_components", "random_unet2d_and_motion_adapter", "save_random_model"]
