"""The subject's folder: writing it as a whole, reading it strictly, and the Hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import MVCustomError
from ..files.text_files import parse_json
from ..files.whole import replaced_folder
from .reference_files import inside
from .reference_views import ReferenceViews
from .subject_config import SUBJECT_CONFIG_NAME, SubjectConfig

if TYPE_CHECKING:
    from .subject_adapter import SubjectAdapter

FEATURE_NERF_NAME = "feature_nerf.safetensors"
LORA_NAME = "pytorch_lora_weights.safetensors"
EMBEDDINGS_NAME = "learned_embeds.safetensors"
REFERENCES_FOLDER = "references"
SAMPLES_FOLDER = "samples"
MODEL_CARD_NAME = "README.md"
FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a subject's weights may be stored in."""
_DOWNLOADED = (  # and nothing else: no code, and not a whole model by mistake
    SUBJECT_CONFIG_NAME,
    FEATURE_NERF_NAME,
    LORA_NAME,
    EMBEDDINGS_NAME,
    MODEL_CARD_NAME,
    f"{REFERENCES_FOLDER}/*.json",
    f"{REFERENCES_FOLDER}/*.png",
)


def save_subject_files(
    adapter: SubjectAdapter, folder: str | PathLike[str], samples: Mapping[str, Image.Image] | None = None
) -> None:
    """Writes the subject's folder. See [`SubjectAdapter.save_pretrained`]."""
    folder = Path(folder)
    _check_save_directory(folder)
    try:
        with replaced_folder(folder) as new:
            adapter.config.save(new / SUBJECT_CONFIG_NAME)
            save_file(_conditioner_weights(adapter), new / FEATURE_NERF_NAME, metadata={"format": "pt"})
            if adapter.learned_embeddings:
                save_file(adapter.learned_embeddings, new / EMBEDDINGS_NAME, metadata={"format": "pt"})
            if adapter.lora_state_dict:
                save_file(adapter.lora_state_dict, new / LORA_NAME, metadata={"format": "pt"})
            adapter.references.save(new / REFERENCES_FOLDER)
            for name, picture in (samples or {}).items():
                (new / SAMPLES_FOLDER).mkdir(exist_ok=True)
                picture.save(new / SAMPLES_FOLDER / f"{name}.png")
            _model_card(adapter, list(samples or ())).save(new / MODEL_CARD_NAME)
    except (OSError, SafetensorError) as error:
        raise MVCustomError(
            f"save_directory: {folder} could not be written: {error}. What was there is as it was. Is the disk full?"
        ) from error


def load_subject_files(
    cls: type[SubjectAdapter],
    source: str | PathLike[str],
    *,
    subfolder: str | None,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
) -> SubjectAdapter:
    """Reads a subject's folder. See [`SubjectAdapter.from_pretrained`]."""
    part = None if subfolder is None else inside(Path("subfolder"), subfolder)
    folder = Path(source)
    if not _is_folder(folder):
        folder = _download(str(source), part, revision, cache_dir, token, local_files_only)
    if part is not None:
        folder = folder / part
    config = SubjectConfig.load(folder / SUBJECT_CONFIG_NAME)
    references = ReferenceViews.load(folder / REFERENCES_FOLDER)
    _check_weights(cls, config, references, folder / FEATURE_NERF_NAME)
    adapter = cls(config, references)
    _load_conditioner_weights(adapter, folder / FEATURE_NERF_NAME)
    if (file := folder / EMBEDDINGS_NAME).exists():
        embeddings = _read_tensors(file)
        if list(embeddings) != [config.token]:
            raise MVCustomError(f"{file}: expected one embedding, of {config.token!r}, got {sorted(embeddings)}.")
        with _naming(file):
            adapter.token_embedding = embeddings[config.token]
    if (file := folder / LORA_NAME).exists():
        weights = _read_tensors(file)
        _check_lora_scale(file)
        with _naming(file):
            adapter.lora_state_dict = weights
    return adapter


