"""The models that an option names: a folder, a Hub id, or one that comes with the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import MVCustomError

if TYPE_CHECKING:
    import torch
    from diffusers import MotionAdapter

    from ..pipelines import MVCustomPipeline

RANDOM_MODELS = ("tiny", "sd15")
"""Names of models with random weights, to try commands with: their views are noise."""
SHIPPED_MODEL = "toy"
"""Name of the model that ships with the package."""


def is_own_name(model: str) -> bool:
    """Whether it is one of these names, and no folder of the user's."""
    return model in (*RANDOM_MODELS, SHIPPED_MODEL) and not Path(model).is_dir()


def load_model(
    model: str, motion_adapter: MotionAdapter | None = None, dtype: torch.dtype | None = None, **options: Any
) -> MVCustomPipeline:
    """The pipeline that `--model` names.

    Args:
        model (`str`): A folder or Hub id; `toy` is the model that ships with the package, `tiny` and `sd15` are models of
            random weights. A folder of such a name comes first.
        motion_adapter (`MotionAdapter`, *optional*): Takes the place of the model's motion modules.
        dtype (`torch.dtype`, *optional*): Of the weights; float32 by default.
        options: For `MVCustomPipeline.from_pretrained`: other components, `revision`, `variant`, `local_files_only`.

    Raises:
        MVCustomError: naming the model, if it cannot be loaded.
    """
    from ..pipelines import MVCustomPipeline

    if is_own_name(model) and model in RANDOM_MODELS:
        from ..toy import random_components
        from ..toy.random_models import checked_size

        typer.echo(f"model {model}: random weights; its views are noise", err=True)
        components = random_components(checked_size(model), seed=0)
        components.update({name: part for name, part in options.items() if name in components and part is not None})
        pipe = MVCustomPipeline(**components)
        if motion_adapter is not None:
            pipe.load_motion_adapter(motion_adapter)
        return pipe if dtype is None else pipe.to(dtype=dtype)
    if is_own_name(model):
        from ..toy.shipped import shipped_folder

        model = str(shipped_folder("toy"))
    elif "/" not in model and not Path(model).exists():
        known = ", ".join((SHIPPED_MODEL, *RANDOM_MODELS))
        raise MVCustomError(
            f"model: expected a folder, a Hub id such as you/base, or one of {known}, got {model!r}, which is none of them."
        )
    if motion_adapter is not None:
        options["motion_adapter"] = motion_adapter
    if dtype is not None:
        options["dtype"] = dtype
    with named("model", model):
        return MVCustomPipeline.from_pretrained(model, **options)


def load_motion_adapter(name: str, dtype: torch.dtype | None = None, **options: Any) -> MotionAdapter:
    """The motion adapter that `--motion-adapter` names: a folder or Hub id.

    Raises:
        MVCustomError: naming it, if it cannot be loaded.
    """
    from diffusers import MotionAdapter

    if dtype is not None:
        options["dtype"] = dtype
    with named("motion_adapter", name):
        return MotionAdapter.from_pretrained(name, **options)


def load_depth_model(name: str) -> dict[str, Any]:
    """The depth model that `--depth-model` names, as components of the pipeline.

    Raises:
        MVCustomError: naming it, if it cannot be loaded.
    """
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    with named("depth_model", name):
        return {
            "depth_estimator": AutoModelForDepthEstimation.from_pretrained(name),
            "depth_image_processor": AutoImageProcessor.from_pretrained(name),
        }


@contextmanager
def named(argument: str, name: str) -> Iterator[None]:
    """Turns what libraries raise for a model that is not there into one error that says what was looked for.

    Raises:
        MVCustomError: in place of an `OSError` or another `ValueError`.
    """
    path = Path(name)
    if not path.exists() and not _may_be_hub_id(name):
        raise MVCustomError(f"{argument}: {name}: there is no such folder, and it is no Hub id either.")
    try:
        yield
    except MVCustomError:
        raise
    except (OSError, ValueError) as error:
        if path.exists():
            raise MVCustomError(f"{argument}: {name} cannot be loaded: {error}") from error
        raise MVCustomError(
            f"{argument}: {name}: there is no such folder, and as a Hub id it is not in the cache and cannot be fetched. "
            f"({error})"
        ) from error


def _may_be_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
