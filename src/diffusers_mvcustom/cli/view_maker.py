"""One loaded pipeline and the settings of a `mvcustom generate` command: prompts in, folders of views out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MVCustomError

if TYPE_CHECKING:
    from ..cameras import Cameras, SubjectFrame
    from ..pipelines import MVCustomPipeline
    from .camera_choice import CameraChoice

_ADAPTER_NAME = "of-the-command"


@dataclass
class ViewMaker:
    """Generates sets of views, all with the same settings, and writes each with its record.

    Args:
        pipe ([`MVCustomPipeline`]): The pipeline, hooks and scheduler set.
        call (`dict`): Arguments of the pipeline's call that are the same for all prompts.
        record (`dict`): What else the records say of how the views were made.
        choice ([`CameraChoice`]): Which cameras.
        saved (`dict`): How views are saved: `formats`, `fps` and `frame` of [`MVCustomPipelineOutput.save`].
        negative_prompt (`str`, *optional*): What to keep away from.
    """

    pipe: MVCustomPipeline
    call: dict[str, Any]
    record: dict[str, Any]
    choice: CameraChoice
    saved: dict[str, Any]
    negative_prompt: str | None = None

    def __post_init__(self) -> None:
        loaded = self.pipe.subjects.items()
        self._own_subject = next((name for name, subject in loaded if subject is self.pipe.subject), None)
        self._subject: str | None = None

    def use_subject(self, subject: str | None) -> None:
        """Loads another subject in place of the one before; `None` is the model's own, if it was saved with one."""
        if subject == self._subject:
            return
        if self._subject is not None:
            self._subject = None
            self.pipe.unload_subject(_ADAPTER_NAME)
            self.pipe.set_subject(self._own_subject)
        if subject is not None:
            self.pipe.load_subject(subject, adapter_name=_ADAPTER_NAME)
            self._subject = subject

    def cameras(self) -> Cameras:
        """The target cameras; 'references' and the default focal length depend on the subject."""
        return self.choice.of(self.pipe.subject, self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)

    def is_finished(self, folder: Path, prompt: str, seed: int) -> bool:
        """Whether `folder` holds these views already: made by the same settings, for the same cameras."""
        from ..cameras import load_cameras
        from ..export import read_record

        try:
            record = read_record(folder)
            expected = json.loads(json.dumps(self._record(prompt, seed)))
            same = record.items() >= expected.items()
            cameras = self.cameras()
            if self.saved["frame"] == "user":
                frame = self._subject_frame()
                if frame is None:
                    return False
                cameras = frame.to_user(cameras)
            return same and load_cameras(folder / "transforms.json").allclose(cameras, atol=1e-4)
        except (MVCustomError, OSError):  # no views, or not whole
            return False

    def make(self, prompts: Sequence[str], seed: int, output: Path) -> Cameras:
        """Generates a set of views per prompt in one call, writes them, and returns their cameras.

        The record of how they were made goes beside them, unless `output` is one file.
        """
        import torch

        from ..export import is_one_file

        if self.saved["frame"] == "user" and self._subject_frame() is None:
            raise MVCustomError("frame: 'user' is the world of a subject's photos; name a --subject that knows it.")
        cameras = self.cameras()
        negative = None if self.negative_prompt is None else [self.negative_prompt] * len(prompts)
        result = self.pipe(
            list(prompts),
            cameras=cameras,
            negative_prompt=negative,
            generator=torch.Generator(self.pipe.device).manual_seed(seed),
            **self.call,
        )
        if is_one_file(output):
            result.save(output, **self.saved)
            return cameras
        made = {"anchors": None if result.anchors is None else list(result.anchors)}
        records = [{**self._record(prompt, seed), **made} for prompt in prompts]
        result.save(output, **self.saved, records=records)
        return cameras

    def _subject_frame(self) -> SubjectFrame | None:
        """The way to the world of the subject's photos, if there is a subject that knows it."""
        return None if self.pipe.subject is None else self.pipe.subject.config.subject_frame

    def _record(self, prompt: str, seed: int) -> dict[str, Any]:
        """What is known of a set of views before it is generated."""
        subject = self.pipe.subject
        return {
            "prompt": prompt,
            "token": None if subject is None else subject.config.token,
            "subject": self._subject,
            "negative_prompt": self.negative_prompt,
            "seed": seed,
            "hooks": [type(hook).__name__ for hook in self.pipe.hooks],
            "scheduler": type(self.pipe.scheduler).__name__,
            "frame": self.saved["frame"],
            **{name: value for name, value in self.call.items() if name != "anchor_image"},
            "anchor_image": None if self.call["anchor_image"] is None else [str(p) for p in self.call["anchor_image"]],
            **self.record,
        }
