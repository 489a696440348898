"""Saving and loading a pipeline together with its subject."""

from __future__ import annotations

from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from ..errors import MVCustomError
from ..files.whole import replaced_folder
from ..models.motion_transformer import fitting_motion_weights
from .attention_window import TrainedAttention, trained_attention
from .subject_loading import SubjectLoadingMixin

if TYPE_CHECKING:
    from diffusers import MotionAdapter
    from typing_extensions import Self

SUBJECT_FOLDER = "subject"
_HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")


class PersistenceMixin(SubjectLoadingMixin):
    """`save_pretrained` writes stock components and the active subject; `from_pretrained` restores both."""

    _trained_attention: TrainedAttention

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Loads a pipeline with its hooks' settings and, if one was saved with it, its subject.

        Args:
            pretrained_model_name_or_path (`str` or path): A folder or Hub id in the layout of this pipeline, of
                `AnimateDiffPipeline`, or of Stable Diffusion 1.5 together with `motion_adapter=`.
            kwargs: As in diffusers' `DiffusionPipeline.from_pretrained`, and this pipeline's own settings. Without `dtype`
                all components are float32. A `motion_adapter` takes the place of motion modules that the model has.
        """
        if "torch_dtype" not in kwargs:
            # Else diffusers loads its own models in float32, and those of transformers as they are stored.
            kwargs.setdefault("dtype", torch.float32)
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if isinstance(pipe, PersistenceMixin):
            if kwargs.get("motion_adapter") is not None:
                pipe.load_motion_adapter(kwargs["motion_adapter"])
            pipe._restore_saved_subject(**{name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs})
        return pipe

    def load_motion_adapter(self, motion_adapter: MotionAdapter) -> None:
        """Puts a motion adapter's weights in the place of the motion modules'; the attention window stays as it is.

        `set_attention_window("auto")` takes the one that the adapter was trained with, where its configuration says, and its
        `temporal_heads`.

        `AnimateDiffPipeline` joins an adapter with a 2-D U-Net only, and ignores it beside one that has motion modules.

        Raises:
            MVCustomError: if it is of another shape; nothing has changed then.
        """
        fitting_motion_weights(self.unet, motion_adapter)
        self.unet.load_motion_modules(motion_adapter)
        self._trained_attention = trained_attention(self.unet, motion_adapter, saved=self._trained_attention)

    def _restore_saved_subject(self, **hub_arguments: Any) -> None:
        """Loads the subject saved with the pipeline, unless it was loaded, replaced or taken out before.

        `DiffusionPipeline.from_pretrained` knows nothing of subjects, so a call restores it at the latest.
        """
        if not self._restore.pending:
            return
        self._restore.pending = False
        folder, source = self.config.get("subject_folder"), self.config.get("_name_or_path")
        if folder is not None and source is not None:
            self.load_subject(source, subfolder=folder, **hub_arguments)

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes the components as stock diffusers components, the settings, and the active subject in `subject/`.

        Args:
            save_directory (`str` or path): Folder to write to. One that is new or empty is there as a whole or not at all.
            push_to_hub (`bool`, defaults to `False`): Whether to upload the folder; with `repo_id`, `private`, `token`,
                `commit_message` and `create_pr` as in diffusers.
            kwargs: As in diffusers' `DiffusionPipeline.save_pretrained`.
        """
        if any(
            getattr(self.unet, "peft_config", {}) and not name.startswith("subject-") for name in self._lora_names()
        ):
            raise MVCustomError(
                f"save_pretrained: LoRA {self._lora_names()} is loaded, and its layers would be saved in a form that does "
                "not load again. Call unload_lora_weights() or fuse_lora() and unload_lora_weights() first."
            )
        hub = {
            name: kwargs.pop(name)
            for name in ("repo_id", "private", "token", "commit_message", "create_pr")
            if name in kwargs
        }
        subject, folder = self.subject, Path(save_directory)
        self.register_to_config(subject_folder=None if subject is None else SUBJECT_FOLDER)
        # A folder that holds something already keeps it, as in diffusers: another variant of the weights, say.
        new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        try:
            with replaced_folder(folder) if new else nullcontext(folder) as target:
                with self.without_subject():
                    super().save_pretrained(target, **kwargs)
                if subject is not None:
                    subject.save_pretrained(target / SUBJECT_FOLDER)
        except (OSError, SafetensorError) as error:
            left = "Nothing was written." if new else "What was in it may be replaced in part; save again."
            raise MVCustomError(f"save_directory: {folder} could not be written: {error}. {left}") from error
        if push_to_hub:
            self._push(save_directory, **hub)

    def _push(
        self,
        save_directory: str | PathLike[str],
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        **commit: Any,
    ) -> None:
        from huggingface_hub import create_repo

        repo_id = repo_id or Path(save_directory).name
        repo_id = create_repo(repo_id, exist_ok=True, private=private, token=token).repo_id
        self._upload_folder(save_directory, repo_id, token=token, **commit)

    def _lora_names(self) -> list[str]:
        return sorted(getattr(self.unet, "peft_config", {}))
