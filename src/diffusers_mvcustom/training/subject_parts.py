"""What a subject's training starts from: a frozen pipeline, and the few weights that are learnt on top of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from diffusers import DDPMScheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from ..cameras import load_capture
from ..data import SubjectDataset, load_subject_dataset
from ..errors import MVCustomError
from ..models import FeatureNeRFConfig
from ..subjects import SubjectAdapter
from .sampling import derived_seed
from .subject_model import LORA_NAME, LORA_TARGETS, SubjectTrainingModel
from .subject_training_config import SubjectTrainingConfig
from .token_embedding import TokenEmbedding, check_token_is_new

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline


@dataclass(eq=False)
class SubjectParts:
    """What is trained.

    Args:
        adapter ([`SubjectAdapter`]): The subject, loaded in the pipeline and attached to its U-Net.
        model ([`SubjectTrainingModel`]): Batch in, losses out.
        groups (`list[dict]`): The trained parameters for the optimiser, with learning rate and weight decay.
    """

    adapter: SubjectAdapter
    model: SubjectTrainingModel
    groups: list[dict]

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def finished_subject(self, record: dict) -> SubjectAdapter:
        """The adapter with its LoRA, its word's embedding and the record of its training, to be saved."""
        adapter, config = self.adapter, self.model.config
        if config.train_token:
            adapter.token_embedding = self.model.token.embeddings.detach().float()
        if config.train_lora:
            adapter.lora_state_dict = lora_state_dict(self.model.unet)
        adapter.config = replace(adapter.config, training=record)
        return adapter


def load_photos(config: SubjectTrainingConfig, resolution: int) -> SubjectDataset:
    """The photos in the subject frame, their shorter side at most twice the resolution (crops are taken from them).

    Raises:
        MVCustomError: see [`load_subject_dataset`]; and if nothing says what the subject is, or how it is to be called.
    """
    size = load_capture(config.data, sequence=config.sequence).cameras
    shorter = min(size.height, size.width)
    height = width = None
    if shorter > 2 * resolution:
        height, width = (round(side * 2 * resolution / shorter) for side in (size.height, size.width))
    up: str | list[float] = config.up
    if up != "auto":
        try:
            up = [float(part) for part in config.up.split(",")]
        except ValueError as error:
            raise MVCustomError(f"up: expected auto or three numbers such as 0,-1,0, got {config.up!r}.") from error
    dataset = load_subject_dataset(
        config.data, height=height, width=width, up=up, masks=config.masks, sequence=config.sequence
    )
    noun = config.class_noun or dataset.class_noun
    if not noun:
        raise MVCustomError(f"class_noun: expected what the subject is (mug, car, chair); {config.data} does not say.")
    token = config.token or dataset.token
    if not token:
        raise MVCustomError(
            f"token: expected a new word that names the subject, such as '<my-{noun}>'; {config.data} does not say."
        )
    return replace(dataset, class_noun=noun, token=token)


def held_out_photos(
    config: SubjectTrainingConfig, dataset: SubjectDataset
) -> tuple[SubjectDataset, SubjectDataset | None]:
    """Photos to train on, and those that `holdout` keeps out, if any."""
    if not config.holdout:
        return dataset, None
    if isinstance(config.holdout, int):
        return dataset.split(config.holdout)
    names = list(dataset.views.names)
    if unknown := [name for name in config.holdout if name not in names]:
        raise MVCustomError(f"holdout: {dataset.source} has no photos {unknown}; it has {names}.")
    chosen = [names.index(name) for name in config.holdout]
    rest = [n for n in range(len(names)) if n not in chosen]
    if len(rest) < 3:
        raise MVCustomError(f"holdout: expected at least 3 photos to train on, {len(rest)} of {len(names)} are left.")
    return dataset[rest], dataset[chosen]


def make_subject_parts(
    config: SubjectTrainingConfig,
    pipe: MVCustomPipeline,
    dataset: SubjectDataset,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> SubjectParts:
    """Freezes the pipeline, loads an untrained subject into it and puts LoRA on its U-Net.

    Args:
        config ([`SubjectTrainingConfig`]): Settings.
        pipe ([`MVCustomPipeline`]): Without a subject. It is changed: frozen, moved, with the subject loaded.
        dataset ([`SubjectDataset`]): The photos to train on.
        device (`torch.device`): Where to train.
        dtype (`torch.dtype`): Of the frozen weights; what is trained is in float32.
    """
    assert dataset.class_noun is not None  # load_photos sees to both
    assert dataset.token is not None
    check_token_is_new(pipe.tokenizer, dataset.token)
    torch.manual_seed(derived_seed(config.seed, "initial weights", 0))
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False).eval()
    for part in (pipe.unet, pipe.text_encoder):
        part.to(device)
        if part.dtype != dtype:
            part.to(dtype)
    adapter = SubjectAdapter.create(
        pipe.unet,
        dataset.views,
        dataset.token,
        dataset.class_noun,
        initializer_token=config.initializer_token,
        blocks=config.pose_conditioned_blocks,
        feature_nerf=FeatureNeRFConfig.from_dict({**FeatureNeRFConfig().to_dict(), **config.feature_nerf}),
        subject_frame=dataset.subject_frame,
        base_model=config.model,
        num_references=config.num_generation_references,
        reference_timestep=config.reference_timestep,
    )
    pipe.load_subject(adapter)
    token = TokenEmbedding(
        pipe.tokenizer,
        pipe.text_encoder,
        dataset.token,
        config.initializer_token or dataset.class_noun,
        config.num_token_vectors,
    ).to(device)
    token.requires_grad_(config.train_token)
    if config.train_lora:
        pipe.unet.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=config.rank,
                lora_dropout=config.lora_dropout,
                init_lora_weights="gaussian",
                target_modules=LORA_TARGETS,
            ),
            adapter_name=LORA_NAME,
        )
    adapter.float().requires_grad_(config.train_feature_nerf)  # after the LoRA, which freezes the U-Net
    lora = [weight for name, weight in pipe.unet.named_parameters() if f".{LORA_NAME}." in name and "lora_" in name]
    for weight in lora:
        weight.data = weight.data.float()
    if config.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    model = SubjectTrainingModel(config, adapter, pipe.unet, pipe.text_encoder, pipe.tokenizer, token, scheduler)
    groups = [
        {"params": lora, "lr": config.lora_learning_rate or config.learning_rate},
        {
            "params": [token.embeddings] if config.train_token else [],
            "lr": config.token_learning_rate or config.learning_rate,
            "weight_decay": 0.0,
        },
        {
            "params": [weight for weight in adapter.parameters() if weight.requires_grad],
            "lr": config.learning_rate,
        },
    ]
    return SubjectParts(adapter, model, [group for group in groups if group["params"]])


def take_out_training(pipe: MVCustomPipeline) -> None:
    """Takes the subject that is trained out of its pipeline, with the LoRA; what was frozen stays frozen."""
    if LORA_NAME in getattr(pipe.unet, "peft_config", {}):
        pipe.unet.delete_adapters(LORA_NAME)
    pipe.unload_subject()
    if pipe.unet.is_gradient_checkpointing:
        pipe.unet.disable_gradient_checkpointing()


def lora_state_dict(unet: nn.Module) -> dict[str, Tensor]:
    """The trained LoRA under the names of diffusers' files, as `load_lora_weights` takes it."""
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=LORA_NAME))
    return {f"unet.{name}": weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
