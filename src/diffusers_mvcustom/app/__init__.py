"""`mvcustom app`: the pipeline in a browser. What it does is in plain classes; gradio (extra `app`) only shows it."""

from .camera_paths import PRESETS, CameraPath
from .results import Results, ViewSet
from .workshop import Cancelled, Order, Workshop

__all__ = ["PRESETS", "CameraPath", "Cancelled", "Order", "Results", "ViewSet", "Workshop"]
