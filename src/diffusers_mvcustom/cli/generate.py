"""`mvcustom generate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}


def generate(
    model: Annotated[str, typer.Option(help="Model folder or Hub id.")],
    prompt: Annotated[list[str], typer.Option(help="What to generate, with the subject's token. Repeat for several.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    subject: Annotated[str | None, typer.Option(help="Subject folder or Hub id.")] = None,
    motion_adapter: Annotated[
        str | None, typer.Option(help="Motion adapter, for a Stable Diffusion 1.5 model.")
    ] = None,
    depth_model: Annotated[str | None, typer.Option(help="Depth model, if the model has none of its own.")] = None,
    cameras: Annotated[
        str | None,
        typer.Option(help="Camera file in the subject frame, or 'references' for the subject's own cameras."),
    ] = None,
    orbit: Annotated[int | None, typer.Option(help="Number of views on an orbit.")] = None,
    spiral: Annotated[int | None, typer.Option(help="Number of views on a spiral.")] = None,
    lemniscate: Annotated[int | None, typer.Option(help="Number of views on a lemniscate.")] = None,
    azimuth: Annotated[
        tuple[float, float] | None, typer.Option(help="First and last azimuth of the orbit, degrees.")
    ] = None,
    elevation: Annotated[float, typer.Option(help="Elevation of the orbit in degrees.")] = 20.0,
    views: Annotated[int | None, typer.Option(help="Keep this many of the cameras, evenly spread.")] = None,
    height: Annotated[int | None, typer.Option(help="Height of the views; by default the model's size.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the views; by default the model's size.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep away from.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(help="Text guidance scale.")] = 5.0,
    reference_guidance: Annotated[float | None, typer.Option(help="Reference guidance scale.")] = None,
    pose_guidance: Annotated[
        tuple[float, float], typer.Option(help="Share of the steps in which the subject acts.")
    ] = (0.0, 1.0),
    window: Annotated[str | None, typer.Option(help="Attention window: 1, an odd number, or 'full'.")] = None,
    dfr: Annotated[bool, typer.Option(help="Depth-aware feature rendering.")] = True,
    clc: Annotated[bool, typer.Option(help="Consistent-aware latent completion.")] = True,
    anchor: Annotated[int | None, typer.Option(help="Anchor frame; by default the middle one.")] = None,
    scheduler: Annotated[str | None, typer.Option(help=f"One of {', '.join(SCHEDULERS)}.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    device: Annotated[str | None, typer.Option(help="By default cuda where there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    fps: Annotated[int, typer.Option(help="Views a second in GIF and video.")] = 8,
) -> None:
    """Generate views of a subject from target cameras.

    Example: `mvcustom generate --model you/base --subject my-mug/ --prompt "a <my-mug> mug on a mossy rock"
    --orbit 16 --azimuth -40 40 -o out/`
    """
    import torch

    from ..hooks import ConsistentAwareLatentCompletion, DepthAwareFeatureRendering
    from ..pipelines import MVCustomPipeline
    from .generation_record import forget_records, set_folders, write_record

    if sum(choice is not None for choice in (cameras, orbit, spiral, lemniscate)) != 1:
        raise typer.BadParameter("expected one of --cameras, --orbit, --spiral, --lemniscate")
    if scheduler is not None and scheduler not in SCHEDULERS:
        raise typer.BadParameter(f"--scheduler: expected one of {', '.join(SCHEDULERS)}, got {scheduler!r}")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise typer.BadParameter(f"--dtype: expected float32, float16 or bfloat16, got {dtype!r}")
    weight_dtype = getattr(torch, dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = MVCustomPipeline.from_pretrained(
        model, torch_dtype=weight_dtype, **_extra_components(motion_adapter, depth_model, weight_dtype)
    ).to(device)
    if subject is not None:
        pipe.load_subject(subject)
    if window is not None:
        pipe.set_attention_window(None if window == "full" else _window(window))
    if scheduler is not None:
        pipe.scheduler = _scheduler(SCHEDULERS[scheduler], pipe.scheduler)
    kinds = [
        kind for kind, wanted in ((DepthAwareFeatureRendering, dfr), (ConsistentAwareLatentCompletion, clc)) if wanted
    ]
    pipe.set_hooks([hook for hook in pipe.hooks if isinstance(hook, tuple(kinds))])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    targets = _target_cameras(
        pipe,
        cameras,
        orbit,
        spiral,
        lemniscate,
        azimuth,
        elevation,
        side if height is None else height,
        side if width is None else width,
    )
    if views is not None:
        targets = targets[torch.linspace(0, len(targets) - 1, min(views, len(targets))).round().long()]
    started = time.perf_counter()
    result = pipe(
        list(prompt),
        cameras=targets,
        negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompt),
        num_inference_steps=steps,
        guidance_scale=guidance,
        reference_guidance_scale=reference_guidance,
        pose_guidance_start=pose_guidance[0],
        pose_guidance_end=pose_guidance[1],
        anchor=anchor,
        generator=torch.Generator(device).manual_seed(seed),
    )
    seconds = time.perf_counter() - started
    settings = {
        "token": None if pipe.subject is None else pipe.subject.config.token,
        "model": model,
        "subject": subject,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "reference_guidance_scale": reference_guidance,
        "pose_guidance_start": pose_guidance[0],
        "pose_guidance_end": pose_guidance[1],
        "attention_window": window,
        "hooks": [type(hook).__name__ for hook in pipe.hooks],
        "anchors": None if result.anchors is None else list(result.anchors),
        "scheduler": type(pipe.scheduler).__name__,
        "seed": seed,
        "dtype": dtype,
    }
    folders = set_folders(output, len(prompt))
    forget_records(folders)
    result.save(output, fps=fps)
    for folder, text in zip(folders, prompt):
        write_record(folder, {"prompt": text, **settings})
    hooks = " + ".join(settings["hooks"]) or "no hooks"
    typer.echo(
        f"{len(prompt)} × {len(targets)} views of {targets.width} × {targets.height} in {seconds:.1f} s "
        f"({steps} steps, {hooks}) → {output}"
    )


def _window(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"--window: expected 1, an odd number or 'full', got {text!r}") from None


def _extra_components(motion_adapter: str | None, depth_model: str | None, dtype) -> dict:
    from diffusers import MotionAdapter
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    extra = {}
    if motion_adapter is not None:
        extra["motion_adapter"] = MotionAdapter.from_pretrained(motion_adapter, torch_dtype=dtype)
    if depth_model is not None:
        extra["depth_estimator"] = AutoModelForDepthEstimation.from_pretrained(depth_model)
        extra["depth_image_processor"] = AutoImageProcessor.from_pretrained(depth_model)
    return extra


def _scheduler(name: str, current):
    import diffusers

    return getattr(diffusers, name).from_config(current.config)


def _target_cameras(pipe, cameras, orbit, spiral, lemniscate, azimuth, elevation, height, width):
    from ..cameras import Cameras, load_cameras
    from ..errors import MVCustomError

    references = None if pipe.subject is None else pipe.subject.references.cameras
    if cameras == "references":
        if references is None:
            raise MVCustomError("cameras: 'references' are the subject's own cameras; name a --subject.")
        return references.cover(height, width)
    if cameras is not None:
        return load_cameras(cameras).cover(height, width)
    like = {"like": None if references is None else references.cover(height, width), "height": height, "width": width}
    if orbit is not None:
        return Cameras.orbit(orbit, elevation=elevation, **({} if azimuth is None else {"azimuth": azimuth}), **like)
    if spiral is not None:
        return Cameras.spiral(spiral, **like)
    return Cameras.lemniscate(lemniscate, **like)
