"""The `mvcustom` command."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Your own object, seen from any camera, in any scene you can describe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
cameras_app = typer.Typer(help="Look at camera files and convert them.", no_args_is_help=True)
subject_app = typer.Typer(help="Make and inspect subjects.", no_args_is_help=True)
app.add_typer(cameras_app, name="cameras")
app.add_typer(subject_app, name="subject")

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Your own object, seen from any camera, in any scene you can describe."""


@app.command()
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

    from .hooks import ConsistentAwareLatentCompletion, DepthAwareFeatureRendering
    from .pipelines import MVCustomPipeline

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
    result.save(output, fps=fps)
    hooks = " + ".join(type(hook).__name__ for hook in pipe.hooks) or "no hooks"
    typer.echo(
        f"{len(prompt)} × {len(targets)} views of {targets.width} × {targets.height} in {seconds:.1f} s "
        f"({steps} steps, {hooks}) → {output}"
    )


@app.command("random-model")
def random_model(
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    size: Annotated[str, typer.Option(help="tiny, or sd15 for the shapes of Stable Diffusion 1.5.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a model with random weights: its views are noise, everything else about it is real.

    Example: `mvcustom random-model random-tiny/`
    """
    from .pipelines import MVCustomPipeline
    from .toy import random_components

    MVCustomPipeline(**random_components(size, seed=seed)).save_pretrained(output)
    typer.echo(f"random {size} model → {output}")


@subject_app.command("create")
def subject_create(
    capture: Annotated[Path, typer.Argument(help="Posed photos: transforms.json, COLMAP, CO3Dv2 (folder or file).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Subject folder to write.")],
    model: Annotated[str, typer.Option(help="Model folder or Hub id that the subject is for.")],
    token: Annotated[str, typer.Option(help="New token that names the subject, such as '<my-mug>'.")],
    class_noun: Annotated[str, typer.Option(help="What the subject is: mug, car, chair ...")],
    up: Annotated[tuple[float, float, float] | None, typer.Option(help="World up; estimated if not given.")] = None,
) -> None:
    """Make an untrained subject from posed photos: it holds the references and changes nothing yet.

    Example: `mvcustom subject create photos/ -o my-mug/ --model you/base --token "<my-mug>" --class-noun mug`
    """
    from .cameras import load_capture, normalize_cameras
    from .pipelines import MVCustomPipeline
    from .subjects import ReferenceViews, SubjectAdapter, initial_token_embedding

    loaded = load_capture(capture)
    normalized, frame = normalize_cameras(loaded.cameras, up="auto" if up is None else up)
    references = ReferenceViews.from_capture(loaded.with_cameras(normalized))
    pipe = MVCustomPipeline.from_pretrained(model)
    adapter = SubjectAdapter.create(
        pipe.unet,
        references,
        token=token,
        class_noun=class_noun,
        token_embedding=initial_token_embedding(pipe.tokenizer, pipe.text_encoder, class_noun),
        subject_frame=frame,
        base_model=model,
    )
    adapter.save_pretrained(output)
    typer.echo(f"{len(references)} reference views of {references.width} × {references.height}, untrained → {output}")


@cameras_app.command("show")
def cameras_show(
    file: Annotated[Path, typer.Argument(help="Camera file or capture of any supported format.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Plot to write; by default FILE's name + .png here.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Bring the cameras into the subject frame first.")] = False,
) -> None:
    """Summarise cameras and plot their frusta around the subject.

    Example: `mvcustom cameras show photos/transforms.json --normalize -o cameras.png`
    """
    from .cameras import load_cameras, normalize_cameras, save_camera_plot

    cameras = load_cameras(file)
    if normalize:
        cameras, _ = normalize_cameras(cameras)
    output = output or Path(f"{file.stem}.png")
    save_camera_plot(output, cameras, title=file.name)
    fov = cameras.field_of_view.median(dim=0).values.tolist()
    distance = cameras.centers.norm(dim=-1)
    typer.echo(
        f"{len(cameras)} cameras of {cameras.width} × {cameras.height}, field of view {fov[0]:.1f}° × {fov[1]:.1f}°, "
        f"{distance.min():.3g} to {distance.max():.3g} from the origin → {output}"
    )


@cameras_app.command("convert")
def cameras_convert(
    file: Annotated[Path, typer.Argument(help="Camera file of any supported format.")],
    output: Annotated[Path, typer.Argument(help="File or folder to write.")],
    format: Annotated[str | None, typer.Option(help="Format to write; by default by the output's name.")] = None,
) -> None:
    """Convert cameras between file formats.

    Example: `mvcustom cameras convert sparse/0 transforms.json`
    """
    from .cameras import load_cameras, save_cameras

    cameras = load_cameras(file)
    save_cameras(output, cameras, format=format)
    typer.echo(f"{len(cameras)} cameras → {output}")


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
    from .cameras import Cameras, load_cameras
    from .errors import MVCustomError

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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error of the user's is one line on standard error, its traceback behind `--debug`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="mvcustom")
    except (ValueError, OSError) as error:
        if debug:
            raise
        typer.echo(f"mvcustom: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
