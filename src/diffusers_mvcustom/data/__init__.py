"""From photos to a posed, masked subject dataset in the subject frame."""

from .prepare import Preparation, prepare_subject
from .subject_dataset import SubjectDataset, load_subject_dataset

__all__ = ["Preparation", "SubjectDataset", "load_subject_dataset", "prepare_subject"]