def save_and_upload_subject(
    adapter: SubjectAdapter, repo_id: str, *, samples: Mapping[str, Image.Image] | None = None, **kwargs: Any
) -> str:
    """Writes the folder to a temporary place and uploads it. See [`SubjectAdapter.push_to_hub`]."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "subject"
        save_subject_files(adapter, folder, samples)
        return upload_subject(folder, repo_id, **kwargs)


def upload_subject(
    folder: str | PathLike[str],
    repo_id: str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload subject",
    revision: str | None = None,
    create_pr: bool = False,
    endpoint: str | None = None,
) -> str:
    """Uploads a subject's folder as one commit; files of an earlier subject in the repository are deleted by it."""
    api = HfApi(endpoint=endpoint, token=token)
    repo_id = api.create_repo(repo_id or Path(folder).name, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
        delete_patterns=[
            *(f"{REFERENCES_FOLDER}/{part}" for part in ("*.png", "*.json")),
            *(LORA_NAME, EMBEDDINGS_NAME, f"{SAMPLES_FOLDER}/*.png"),
        ],
    )
    return commit.commit_url


# --- writing ---


def _check_save_directory(folder: Path) -> None:
    """Refuses to write over anything but a subject."""
    if folder.exists() and not folder.is_dir():
        raise MVCustomError(f"save_directory: {folder} is a file; expected a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUBJECT_CONFIG_NAME).is_file():
        raise MVCustomError(
            f"save_directory: {folder} holds other things than a subject (there is no {SUBJECT_CONFIG_NAME}), and "
            "saving replaces the folder as a whole. Name a new folder, for example one inside of it."
        )


def _conditioner_weights(adapter: SubjectAdapter) -> dict[str, Tensor]:
    return {
        f"{block}.{name}": weight.detach().cpu().contiguous()
        for block in adapter.block_names
        for name, weight in adapter.conditioner(block).state_dict().items()
    }


def _model_card(adapter: SubjectAdapter, samples: list[str]) -> ModelCard:
    config, references = adapter.config, adapter.references
    # A name without an owner is one of the commands' own, such as tiny, which Python does not know.
    named = config.base_model is not None and "/" in config.base_model
    data = ModelCardData(
        base_model=config.base_model if named and _is_hub_id(config.base_model) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["diffusers", "diffusers-mvcustom", "multi-view", "text-to-image"],
    )
    parts = ["FeatureNeRF"] + ["LoRA"] * bool(adapter.lora_state_dict) + ["token"] * bool(adapter.learned_embeddings)
    prompt = f"a {config.token} {config.class_noun} on a mossy rock by a lake"
    focal = references.cameras.focal.mean(dim=0).tolist()
    lines = [
        f"# {config.token}: one {config.class_noun}, from any camera",
        "",
        f"A subject for diffusers-mvcustom, learned from {len(references)} posed photos.",
        "",
        "| | |",
        "|---|---|",
        f"| token | `{config.token}` |",
        f"| class | {config.class_noun} |",
        f"| base model | {config.base_model or 'not recorded'} |",
        f"| reference views | {len(references)} of {references.width} × {references.height} pixels, "
        f"{'with' if references.masks is not None else 'without'} masks |",
        f"| their cameras | mean focal length {focal[0]:.1f}, {focal[1]:.1f} pixels; at "
        f"{references.cameras.centers.norm(dim=-1).min():.2f} to "
        f"{references.cameras.centers.norm(dim=-1).max():.2f} from the subject |",
        f"| learned parts | {', '.join(parts)} |",
        f"| pose-conditioned blocks | {len(adapter.block_names)} |",
        "",
        "```python",
        "from diffusers_mvcustom import Cameras, MVCustomPipeline",
        "",
        f'pipe = MVCustomPipeline.from_pretrained("{config.base_model if named else "your/base-model"}")',
        'pipe.load_subject("this/repository")',
        f"out = pipe({prompt!r}, cameras=Cameras.orbit(16))",
        "```",
        "",
    ]
    for name in samples:
        lines += [f"![{name}]({SAMPLES_FOLDER}/{name}.png)", ""]
    if config.training.get("command"):
        lines += ["Trained with:", "", "```bash", str(config.training["command"]), "```", ""]
    if config.training:
        settings = json.dumps(dict(config.training), indent=2, ensure_ascii=False)
        lines += ["Training settings:", "", "```json", settings, "```", ""]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines))


