"""diffusers' own pipeline tests, run on `MVCustomPipeline`.

They live in the diffusers repository and not in its wheel. Point `MVCUSTOM_DIFFUSERS_SOURCE` at a checkout (commit
58eb52c0803ea9af3abec60841c2a093bdf1f951 is the one they were run from) to run them:

    MVCUSTOM_DIFFUSERS_SOURCE=../diffusers pytest tests/pipelines/test_diffusers_mixins.py

`test_pipeline_contract.py` covers the same concerns without it. Not run: the pyramid attention broadcast that
AnimateDiff's tests call; a stock `UNetMotionModel` has no `enable_cache`.
"""

import importlib.util
import os
import sys
import warnings
from pathlib import Path

import diffusers.pipelines
import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomPipeline
from diffusers_mvcustom.toy import random_components

SOURCE = os.environ.get("MVCUSTOM_DIFFUSERS_SOURCE")
if not SOURCE:
    pytest.skip("MVCUSTOM_DIFFUSERS_SOURCE names no checkout of diffusers", allow_module_level=True)


def _import_from_checkout(name):
    """Imports `tests.<name>` of the checkout, under another name: pytest has a `tests` package of ours already."""
    if "diffusers_tests" not in sys.modules:
        file = Path(SOURCE).resolve() / "tests" / "__init__.py"
        spec = importlib.util.spec_from_file_location("diffusers_tests", file)
        sys.modules["diffusers_tests"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["diffusers_tests"])
    return importlib.import_module(f"diffusers_tests.{name}")


# Deprecations in diffusers' own tests are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")
with warnings.catch_warnings():
    warnings.simplefilter("default")
    mixins = _import_from_checkout("pipelines.testing_utils")
    params = _import_from_checkout("pipelines.pipeline_params")


@pytest.fixture(autouse=True)
def visible_in_diffusers(monkeypatch):
    # test_encode_prompt_works_in_isolation looks the class up there.
    monkeypatch.setattr(diffusers.pipelines, "MVCustomPipeline", MVCustomPipeline, raising=False)


class MVCustomTesterConfig(mixins.BasePipelineTesterConfig):
    pipeline_class = MVCustomPipeline
    required_input_params_in_call_signature = params.TEXT_TO_IMAGE_PARAMS
    batch_input_params = params.TEXT_TO_IMAGE_BATCH_PARAMS
    callback_cfg_params = frozenset(["prompt_embeds", "negative_prompt_embeds"])
    output_shape = (4, 3, 64, 64)

    def get_dummy_components(self):
        return {**random_components("tiny", image_encoder=True), "motion_adapter": None}

    def get_dummy_inputs(self):
        return {
            "prompt": "a mug by a lake",
            "cameras": Cameras.orbit(4, azimuth=(-20, 20), height=64, width=64),
            "generator": self.get_generator(0),
            "num_inference_steps": 2,
            "guidance_scale": 5.0,
            "output_type": "pt",
            "hooks": [],  # the depth model is among the components that are left out in turn
        }


class TestPipeline(MVCustomTesterConfig, mixins.PipelineTesterMixin):
    def test_encode_prompt_works_in_isolation(self):
        super().test_encode_prompt_works_in_isolation(
            extra_required_param_value_dict={
                "device": torch.device("cpu").type,
                "num_images_per_prompt": 1,
                "do_classifier_free_guidance": True,
            }
        )


class TestLora(MVCustomTesterConfig, mixins.LoraTesterMixin, mixins.UNetLoraTesterMixin):
    pass


class TestMemory(
    MVCustomTesterConfig,
    mixins.PipelineOffloadTesterMixin,
    mixins.GroupOffloadTesterMixin,
    mixins.LayerwiseCastingTesterMixin,
):
    pass
