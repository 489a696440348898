"""Training: subjects (stage 2) and the backbone's motion modules (stage 1)."""

from .subject_trainer import SubjectTrainer
from .subject_training_config import SubjectTrainingConfig

__all__ = ["SubjectTrainer", "SubjectTrainingConfig"]
