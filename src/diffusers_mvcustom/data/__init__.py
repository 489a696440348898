"""From photos to a posed, masked subject dataset in the subject frame."""

from .subject_dataset import SubjectDataset, load_subject_dataset

__all__ = ["SubjectDataset", "load_subject_dataset"]