def _is_hub_id(name: str | None) -> bool:
    """Whether the Hub accepts it as a base model: a folder's path would make it refuse the card."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return True


# --- reading ---


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for one
        return False


def _download(
    repo_id: str,
    part: PathLike[str] | None,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    prefix = "" if part is None else f"{part}/"
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=[prefix + pattern for pattern in _DOWNLOADED],
        )
    except HFValidationError as error:
        raise MVCustomError(f"{repo_id}: there is no such folder, and it is no Hub id either: {error}") from error
    except LocalEntryNotFoundError as error:
        raise MVCustomError(
            f"{repo_id}: there is no such folder, and as a Hub id it is not in the cache and cannot be fetched: {error}"
        ) from error
    except HfHubHTTPError as error:
        raise MVCustomError(f"{repo_id}: there is no such folder, and the Hub answers: {error}") from error
    return Path(folder)


@contextmanager
def _opened(file: Path) -> Iterator[safe_open]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except FileNotFoundError as error:
        raise MVCustomError(f"{file}: there is no such file; is the folder a complete subject's folder?") from error
    except (SafetensorError, OSError) as error:
        raise MVCustomError(f"{file}: not a complete safetensors file ({error}). An interrupted download?") from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    with _opened(file) as tensors:
        return {name: tensors.get_tensor(name) for name in list(tensors.keys())}


def _check_weights(cls: type[SubjectAdapter], config: SubjectConfig, references: ReferenceViews, file: Path) -> None:
    """Compares the file's header with what the settings ask for, before any memory is asked for by either."""
    with _opened(file) as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in list(tensors.keys())}
    held = {name.partition(".feature_nerf.")[0] for name in shapes}
    if unheld := [block for block in config.pose_conditioned_blocks if block not in held]:
        raise MVCustomError(f"{file}: the weights of {len(unheld)} blocks are missing: {unheld[:5]}.")
    with torch.device("meta"):
        adapter = cls(config, references)
    expected = {
        f"{block}.{name}": tuple(weight.shape)
        for block in adapter.block_names
        for name, weight in adapter.conditioner(block).state_dict().items()
    }
    if missing := sorted(expected.keys() - shapes.keys()):
        raise MVCustomError(f"{file}: {len(missing)} weights are missing: {missing[:5]}.")
    if unknown := sorted(shapes.keys() - expected.keys()):
        raise MVCustomError(f"{file}: {len(unknown)} weights are unknown: {unknown[:5]}.")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise MVCustomError(
                f"{file}: {name}: expected shape {expected[name]} for the settings in {SUBJECT_CONFIG_NAME}, got {shape}."
            )


def _load_conditioner_weights(adapter: SubjectAdapter, file: Path) -> None:
    weights = _read_tensors(file)
    for name, weight in weights.items():
        if weight.dtype not in FLOATING_DTYPES or not weight.isfinite().all():
            raise MVCustomError(f"{file}: {name}: expected finite floating-point numbers, got {weight.dtype}.")
    dtypes = {weight.dtype for weight in weights.values()}
    if len(dtypes) == 1:  # as saved: a half-precision subject stays one
        adapter.to(dtype=dtypes.pop())
    for block in adapter.block_names:
        part = {name.removeprefix(f"{block}."): w for name, w in weights.items() if name.startswith(f"{block}.")}
        adapter.conditioner(block).load_state_dict(part)


def _check_lora_scale(file: Path) -> None:
    """Weights are applied as they are: a file made elsewhere with another `lora_alpha` would have a wrong scale."""
    with _opened(file) as tensors:
        metadata = tensors.metadata() or {}
    settings = parse_json(f"{file}: lora_adapter_metadata", metadata.get("lora_adapter_metadata", "{}"))
    if not isinstance(settings, dict):
        raise MVCustomError(f"{file}: lora_adapter_metadata: expected a JSON object, got {settings!r}.")
    for name, alpha in settings.items():
        if name.endswith(".lora_alpha") and alpha != settings.get(name.removesuffix("lora_alpha") + "r"):
            raise MVCustomError(
                f"{file}: expected a lora_alpha equal to the rank, got {alpha} ({name}). Scale the LoRA's weights by "
                "lora_alpha / r, and drop the metadata."
            )


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except MVCustomError as error:
        raise MVCustomError(f"{file}: {error}") from error
