"""What an import costs, and that names are where they are said to be."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["diffusers_mvcustom", "diffusers_mvcustom.toy"])
def test_every_public_name_is_there(name):
    module = importlib.import_module(name)
    assert {"MVCustomPipeline" if name == "diffusers_mvcustom" else "random_components"} < set(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_cameras_and_rendering_do_not_import_diffusers():
    code = (
        "import sys\n"
        "from diffusers_mvcustom import Cameras, MVCustomError, load_cameras\n"
        "from diffusers_mvcustom.toy import render, sample_scene\n"
        "print(sorted({'diffusers', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
