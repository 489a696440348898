"""What a type checker makes of users' code. `mypy` reads this file with the package; nothing in it is run.

A line with `type: ignore` is one that has to be refused: mypy reports an ignore that nothing needs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from typing_extensions import assert_type

from diffusers_mvcustom import Cameras, DenoisingHook, MVCustomPipeline, MVCustomPipelineOutput, SubjectAdapter
from diffusers_mvcustom.cameras import normalize_cameras
from diffusers_mvcustom.hooks import DenoisingRun, DenoisingStep
from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig


def views_of_a_subject(folder: Path) -> None:
    pipe = MVCustomPipeline.from_pretrained("you/base", torch_dtype=torch.bfloat16)
    assert_type(pipe, MVCustomPipeline)
    pipe.load_subject("you/my-mug")
    assert_type(pipe.subject, SubjectAdapter | None)
    out = pipe("a <my-mug> mug", cameras=Cameras.orbit(16, azimuth=(-40, 40), elevation=20))
    assert_type(out, MVCustomPipelineOutput)
    assert_type(out.images[0][0], PIL.Image.Image)
    assert_type(out.cameras, Cameras | None)
    assert_type(out.save(folder, formats=["gif", "ply"]), list[Path])
    (frames,) = pipe("a mug", "cameras.json", output_type="np", return_dict=False)
    assert_type(frames, list[list[PIL.Image.Image]] | np.ndarray | Tensor)
    pipe.set_attention_window({"64": 7, "32": None})
    pipe("a mug", steps=3)  # type: ignore[call-overload]
    pipe("a mug", Cameras.orbit(16), guidance_scale="strong")  # type: ignore[call-overload]
    pipe.set_attention_window("whole")  # type: ignore[arg-type]


def on_step_end(pipe: MVCustomPipeline, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"latents": tensors["latents"] * 1.0}


def hooks_and_callbacks(pipe: MVCustomPipeline) -> None:
    class Quiet(DenoisingHook):
        def before_step(self, run: DenoisingRun, step: DenoisingStep) -> None:
            run.latents = run.noise_levels.add_noise(run.latents, run.randn(tuple(run.latents.shape)), step.index)

    pipe("a mug", Cameras.orbit(16), hooks=[Quiet(end=0.1)], callback_on_step_end=on_step_end)
    pipe("a mug", Cameras.orbit(16), hooks=["dfr"])  # type: ignore[list-item]


def cameras(poses: Tensor, intrinsics: Tensor) -> None:
    like = Cameras(poses, intrinsics, 512, 768)
    assert_type(Cameras.arc(8, elevation=(0.0, 30.0), like=like), Cameras)
    assert_type(Cameras.spiral(8, turns=2, radius=0.8)[2:4], Cameras)
    assert_type([camera.height for camera in like], list[int])
    normalized, _ = normalize_cameras(like, up=(0.0, -1.0, 0.0))
    assert_type(normalized.to("cuda"), Cameras)
    Cameras.arc(8, radius="far")  # type: ignore[arg-type]
    Cameras.dolly(8, turns=2)  # type: ignore[call-arg]


def training(config: SubjectTrainingConfig, pipe: MVCustomPipeline) -> None:
    trainer = SubjectTrainer(config, pipe)
    assert_type(trainer.config, SubjectTrainingConfig)
    assert_type(trainer.train(), Path)
