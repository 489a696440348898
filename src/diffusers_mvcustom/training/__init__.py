"""Training: subjects (stage 2) and the backbone's motion modules (stage 1)."""

from .backbone_parts import fresh_motion_adapter
from .backbone_trainer import BackboneTrainer
from .backbone_training_config import BackboneTrainingConfig
from .subject_trainer import SubjectTrainer
from .subject_training_config import SubjectTrainingConfig

__all__ = [
    "BackboneTrainer",
    "BackboneTrainingConfig",
    "SubjectTrainer",
    "SubjectTrainingConfig",
    "fresh_motion_adapter",
]
