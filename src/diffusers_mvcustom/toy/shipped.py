"""Where the model that ships with the package lies.

Four folders, whose names are an interface (a wheel is built from them, see `pyproject.toml`):

| folder | what |
|---|---|
| `toy` | the model of the toy world, for `MVCustomPipeline.from_pretrained` |
| `toy-subject` | a subject that it learned from photos, for `load_subject` |
| `toy-motion-1d` | motion modules with AnimateDiff's 1-D attention, to compare with, for `MotionAdapter.from_pretrained` |
| `toy-attribute-reader` | reads attributes off pictures, for [`AttributeReader`]`.from_pretrained` |

They are in `models/` of a checkout, and in `toy/shipped_models/` of an installed package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import MVCustomError

ShippedName = Literal["toy", "toy-subject", "toy-motion-1d", "toy-attribute-reader"]

SHIPPED: dict[str, str] = {
    "toy": "model_index.json",
    "toy-subject": "subject_config.json",
    "toy-motion-1d": "config.json",
    "toy-attribute-reader": "config.json",
}
"""The shipped folders, each with the file that has to be in it."""


def shipped_places() -> tuple[Path, ...]:
    """Folders in which shipped folders may be: the installed package's own, then a checkout's `models/`."""
    here = Path(__file__).resolve()
    installed, checkout = here.parent / "shipped_models", here.parents[3]
    return (installed, checkout / "models") if here.parents[2] == checkout / "src" else (installed,)


def shipped_folder(name: ShippedName, places: Sequence[Path] | None = None) -> Path:
    """The folder of something that ships with the package.

    Args:
        name (`str`): One of `SHIPPED`.
        places (`list[Path]`, *optional*): Where to look, in this order; by default [`shipped_places`].

    Raises:
        MVCustomError: for an unknown name, and if the folder is not there.
    """
    if name not in SHIPPED:
        raise MVCustomError(f"name: expected one of {tuple(SHIPPED)}, got {name!r}.")
    places = shipped_places() if places is None else places
    for place in places:
        if (place / name / SHIPPED[name]).is_file():
            return place / name
    raise MVCustomError(
        f"the shipped folder {name!r} is not there: expected {SHIPPED[name]} in "
        f"{' or '.join(str(place / name) for place in places)}. A checkout without its models/, or a wheel built from one?"
    )
