"""Versions of packages that are installed, imported from a folder, and absent."""

import subprocess
import sys
from importlib.metadata import version

from diffusers_mvcustom.package_versions import package_version


def test_an_installed_package():
    assert package_version("torch") == version("torch")


def test_an_absent_package():
    assert package_version("no-such-package") == "unknown"
    assert package_version("no-such-package", missing="not installed") == "not installed"


def test_a_package_that_is_imported_from_its_source_folder(tmp_path):
    package = tmp_path / "from_a_folder"
    package.mkdir()
    package.joinpath("__init__.py").write_text('__version__ = "7.1"\n')
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import from_a_folder\n"
        "from diffusers_mvcustom.package_versions import package_version; print(package_version('from-a-folder'))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "7.1"
