"""The result of backbone training: a stock motion adapter's folder with a model card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from diffusers import MotionAdapter
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .backbone_validation import BackboneValidation

RECORD_NAME = "training.json"
_SAMPLES_NAME = "samples"


def save_motion_adapter(
    adapter: MotionAdapter,
    folder: Path,
    *,
    base_model: str,
    num_frames: int,
    record: Mapping[str, Any],
    validation: BackboneValidation,
) -> None:
    """Writes `config.json` (with the reach of the attention), weights, model card, samples and the record of the training.

    Everything is written beside the folder and moved into place at the end.

    Args:
        adapter (`MotionAdapter`): Weights and, in its configuration, the window.
        folder (`Path`): The folder; replaced if there is one.
        base_model (`str`): The model it was trained on.
        num_frames (`int`): Frames of the training clips.
        record (mapping): Command, settings, numbers.
        validation ([`BackboneValidation`]): Its clips become the card's samples.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{uuid4().hex}.new"
    old = temporary.with_suffix(".old")
    try:
        adapter.save_pretrained(temporary)
        validation.save(temporary, _SAMPLES_NAME)
        (temporary / RECORD_NAME).write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")
        _model_card(adapter, base_model, num_frames, record, bool(validation.clips)).save(temporary / "README.md")
        if folder.exists():
            folder.rename(old)
        os.replace(temporary, folder)
    finally:
        for remains in (temporary, old):
            shutil.rmtree(remains, ignore_errors=True)


def upload_motion_adapter(
    folder: Path, repo_id: str, *, private: bool, endpoint: str | None = None, token: str | None = None
) -> str:
    """Uploads the folder as one commit. Returns its address."""
    api = HfApi(endpoint=endpoint, token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload motion adapter").commit_url


def _model_card(
    adapter: MotionAdapter, base_model: str, num_frames: int, record: Mapping[str, Any], samples: bool
) -> ModelCard:
    data = ModelCardData(
        base_model=base_model if _is_hub_id(base_model) else None,
        library_name="diffusers",
        pipeline_tag="text-to-video",
        tags=["diffusers", "diffusers-mvcustom", "animatediff", "motion-adapter", "multi-view"],
    )
    window = adapter.config["attention_window"]
    lines = [
        "# Motion modules with dense spatio-temporal attention",
        "",
        "Trained with diffusers-mvcustom. A stock diffusers `MotionAdapter`: "
        "it also loads in `AnimateDiffPipeline`, there with attention along time only.",
        "",
        "| | |",
        "|---|---|",
        f"| base model | {base_model} |",
        f"| attention window | {'the whole map' if window is None else window} |",
        f"| heads along time alone | {adapter.config['temporal_heads']} of {adapter.config['motion_num_attention_heads']} |",
        f"| frames of a training clip | {num_frames} |",
        f"| weights | {sum(weight.numel() for weight in adapter.parameters()):,} |",
        "",
        "```python",
        "from diffusers import MotionAdapter",
        "from diffusers_mvcustom import Cameras, MVCustomPipeline",
        "",
        'adapter = MotionAdapter.from_pretrained("this/repository")',
        f'pipe = MVCustomPipeline.from_pretrained("{base_model}", motion_adapter=adapter)',
        f'out = pipe("a car parked by a lake", cameras=Cameras.orbit({num_frames}))',
        "```",
        "",
    ]
    if samples:
        lines += [f"![samples]({_SAMPLES_NAME}.png)", ""]
    if record.get("command"):
        lines += ["Trained with:", "", "```bash", str(record["command"]), "```", ""]
    settings = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    lines += ["Training settings:", "", "```json", settings, "```", ""]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines))


def _is_hub_id(name: str) -> bool:
    """Whether the Hub accepts it as a base model: a folder's path would make it refuse the card."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
