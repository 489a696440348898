"""Multi-view customization (MVCustom, ICLR 2026) for diffusers: your own object, from any camera, in any scene.

Names are imported when they are first used: cameras need no diffusers, whose import takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

if TYPE_CHECKING:
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

__getattr__ = lazy_names(
    __name__,
    {
        "AnchorSettings": "hooks",
        "Cameras": "cameras",
        "CamerasError": "errors",
        "ConsistentAwareLatentCompletion": "hooks",
        "DenoisingHook": "hooks",
        "DepthAwareFeatureRendering": "hooks",
        "MVCustomError": "errors",
        "MVCustomPipeline": "pipelines",
        "MVCustomPipelineOutput": "pipelines",
        "ReferenceViews": "subjects",
        "SubjectAdapter": "subjects",
        "load_cameras": "cameras",
        "save_cameras": "cameras",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
