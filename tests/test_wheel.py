"""What an installed package holds: the wheel is built from a copy of the checkout, with and without shipped folders."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diffusers_mvcustom.toy.shipped import SHIPPED

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """A checkout without `models/`."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def add_models(checkout):
    for name, file in SHIPPED.items():
        (checkout / "models" / name / "unet").mkdir(parents=True)
        (checkout / "models" / name / file).write_text("{}")
        (checkout / "models" / name / "unet" / "weights.safetensors").write_bytes(b"weights")
    (checkout / "models" / "another").mkdir()
    (checkout / "models" / "another" / "large.bin").write_bytes(b"of nobody's concern")


def build(checkout, kind="wheel"):
    """Names of the files of a wheel (or an editable wheel)."""
    code = f"from hatchling.build import build_{kind}; print(build_{kind}('out'))"
    process = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    wheel = checkout / "out" / process.stdout.split()[-1]
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_shipped_folders(checkout):
    add_models(checkout)
    names = build(checkout)
    for name, file in SHIPPED.items():
        assert f"diffusers_mvcustom/toy/shipped_models/{name}/{file}" in names
        assert f"diffusers_mvcustom/toy/shipped_models/{name}/unet/weights.safetensors" in names
    assert not [name for name in names if "another" in name]
    assert "diffusers_mvcustom/toy/shipped.py" in names
    assert "diffusers_mvcustom/py.typed" in names


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_a_checkout_without_models_builds(checkout, kind):
    names = build(checkout, kind)
    assert not [name for name in names if "shipped_models" in name]
    assert ("diffusers_mvcustom/toy/shipped.py" in names) == (kind == "wheel")


def test_an_editable_install_reads_the_checkout(checkout):
    add_models(checkout)
    names = build(checkout, "editable")
    assert not [name for name in names if "shipped_models" in name]  # found in models/ instead
    paths = [name for name in names if name.endswith(".pth")]
    assert len(paths) == 1
    with zipfile.ZipFile(next((checkout / "out").glob("*.whl"))) as archive:
        assert archive.read(paths[0]).decode().split() == [str(checkout / "src")]


def test_an_installed_wheel_finds_its_own(checkout, tmp_path):
    add_models(checkout)
    build(checkout)
    site = tmp_path / "site"
    with zipfile.ZipFile(next((checkout / "out").glob("*.whl"))) as archive:
        archive.extractall(site)
    module = site / "diffusers_mvcustom" / "toy" / "shipped.py"
    code = "\n".join(
        [
            "import sys",
            f"sys.path.insert(0, {str(site)!r})",
            "from diffusers_mvcustom.toy import shipped",
            f"assert shipped.__file__ == {str(module)!r}, shipped.__file__",
            "print(*map(shipped.shipped_folder, shipped.SHIPPED), sep='\\n')",
        ]
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.split() == [str(module.parent / "shipped_models" / name) for name in SHIPPED]
