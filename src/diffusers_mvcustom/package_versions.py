"""Versions of packages, also of one that runs from its source folder."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version


def package_version(name: str, missing: str = "unknown") -> str:
    """The version of an installed package; of one that is imported without being installed, its `__version__`.

    Args:
        name (`str`): The package's name as it is installed by, such as `"diffusers-mvcustom"`.
        missing (`str`, *optional*, defaults to `"unknown"`): What to return for a package that is neither.
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return getattr(sys.modules.get(name.replace("-", "_")), "__version__", missing)
