"""Subjects in the pipeline: loading, switching, taking out, and rendering their features for a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import is_compiled_module
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..cameras import Cameras
from ..errors import MVCustomError, enumerated
from ..models.pose_conditioned_block import PoseConditionedTransformerBlock
from ..subjects import SubjectAdapter, SubjectRendering, collect_reference_features, render_features
from .device_hooks import device_hooks_off
from .lora_layers import (
    LoraScalings,
    active_loras,
    fused_loras,
    lora_scaled,
    lora_scalings,
    set_active_loras,
    set_lora_scalings,
)
from .pipeline_part import PipelinePart

if TYPE_CHECKING:
    from diffusers import UNetMotionModel


@dataclass
class _Restore:
    """Whether the subject that was saved with the pipeline still has to be loaded."""

    pending: bool = True


class SubjectLoadingMixin(PipelinePart):
    """Loads [`SubjectAdapter`]s into the pipeline: several loaded, one active."""

    def _init_subjects(self) -> None:
        _refuse_attached(self.unet)
        self._subjects: dict[str, SubjectAdapter] = {}
        self._active_subject: str | None = None
        self._scalings: dict[str, dict[str, LoraScalings]] = {}  # by subject and component
        self._restore = _Restore()

    @property
    def subjects(self) -> Mapping[str, SubjectAdapter]:
        """The loaded subjects by name."""
        return dict(self._subjects)

    @property
    def subject(self) -> SubjectAdapter | None:
        """The active subject, if any."""
        return None if self._active_subject is None else self._subjects[self._active_subject]

    def load_subject(
        self,
        subject: SubjectAdapter | str | PathLike[str],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads a subject and makes it the active one.

        Args:
            subject ([`SubjectAdapter`], folder or Hub id): What to load.
            adapter_name (`str`, *optional*): The subject's name in this pipeline, by default its token without brackets. Its
                LoRA is called `subject-<adapter_name>`, for `set_adapters` and the like; other LoRA stay active beside it.
            kwargs: For [`SubjectAdapter.from_pretrained`]: `revision`, `subfolder`, `token`, `cache_dir`,
                `local_files_only`.

        Raises:
            MVCustomError: if the name or the token is taken, the subject does not fit this U-Net, or a LoRA is fused into
                the weights. Nothing is changed then.
        """
        if adapter_name is not None and (not isinstance(adapter_name, str) or not adapter_name or "." in adapter_name):
            raise MVCustomError(f"adapter_name: expected a name without dots, got {adapter_name!r}.")
        self._refuse_fused("load_subject")
        if not isinstance(subject, (SubjectAdapter, str, PathLike)):
            other = ", of another module than this pipeline's" if type(subject).__name__ == "SubjectAdapter" else ""
            raise MVCustomError(
                f"subject: expected a SubjectAdapter, a folder or a Hub id, got a {type(subject).__name__}{other}."
            )
        if not isinstance(subject, SubjectAdapter):
            subject = SubjectAdapter.from_pretrained(subject, **kwargs)
        elif kwargs:
            raise MVCustomError(f"load_subject: {sorted(kwargs)} only apply to a folder or Hub id.")
        name = adapter_name or subject.config.token.strip("<>").replace(".", "-")
        if name in self._subjects:
            raise MVCustomError(f"adapter_name: {name!r} is already loaded; pass another name, or unload it first.")
        self._restore.pending = False
        previous = self._active_subject
        with device_hooks_off(self.components.values()):
            self._deactivate()
            self._subjects[name] = subject
            try:
                self._activate(name)
            except Exception:
                del self._subjects[name]
                self._activate(previous)
                raise

    def set_subject(self, adapter_name: str | None) -> None:
        """Makes a loaded subject the active one; `None` makes none active and keeps all loaded."""
        if adapter_name is not None and adapter_name not in self._subjects:
            raise MVCustomError(f"adapter_name: expected one of {sorted(self._subjects)}, got {adapter_name!r}.")
        self._refuse_fused("set_subject")
        self._restore.pending = False
        with device_hooks_off(self.components.values()):
            self._deactivate()
            self._activate(adapter_name)

    def unload_subject(self, adapter_name: str | None = None) -> None:
        """Takes a subject out (by default the active one): U-Net, text encoder and tokenizer are as before it."""
        name = adapter_name or self._active_subject
        self._restore.pending = False
        if name is None:
            return
        if name not in self._subjects:
            raise MVCustomError(f"adapter_name: expected one of {sorted(self._subjects)}, got {name!r}.")
        if name == self._active_subject:
            self._refuse_fused("unload_subject")
            with device_hooks_off(self.components.values()):
                self._deactivate()
        del self._subjects[name]
        self._scalings.pop(name, None)

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers' `load_lora_weights`; beside an active subject, LoRA that act stay active, its own among them.

        Diffusers makes the LoRA that was loaded last the only active one, and a subject without its LoRA is half a subject.
        """
        before = {name: active_loras(model) for name, model in self._lora_models().items()}
        super().load_lora_weights(*args, **kwargs)
        if self._active_subject is not None:
            self._keep_active(before)

    @contextmanager
    def without_subject(self) -> Iterator[None]:
        """The pipeline's components as they are without the active subject, for the length of the context."""
        active = self._active_subject
        if active is not None:
            self._refuse_fused("without_subject")
        with device_hooks_off(self.components.values()):
            self._deactivate()
        try:
            yield
        finally:
            with device_hooks_off(self.components.values()):
                self._activate(active)

    def render_subject(
        self,
        prompt_embeds: Tensor,  # [T, L, D]
        cameras: Cameras,
        num_references: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image_embeds: list[Tensor] | None = None,  # each [T, images, D]
    ) -> SubjectRendering:
        """The active subject's features X_y at the target cameras, for each of T texts. Independent of the noise.

        Args:
            prompt_embeds (`torch.Tensor` of shape `(T, L, D)`): Text states.
            cameras ([`Cameras`]): Target cameras at the size of the views.
            num_references (`int`, *optional*): Reference views used; by default the subject's setting.
            generator (`torch.Generator`, *optional*): For noise on the references, if the subject wants any.
            image_embeds (list of `torch.Tensor`, *optional*): IP-Adapter's states of this call. The references are seen
                with zeros in their place.
        """
        size = (cameras.height, cameras.width)
        return self.subject_renderer(prompt_embeds, size, num_references, generator, image_embeds)(cameras)

    def subject_renderer(
        self,
        prompt_embeds: Tensor,  # [T, L, D]
        size: tuple[int, int],
        num_references: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image_embeds: list[Tensor] | None = None,  # each [T, images, D]
    ) -> Callable[[Cameras], SubjectRendering]:
        """Looks at the references once, and returns what renders the subject at any cameras of this size.

        Args:
            size (`tuple[int, int]`): Height and width of the views in pixels.
            prompt_embeds, num_references, generator, image_embeds: See [`~MVCustomPipeline.render_subject`].

        Raises:
            MVCustomError: if there is no active subject.
        """
        subject = self.subject
        if subject is None:
            raise MVCustomError("subject: there is none to render; call load_subject or set_subject first.")
        height, width = size
        device, dtype = prompt_embeds.device, prompt_embeds.dtype
        count = subject.config.num_references if num_references is None else num_references
        references = subject.references.select(count)
        factor = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        references = references.fit_area(height * width, factor)
        pixels = references.images.to(device=device, dtype=self.vae.dtype) * 2 - 1
        latents = torch.cat([self.vae.encode(image[None]).latent_dist.mode() for image in pixels])
        latents = (latents * self.vae.config.scaling_factor).to(dtype)
        added_cond_kwargs = None
        if image_embeds is not None:
            added_cond_kwargs = {
                "image_embeds": [states.new_zeros(len(latents), *states.shape[1:]) for states in image_embeds]
            }
        reference_embeds, _ = self.encode_prompt(subject.config.reference_prompt_text, device, 1, False)
        generator = generator[0] if isinstance(generator, list) else generator
        reference_features = collect_reference_features(
            subject,
            self.unet,
            latents,
            reference_embeds,
            scheduler=self.scheduler,
            generator=generator,
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=getattr(self, "_cross_attention_kwargs", None),  # of the call, if in one
        )
        latent_size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        lora_scale = (getattr(self, "_cross_attention_kwargs", None) or {}).get("scale")

        def render(cameras: Cameras) -> SubjectRendering:
            with lora_scaled(self._plain_unet, lora_scale):  # a FeatureNeRF asks the U-Net's text attention
                return render_features(
                    subject,
                    self.unet,
                    reference_features,
                    references,
                    prompt_embeds,
                    cameras,
                    latent_size,
                    generator=generator,
                )

        return render

    @property
    def _plain_unet(self) -> UNetMotionModel:
        """The U-Net itself if `torch.compile(pipe.unet)` has wrapped it: blocks change places inside of it."""
        return self.unet._orig_mod if is_compiled_module(self.unet) else self.unet

    def _activate(self, name: str | None) -> None:
        if name is None:
            return
        subject = self._subjects[name]
        token = subject.config.token
        if subject.learned_embeddings and token in self.tokenizer.get_vocab():
            raise MVCustomError(
                f"token: {token!r} is a word of this tokenizer already, by load_textual_inversion or the model's own; "
                "take it out with unload_textual_inversion, or train the subject under another word."
            )
        before = {part: active_loras(model) for part, model in self._lora_models().items()}
        subject.attach(self._plain_unet)
        try:
            if subject.learned_embeddings:
                self.load_textual_inversion(dict(subject.learned_embeddings), token=token)
            if subject.lora_state_dict:
                self._load_lora(dict(subject.lora_state_dict), _lora_name(name))
                self._keep_active(before)
                for part, scalings in self._scalings.get(name, {}).items():
                    set_lora_scalings(self._lora_models()[part], _lora_name(name), scalings)
        except Exception as error:
            self._take_out(name)
            if isinstance(error, MVCustomError):
                raise
            raise MVCustomError(
                f"subject {token!r}: its LoRA or its embedding does not fit this model: {error}"
            ) from error
        self._active_subject = name

    def _load_lora(self, weights: dict[str, Tensor], name: str) -> None:
        if any(weight.startswith("text_encoder") for weight in weights):
            super().load_lora_weights(weights, adapter_name=name)
        else:  # which is usual, and of which load_lora_weights warns
            state, alphas = self.lora_state_dict(weights)
            self.load_lora_into_unet(state, alphas, self.unet, adapter_name=name, _pipeline=self)

    def _deactivate(self) -> None:
        if self._active_subject is not None:
            name, self._active_subject = self._active_subject, None
            models = self._lora_models().items()
            self._scalings[name] = {part: lora_scalings(model, _lora_name(name)) for part, model in models}
            self._take_out(name)

    def _take_out(self, name: str) -> None:
        subject = self._subjects[name]
        subject.detach(self._plain_unet)
        if subject.config.token in self.tokenizer.get_vocab():
            self.unload_textual_inversion(subject.config.token)
            # diffusers leaves the configuration at the larger vocabulary, and a saved text encoder would not load.
            self.text_encoder.config.vocab_size = self.text_encoder.get_input_embeddings().num_embeddings
        if _lora_name(name) in getattr(self.unet, "peft_config", {}):
            left = {
                part: [lora for lora in active_loras(model) if lora != _lora_name(name)]
                for part, model in self._lora_models().items()
            }
            self.delete_adapters(_lora_name(name))
            for part, model in self._lora_models().items():
                set_active_loras(model, left[part])  # peft lets another one act where none is left that did
        # No LoRA of the user's is left: the plain layers come back. One that did not fit has left its layers, too.
        wrapped = any(isinstance(module, BaseTunerLayer) for module in self.unet.modules())
        if wrapped and not getattr(self.unet, "peft_config", None):
            self.unload_lora_weights()

    def _lora_models(self) -> dict[str, nn.Module]:
        """The components that LoRA is put into."""
        return {"unet": self._plain_unet, "text_encoder": self.text_encoder}

    def _keep_active(self, before: Mapping[str, list[str]]) -> None:
        """Lets LoRA that acted before act beside what is active now."""
        for part, model in self._lora_models().items():
            set_active_loras(model, list(dict.fromkeys([*before[part], *active_loras(model)])))

    def _refuse_fused(self, call: str) -> None:
        fused = sorted({name for model in self._lora_models().values() for name in fused_loras(model)})
        if fused:
            raise MVCustomError(
                f"{call}: LoRA {enumerated(fused)} is fused into the weights, and the subject's could be put in or taken out "
                "beside it only in part; call unfuse_lora first."
            )


def _refuse_attached(unet: UNetMotionModel | None) -> None:
    """Raises for a U-Net that another pipeline has put a subject into."""
    if unet is None:
        return
    attached = any(isinstance(module, PoseConditionedTransformerBlock) for module in unet.modules())
    if attached or any(name.startswith(_lora_name("")) for name in getattr(unet, "peft_config", {})):
        raise MVCustomError(
            "unet: expected one without a subject, got one that another pipeline has loaded a subject into; call its "
            "unload_subject first, and load the subject into the new pipeline."
        )


def _lora_name(subject_name: str) -> str:
    return f"subject-{subject_name}"
