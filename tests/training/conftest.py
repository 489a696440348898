"""A subject trainer at its smallest, on twelve views of a cube."""

from __future__ import annotations

import pytest

SMALL = {
    "model": "tiny",
    "token": "<my-cube>",
    "class_noun": "mug",
    "resolution": 32,
    "max_train_steps": 4,
    "train_batch_size": 2,
    "crops_per_photo": 2,
    "num_references": 2,
    "num_generation_references": 3,
    "feature_nerf": {"num_samples": 6},
    "prior_probability": 0.0,
    "rank": 2,
    "learning_rate": 1e-3,
    "checkpointing_steps": 2,
    "num_validation_views": 0,
    "report_to": "none",
}


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps one state for a whole process, with the precision that came first."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def small_settings(cube_capture):
    """The settings that a test changes as it needs."""
    return {**SMALL, "data": str(cube_capture)}


@pytest.fixture
def make_trainer(small_settings, make_components, tmp_path):
    """Builds a trainer with other settings than the small ones, on fresh tiny components (of seed 0)."""
    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig

    def make(pipe=None, command="", **settings):
        config = SubjectTrainingConfig(**{**small_settings, "output_dir": str(tmp_path / "out"), **settings})
        if pipe is None:
            pipe = MVCustomPipeline(**make_components("tiny"))
        return SubjectTrainer(config, pipe, command=command)

    return make


@pytest.fixture
def weights_of():
    """All tensors that a training leaves: the subject's files, by file and name."""
    from safetensors.torch import load_file

    def read(folder):
        return {
            f"{file.name}:{name}": tensor
            for file in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }

    return read
