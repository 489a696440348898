"""Loading from and pushing to the Hub, against a stand-in on loopback, in processes of their own.

`huggingface_hub` reads its endpoint when it is imported, so each case is a fresh interpreter.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_stand_in import HubStandIn

from diffusers_mvcustom import MVCustomPipeline, ReferenceViews, SubjectAdapter
from diffusers_mvcustom.cameras import load_capture
from diffusers_mvcustom.toy import random_components, random_unet2d_and_motion_adapter

HUB_FORM = Path(__file__).parents[2] / "pipelines" / "mvcustom"
WITHOUT_PACKAGE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "diffusers_mvcustom":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
"""
GENERATE = """
import torch
pipe.set_progress_bar_config(disable=True)
Cameras = sys.modules[type(pipe).__module__].Cameras
cameras = Cameras.orbit(2, azimuth=(-20, 20), height=64, width=64)
generator = torch.Generator().manual_seed(0)
call = dict(cameras=cameras, num_inference_steps=2, output_type="latent", generator=generator)
print("sum", pipe("a <cube> toy", **call).frames.double().abs().sum().item())
print("subject", pipe.subject.config.token)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, cube_capture):
    """A saved pipeline with a subject whose projections do something."""
    pipe = MVCustomPipeline(**random_components("tiny"))
    references = ReferenceViews.from_capture(load_capture(cube_capture))
    subject = SubjectAdapter.create(
        pipe.unet, references, token="<cube>", class_noun="toy", token_embedding=torch.ones(32), num_references=2
    )
    for name, parameter in subject.named_parameters():
        if "projection" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    pipe.load_subject(subject)
    folder = tmp_path_factory.mktemp("saved") / "base"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def hub():
    with HubStandIn() as hub:
        yield hub


def printed_by(code, cache, **environment):
    """Runs code in a fresh interpreter; returns what it printed, by first word."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return dict(line.split(" ", 1) for line in process.stdout.splitlines() if " " in line)


@pytest.fixture
def python(tmp_path):
    """[`printed_by`] with a cache of its own for each test."""

    def python(code, **environment):
        return printed_by(code, tmp_path / "cache", **environment)

    return python


@pytest.fixture(scope="module")
def expected(saved, tmp_path_factory):
    """What the saved folder generates."""
    return printed_by(load(saved) + GENERATE, tmp_path_factory.mktemp("cache"))


def load(source, **arguments):
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return (
        "import sys\nfrom diffusers_mvcustom import MVCustomPipeline\n"
        f"pipe = MVCustomPipeline.from_pretrained({str(source)!r}{given})\n"
    )


def test_a_repository_with_its_subject(saved, expected, hub, python):
    hub.add_folder("you/base", saved)
    online = python(load("you/base") + GENERATE, HF_ENDPOINT=hub.endpoint)
    assert online == expected
    asked = len(hub.requests)
    offline = python(load("you/base") + GENERATE, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1")
    assert offline == expected
    assert len(hub.requests) == asked


def test_a_stock_stable_diffusion_layout_with_a_motion_adapter(hub, python, tmp_path):
    from diffusers import StableDiffusionPipeline

    unet, adapter = random_unet2d_and_motion_adapter("tiny")
    parts = random_components("tiny", depth_estimator=False)
    names = ("vae", "text_encoder", "tokenizer", "scheduler", "feature_extractor")
    stock = StableDiffusionPipeline(unet=unet, safety_checker=None, **{name: parts[name] for name in names})
    stock.save_pretrained(tmp_path / "stock")
    adapter.save_pretrained(tmp_path / "adapter")
    hub.add_folder("you/sd15", tmp_path / "stock")
    hub.add_folder("you/motion", tmp_path / "adapter")
    code = """
import sys, torch
from diffusers import MotionAdapter
from diffusers_mvcustom import Cameras, MVCustomPipeline
adapter = MotionAdapter.from_pretrained("you/motion")
pipe = MVCustomPipeline.from_pretrained("you/sd15", motion_adapter=adapter, attention_window=3)
call = dict(cameras=Cameras.orbit(2, height=64, width=64), num_inference_steps=2, output_type="latent")
print("frames", tuple(pipe("a mug", **call).frames.shape))
print("window", pipe.config.attention_window)
"""
    printed = python(code, HF_ENDPOINT=hub.endpoint)
    assert printed == {"frames": "(1, 4, 2, 16, 16)", "window": "3"}


def test_push_to_hub(saved, expected, hub, python):
    code = load(saved) + f"pipe.push_to_hub('you/pushed', token={hub.valid_token!r})\n"
    python(code, HF_ENDPOINT=hub.endpoint)
    _, files = hub.repositories["you/pushed"].commits[-1]
    for name in (
        "model_index.json",
        "unet/config.json",
        "subject/subject_config.json",
        "subject/feature_nerf.safetensors",
    ):
        assert name in files
    assert python(load("you/pushed") + GENERATE, HF_ENDPOINT=hub.endpoint) == expected


def test_hub_form_without_the_package(saved, expected, python):
    code = (
        WITHOUT_PACKAGE
        + f"""
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(saved)!r}, custom_pipeline={str(HUB_FORM)!r}, trust_remote_code=True)
assert "diffusers_mvcustom" not in sys.modules
"""
        + GENERATE
    )
    assert python(code) == expected


def test_the_readme_of_the_hub_form_runs(tiny_model, python, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (HUB_FORM / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = WITHOUT_PACKAGE + "\n".join(blocks)
    for shown, there in (
        ("path/or/repository", tiny_model),
        ("this/repository", HUB_FORM),
        ("out/mug", tmp_path / "mug"),
    ):
        assert shown in code
        code = code.replace(f'"{shown}', f'"{there}')
    python(code)
    assert len(list((tmp_path / "mug" / "images").iterdir())) == 3


def test_hub_form_from_a_weights_repository(saved, expected, hub, python):
    hub.add_folder("you/base", saved)
    files = {"pipeline.py": (HUB_FORM / "pipeline.py").read_bytes()}
    repository = hub.repositories["you/base"]
    repository.commit({**repository.commits[-1][1], **files})
    code = (
        WITHOUT_PACKAGE
        + """
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("you/base", custom_pipeline="you/base", trust_remote_code=True)
"""
        + GENERATE
    )
    printed = python(code, HF_ENDPOINT=hub.endpoint)
    assert printed == expected


def test_hub_form_is_current():
    build = HUB_FORM.parent / "build.py"
    process = subprocess.run([sys.executable, str(build), "--check"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_one_name_for_two_imports_is_refused(tmp_path):
    """In one file a later import would take the name from an earlier one, and only running code would tell."""
    copy = tmp_path / "pipelines" / "build.py"
    copy.parent.mkdir()
    shutil.copy(HUB_FORM.parent / "build.py", copy)
    entry = tmp_path / "src" / "diffusers_mvcustom" / "pipelines" / "pipeline_mvcustom.py"
    entry.parent.mkdir(parents=True)
    entry.write_text("from PIL import Image\n\nfrom .other import draw\n")
    for line, refused in (("from PIL import Image", False), ("from PIL.Image import Image", True)):
        entry.with_name("other.py").write_text(f"{line}\n\n\ndef draw():\n    return Image\n")
        process = subprocess.run([sys.executable, str(copy)], capture_output=True, text=True)
        assert ("'Image' means different things" in process.stderr) == refused
        assert bool(process.returncode) == refused
