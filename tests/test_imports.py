"""What an import costs, and that names are where they are said to be."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("diffusers_mvcustom", "MVCustomPipeline"),
        ("diffusers_mvcustom.models", "SpatioTemporalTransformer3D"),
        ("diffusers_mvcustom.subjects", "SubjectAdapter"),
        ("diffusers_mvcustom.toy", "random_components"),
        ("diffusers_mvcustom.training", "SubjectTrainer"),
    ],
)
def test_every_public_name_is_there(name, one):
    module = importlib.import_module(name)
    assert one in module.__all__
    for public in module.__all__:
        assert getattr(module, public) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_what_needs_no_model_does_not_import_diffusers():
    code = (
        "import sys\n"
        "from diffusers_mvcustom import Cameras, MVCustomError, ReferenceViews, load_cameras\n"
        "import diffusers_mvcustom.data, diffusers_mvcustom.evaluation, diffusers_mvcustom.export\n"
        "from diffusers_mvcustom.models import FeatureNeRF\n"
        "from diffusers_mvcustom.training import BackboneTrainingConfig, SubjectTrainingConfig\n"
        "from diffusers_mvcustom.toy import render, sample_scene\n"
        "print(sorted({'diffusers', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
