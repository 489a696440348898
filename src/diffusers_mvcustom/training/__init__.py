"""Training: subjects (stage 2) and the backbone's motion modules (stage 1).

Trainers are imported when they are first used: to read settings takes no diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names
from .backbone_training_config import BackboneTrainingConfig
from .subject_training_config import SubjectTrainingConfig

if TYPE_CHECKING:
    from .backbone_parts import fresh_motion_adapter
    from .backbone_trainer import BackboneTrainer
    from .clip_geometry import ClipGeometry
    from .subject_trainer import SubjectTrainer

__all__ = [
    "BackboneTrainer",
    "BackboneTrainingConfig",
    "ClipGeometry",
    "SubjectTrainer",
    "SubjectTrainingConfig",
    "fresh_motion_adapter",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BackboneTrainer": "backbone_trainer",
        "ClipGeometry": "clip_geometry",
        "SubjectTrainer": "subject_trainer",
        "fresh_motion_adapter": "backbone_parts",
    },
)
