"""What the parts of `MVCustomPipeline` find on the pipeline: diffusers' components and methods, declared."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

from diffusers import AutoencoderKL, SchedulerMixin, UNetMotionModel
from diffusers.configuration_utils import FrozenDict
from torch import Tensor
from transformers import BaseImageProcessor, CLIPTextModel, CLIPTokenizer, PreTrainedModel


class PipelinePart:
    """Base of the mixins. It holds nothing: all that is declared here comes from `AnimateDiffPipeline` and its bases."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNetMotionModel
    scheduler: SchedulerMixin
    depth_estimator: PreTrainedModel | None
    depth_image_processor: BaseImageProcessor | None

    components: dict[str, Any]
    config: FrozenDict
    vae_scale_factor: int
    guidance_scale: float
    cross_attention_kwargs: dict[str, Any] | None
    interrupt: bool
    free_noise_enabled: bool

    check_inputs: Callable[..., None]
    maybe_convert_prompt: Callable[..., Any]
    _prepare_latents_free_noise: Callable[..., Tensor]
    progress_bar: Callable[..., Any]
    register_to_config: Callable[..., None]
    load_textual_inversion: Callable[..., None]
    unload_textual_inversion: Callable[..., None]
    load_lora_weights: Callable[..., None]
    load_lora_into_unet: Callable[..., None]
    lora_state_dict: Callable[..., Any]
    unload_lora_weights: Callable[..., None]
    delete_adapters: Callable[..., None]
    _upload_folder: Callable[..., Any]

    if TYPE_CHECKING:

        def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
            """See `AnimateDiffPipeline.encode_prompt`."""

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
            """See `DiffusionPipeline.from_pretrained`."""

        def prepare_latents(self, *args: Any, **kwargs: Any) -> Tensor:
            """See `AnimateDiffPipeline.prepare_latents`."""

        def save_pretrained(
            self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any
        ) -> None:
            """See `DiffusionPipeline.save_pretrained`."""
