"""Multi-view customization (MVCustom, ICLR 2026) for diffusers: your own object, from any camera, in any scene."""

from .cameras import Cameras, load_cameras, save_cameras
from .errors import CamerasError, MVCustomError
from .hooks import AnchorSettings, ConsistentAwareLatentCompletion, DenoisingHook, DepthAwareFeatureRendering
from .pipelines import MVCustomPipeline, MVCustomPipelineOutput
from .subjects import ReferenceViews, SubjectAdapter

__version__ = "0.1.0"

__all__ = [
    "AnchorSettings",
    "Cameras",
    "CamerasError",
    "ConsistentAwareLatentCompletion",
    "DenoisingHook",
    "DepthAwareFeatureRendering",
    "MVCustomError",
    "MVCustomPipeline",
    "MVCustomPipelineOutput",
    "ReferenceViews",
    "SubjectAdapter",
    "load_cameras",
    "save_cameras",
]
