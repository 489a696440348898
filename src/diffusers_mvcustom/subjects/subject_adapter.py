"""`SubjectAdapter`: everything that a pipeline needs to show one subject from any camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers import ModelMixin
from PIL import Image
from torch import Tensor, nn

from ..cameras import Cameras, SubjectFrame
from ..errors import MVCustomError
from ..models.feature_nerf import FeatureNeRF, FeatureNeRFConfig
from ..models.pose_conditioned_block import PoseConditionedTransformerBlock, PoseConditioner, PoseConditioning
from ..package_versions import package_version
from .reference_views import ReferenceViews
from .replaceable_blocks import put_block, replaceable_blocks
from .subject_config import SubjectConfig
from .subject_files import (
    FLOATING_DTYPES,
    load_subject_files,
    save_and_upload_subject,
    save_subject_files,
    upload_subject,
)
from .target_cameras import check_target_cameras
from .unet_blocks import select_blocks

if TYPE_CHECKING:
    from diffusers.models.attention import BasicTransformerBlock
    from transformers import CLIPTextModel, CLIPTokenizer


class SubjectAdapter(nn.Module):
    """A subject: its word, LoRA, reference views, and a FeatureNeRF and projection for each pose-conditioned block.

    Its modules enter a U-Net with [`~SubjectAdapter.attach`] and leave it with [`~SubjectAdapter.detach`], which puts
    the U-Net's own blocks back. Fresh from [`~SubjectAdapter.create`] it changes no output at all.

    Args:
        config ([`SubjectConfig`]): The subject's settings.
        references ([`ReferenceViews`]): Posed photos in the subject frame.
        token_embedding (`torch.Tensor` of shape `(D,)` or `(K, D)`, *optional*): Learned embedding(s) of the token.
        lora_state_dict (`dict[str, torch.Tensor]`, *optional*): LoRA weights under diffusers' names, to be applied as
            they are (that is, with `lora_alpha` equal to the rank).

    Attributes:
        conditioning ([`PoseConditioning`]): What the attached blocks are told during a U-Net call.
    """

    def __init__(
        self,
        config: SubjectConfig,
        references: ReferenceViews,
        *,
        token_embedding: Tensor | None = None,
        lora_state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.references = references
        self.conditioning = PoseConditioning()
        self.token_embedding = token_embedding
        self.lora_state_dict = lora_state_dict
        self._conditioners = nn.ModuleDict(
            {
                _escape(name): PoseConditioner(FeatureNeRF(channels, config.feature_nerf))
                for name, channels in config.pose_conditioned_blocks.items()
            }
        )
        self._stock_blocks: dict[
            str, BasicTransformerBlock
        ] = {}  # the U-Net's own blocks while ours stand in for them

    @classmethod
    def create(
        cls,
        unet: ModelMixin,
        references: ReferenceViews,
        token: str,
        class_noun: str,
        *,
        initializer_token: str | None = None,
        token_embedding: Tensor | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        blocks: str | Sequence[str] | None = None,
        feature_nerf: FeatureNeRFConfig | None = None,
        subject_frame: SubjectFrame | None = None,
        base_model: str | None = None,
        **settings: Any,
    ) -> SubjectAdapter:
        """A subject before training. Attached, it leaves the U-Net's outputs as they are, bit for bit.

        Args:
            unet (`UNetMotionModel`): The U-Net that it is made for. Not changed.
            references ([`ReferenceViews`]): Posed photos in the subject frame.
            token (`str`): The new word, such as `"<my-mug>"`.
            class_noun (`str`): What kind of thing it is, such as `"mug"`.
            initializer_token (`str`, *optional*): The known word that the new one starts from; `class_noun` by default.
            token_embedding (`torch.Tensor` of shape `(D,)` or `(K, D)`, *optional*): What the new word starts as.
            text_encoder (`CLIPTextModel`, *optional*), tokenizer (`CLIPTokenizer`, *optional*): If given instead of
                `token_embedding`, the new word starts as `initializer_token`; see [`initial_token_embedding`].
            blocks (`str` or `list[str]`, *optional*): Which transformer blocks are pose-conditioned; see
                [`select_blocks`].
            feature_nerf ([`FeatureNeRFConfig`], *optional*): Settings of every block's FeatureNeRF.
            subject_frame ([`SubjectFrame`], *optional*): How the subject frame was made from the photos' world.
            base_model (`str`, *optional*): Hub id of the base model, for the record.
            settings: Further fields of [`SubjectConfig`].

        Raises:
            MVCustomError: for unknown blocks (the message lists those that there are) and malformed settings.
        """
        if (text_encoder is None) != (tokenizer is None):
            raise MVCustomError("text_encoder, tokenizer: expected both or neither.")
        initializer_token = class_noun if initializer_token is None else initializer_token
        config = SubjectConfig(
            token=token,
            class_noun=class_noun,
            initializer_token=initializer_token,
            pose_conditioned_blocks=select_blocks(unet, blocks),
            feature_nerf=FeatureNeRFConfig() if feature_nerf is None else feature_nerf,
            subject_frame=subject_frame,
            base_model=base_model,
            versions={name: package_version(name) for name in ("diffusers-mvcustom", "diffusers", "torch")},
            **settings,
        )
        if token_embedding is None and text_encoder is not None:
            token_embedding = initial_token_embedding(tokenizer, text_encoder, initializer_token)
        return cls(config, references, token_embedding=token_embedding)

    # --- parts ---

    @property
    def block_names(self) -> list[str]:
        """The pose-conditioned blocks in the order in which the U-Net runs them."""
        return list(self.config.pose_conditioned_blocks)

    def conditioner(self, block_name: str) -> PoseConditioner:
        """The FeatureNeRF and projection of a block."""
        return cast(PoseConditioner, self._conditioners[_escape(block_name)])  # a ModuleDict knows no types

    @property
    def token_embedding(self) -> Tensor | None:
        """The learned embedding(s) of the token, `(D,)` or `(K, D)`, on the CPU."""
        return self._token_embedding

    @token_embedding.setter
    def token_embedding(self, value: Tensor | None) -> None:
        if value is not None:
            if value.ndim not in (1, 2) or 0 in value.shape or value.dtype not in FLOATING_DTYPES:
                raise MVCustomError(
                    f"token_embedding: expected shape (D,) or (K, D), got {tuple(value.shape)} of {value.dtype}."
                )
            if not value.isfinite().all():
                raise MVCustomError("token_embedding: expected finite numbers, got NaN or infinity.")
            value = _own(value)
        self._token_embedding = value

    @property
    def learned_embeddings(self) -> dict[str, Tensor]:
        """`{token: embedding}` as `load_textual_inversion` takes it; empty before there is an embedding."""
        return {} if self._token_embedding is None else {self.config.token: self._token_embedding}

    @property
    def lora_state_dict(self) -> dict[str, Tensor] | None:
        """LoRA weights as `load_lora_weights` takes them, on the CPU; `None` if there are none."""
        return self._lora_state_dict

    @lora_state_dict.setter
    def lora_state_dict(self, value: Mapping[str, Tensor] | None) -> None:
        foreign = sorted(name for name in value or () if "lora" not in name)
        if foreign:
            raise MVCustomError(f"lora_state_dict: expected LoRA weights only, got {foreign}.")
        other = sorted(name for name, weight in (value or {}).items() if not _is_lora_weight(weight))
        if other:
            raise MVCustomError(
                f"lora_state_dict: expected matrices of finite floating-point numbers, not so {other[:5]}."
            )
        self._lora_state_dict = {name: _own(weight) for name, weight in value.items()} if value else None

    def check_cameras(self, cameras: Cameras) -> None:
        """Raises for target cameras that cannot show the subject: the likely cause is another convention or unit.

        Raises:
            CamerasError: if every camera looks away from the subject or past it, has it beyond the far bound of the rays, or
                a field of view that no lens has.
        """
        check_target_cameras(cameras, far=self.config.feature_nerf.far, subject_frame=self.config.subject_frame)

    # --- in and out of a U-Net ---

    @property
    def is_attached(self) -> bool:
        """Whether a U-Net wears the adapter just now."""
        return bool(self._stock_blocks)

    def attach(self, unet: ModelMixin) -> None:
        """Puts pose-conditioned blocks in the places of the U-Net's own; moves the adapter to its device and dtype.

        The new blocks share every submodule with the old ones. Nothing is changed if an error is raised.

        Args:
            unet (`UNetMotionModel`): A U-Net of the shapes that the subject was made for.

        Raises:
            MVCustomError: if the subject is attached already, another subject is, the U-Net lacks a block or has other
                channels there, or its blocks carry hooks of offloading or are compiled.
        """
        if self.is_attached:
            raise MVCustomError(f"subject {self.config.token!r} is already attached to a U-Net; detach it first.")
        blocks = replaceable_blocks(unet, self.config)
        training = {module: module.training for block in blocks.values() for module in block.modules()}
        try:
            replacements = {
                name: PoseConditionedTransformerBlock.from_block(
                    block, self.conditioner(name), self.conditioning, name
                )
                for name, block in blocks.items()
            }
        finally:
            for module, was_training in training.items():
                module.training = was_training
        self.to(device=unet.device, dtype=unet.dtype)
        for name, replacement in replacements.items():
            replacement.__dict__.pop("forward", None)  # a removed hook's trace on the stock block, bound to it
            put_block(unet, name, replacement)
        self._stock_blocks = blocks

    def detach(self, unet: nn.Module) -> None:
        """Puts the U-Net's own blocks back: modules, state dict and outputs are as before [`~SubjectAdapter.attach`].

        Raises:
            MVCustomError: if the subject is not attached to this U-Net.
        """
        modules = dict(unet.named_modules())
        ours: dict[str, Any] = {name: modules.get(name) for name in self._stock_blocks}
        if not ours or any(getattr(block, "conditioning", None) is not self.conditioning for block in ours.values()):
            raise MVCustomError(f"subject {self.config.token!r} is not attached to this U-Net.")
        for name, block in self._stock_blocks.items():
            block.training = ours[name].training
            block.set_chunk_feed_forward(ours[name]._chunk_size, ours[name]._chunk_dim)
            put_block(unet, name, block)
        self._stock_blocks = {}

    # --- files ---

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        samples: Mapping[str, Image.Image] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes the subject's folder: settings, LoRA, embedding, FeatureNeRF, reference views and a model card.

        Everything is written beside the folder first and moved into place at the end; an existing subject's folder is
        replaced as a whole, and stays as it was if anything fails.

        Args:
            save_directory (`str` or path): The folder. If it exists, it has to be empty or a subject's.
            samples (`dict[str, PIL.Image.Image]`, *optional*): Pictures for the model card, by name.
            push_to_hub (`bool`, *optional*, defaults to `False`): Whether to upload it too.
            kwargs: For [`~SubjectAdapter.push_to_hub`]; `repo_id` is the folder's name by default.

        Raises:
            MVCustomError: if the folder holds something that is not a subject.
        """
        save_subject_files(self, save_directory, samples)
        if push_to_hub:
            upload_subject(save_directory, **kwargs)
        elif kwargs:
            raise MVCustomError(f"save_pretrained: {sorted(kwargs)} only apply with push_to_hub=True.")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> SubjectAdapter:
        """Loads a subject from its folder or from the Hub (there, from the cache when offline). Runs no code from it.

        Args:
            pretrained_model_name_or_path (`str` or path): A folder, or a Hub id such as `"you/my-mug"`.
            subfolder (`str`, *optional*): The subject's folder inside of it.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            cache_dir (`str` or path, *optional*): Where downloads are kept.
            token (`str` or `bool`, *optional*): Access token for the Hub.
            local_files_only (`bool`, *optional*, defaults to `False`): Whether to use the cache only.

        Raises:
            MVCustomError: naming the file and what is wrong with it.
        """
        return load_subject_files(
            cls,
            pretrained_model_name_or_path,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        samples: Mapping[str, Image.Image] | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload subject",
        revision: str | None = None,
        create_pr: bool = False,
        endpoint: str | None = None,
    ) -> str:
        """Uploads the subject's folder to the Hub, as one commit. Returns the commit's address."""
        return save_and_upload_subject(
            self,
            repo_id,
            samples=samples,
            private=private,
            token=token,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            endpoint=endpoint,
        )


def initial_token_embedding(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, initializer_token: str) -> Tensor:
    """The text encoder's embedding of a known word, from which a new token starts.

    Args:
        tokenizer (`CLIPTokenizer`): The tokenizer.
        text_encoder (`CLIPTextModel`): The text encoder.
        initializer_token (`str`): A known word. One that is split into K pieces gives the mean of their embeddings.

    Returns:
        `torch.Tensor` of shape `(D,)`.
    """
    pieces = tokenizer(initializer_token, add_special_tokens=False)["input_ids"]
    if not pieces:
        raise MVCustomError(f"initializer_token: expected a word, got {initializer_token!r}.")
    return text_encoder.get_input_embeddings().weight[pieces].detach().float().mean(dim=0).cpu()


def _is_lora_weight(weight: Tensor) -> bool:
    return weight.dtype in FLOATING_DTYPES and 0 not in weight.shape and bool(weight.isfinite().all())


def _own(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _escape(block_name: str) -> str:
    return block_name.replace(".", "/")  # a module's name cannot hold dots
