"""`mvcustom generate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import camera_choice
from .named_models import load_depth_model, load_model, load_motion_adapter
from .options import checked_device, checked_seed, parsed_window

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}


def generate(
    model: Annotated[
        str,
        typer.Option(
            help="Model folder or Hub id. toy: the model that ships with the package; tiny, sd15: random weights, to try a "
            "command with."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write to; or, for one prompt, one file: .mp4, .gif, .webp, .png (contact sheet), .ply (points).",
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to generate, with the subject's token. Repeat for several.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of many prompts, each with a folder of its own in the output: .txt (one a line), .json or .yaml "
            "(a list of texts, or of objects with prompt, subject, seed, output). Under `accelerate launch` the "
            "processes share them."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="With --prompts: generate again what the output holds already.")
    ] = False,
    subject: Annotated[str | None, typer.Option(help="Subject folder or Hub id.")] = None,
    motion_adapter: Annotated[
        str | None, typer.Option(help="Motion adapter, for a Stable Diffusion 1.5 model.")
    ] = None,
    depth_model: Annotated[str | None, typer.Option(help="Depth model, if the model has none of its own.")] = None,
    cameras: camera_choice.CameraFile = None,
    cameras_frame: camera_choice.CamerasFrame = "subject",
    interpolate: camera_choice.Interpolate = None,
    orbit: camera_choice.Orbit = None,
    arc: camera_choice.Arc = None,
    spiral: camera_choice.Spiral = None,
    lemniscate: camera_choice.Lemniscate = None,
    dolly: camera_choice.Dolly = None,
    zoom: camera_choice.Zoom = None,
    dolly_zoom: camera_choice.DollyZoom = None,
    translate: camera_choice.Translate = None,
    azimuth: camera_choice.Azimuth = None,
    elevation: camera_choice.Elevation = None,
    rise: camera_choice.Rise = None,
    distance: camera_choice.Distance = None,
    factor: camera_choice.Factor = None,
    offset: camera_choice.Offset = None,
    radius: camera_choice.Radius = None,
    target: camera_choice.Target = None,
    field_of_view: camera_choice.FieldOfView = None,
    views: camera_choice.Views = None,
    height: camera_choice.Height = None,
    width: camera_choice.Width = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep away from.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(help="Text guidance scale.")] = 5.0,
    reference_guidance: Annotated[float | None, typer.Option(help="Reference guidance scale.")] = None,
    pose_guidance: Annotated[
        tuple[float, float], typer.Option(help="Share of the steps in which the subject acts.")
    ] = (0.0, 1.0),
    window: Annotated[
        str | None,
        typer.Option(
            help="Attention window: 1, an odd number, or 'full'; or one for each size of feature map, as in 8:full,16:3."
        ),
    ] = None,
    temporal_heads: Annotated[
        int | None,
        typer.Option(
            min=0, help="Attention heads of the motion modules that stay along time alone; as trained by default."
        ),
    ] = None,
    dfr: Annotated[bool, typer.Option(help="Depth-aware feature rendering.")] = True,
    clc: Annotated[bool, typer.Option(help="Consistent-aware latent completion.")] = True,
    anchor: Annotated[int | None, typer.Option(help="Anchor frame; by default the middle one.")] = None,
    anchor_image: Annotated[
        list[Path] | None,
        typer.Option(help="Image of the anchor frame, of the views' size. Repeat for one per --prompt."),
    ] = None,
    views_at_a_time: Annotated[
        int | None,
        typer.Option(help="Generate a path of more views than this window by window; 16 is a good number."),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help=f"One of {', '.join(SCHEDULERS)}.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", callback=checked_seed)] = 0,
    device: Annotated[
        str | None, typer.Option(help="By default cuda where there is one.", callback=checked_device)
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    fps: Annotated[int, typer.Option(help="Views a second in GIF, WebP and video.")] = 8,
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="What the folder holds beside images/, contact sheet and transforms.json: gif, mp4, webp, colmap, "
            "colmap-text, ply. Repeat for several. By default gif, colmap, ply (with --dfr or --clc), and mp4 if the extra "
            "'video' is installed."
        ),
    ] = None,
    frame: Annotated[
        str,
        typer.Option(
            help="World of the written cameras and points: subject, or user for that of the subject's photos."
        ),
    ] = "subject",
) -> None:
    """Generate views of a subject from target cameras.

    Many prompts: `accelerate launch -m diffusers_mvcustom.cli generate --prompts prompts.txt ...`

    Example: `mvcustom generate --model you/base --subject out/my-mug/subject --prompt "a <my-mug> mug on a mossy rock"
    --orbit 16 --azimuth -40 40 -o out/`

    As a video only: `... -o mug.mp4`

    For gsplat or nerfstudio, in the world of your photos: `... --format colmap --format ply --frame user -o out/`
    """
    import torch

    from ..export import check_export, is_one_file
    from ..hooks import ConsistentAwareLatentCompletion, DepthAwareFeatureRendering
    from ..models import AttentionWindows
    from ..pipelines.hook_settings import acting_hooks
    from .many_prompts import generate_prompts, start_processes, summary
    from .prompt_file import read_prompts
    from .view_maker import ViewMaker

    choice = camera_choice.CameraChoice(
        cameras=cameras,
        cameras_frame=cameras_frame,
        interpolate=interpolate,
        orbit=orbit,
        arc=arc,
        spiral=spiral,
        lemniscate=lemniscate,
        dolly=dolly,
        zoom=zoom,
        dolly_zoom=dolly_zoom,
        translate=translate,
        azimuth=azimuth,
        elevation=elevation,
        rise=rise,
        distance=distance,
        factor=factor,
        offset=offset,
        radius=radius,
        target=target,
        field_of_view=field_of_view,
        views=views,
        height=height,
        width=width,
    )
    choice.check()
    if (not prompt) == (prompts is None):
        raise typer.BadParameter("expected either --prompt or --prompts")
    if overwrite and prompts is None:
        raise typer.BadParameter("--overwrite: only with --prompts; views of a --prompt are always replaced")
    if scheduler is not None and scheduler not in SCHEDULERS:
        raise typer.BadParameter(f"--scheduler: expected one of {', '.join(SCHEDULERS)}, got {scheduler!r}")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise typer.BadParameter(f"--dtype: expected float32, float16 or bfloat16, got {dtype!r}")
    if frame not in ("subject", "user"):
        raise typer.BadParameter(f"--frame: expected subject or user, got {frame!r}")
    windows = None if window is None else parsed_window(window)
    check_export(output, format or None, fps, sets=len(prompt or [None]))
    if prompts is not None and is_one_file(output):
        raise typer.BadParameter(f"--output: expected a folder for --prompts, got {output}")
    requests = None if prompts is None else read_prompts(prompts)
    if requests is not None:
        processes = start_processes(device)
        device = str(processes.device)
    weight_dtype = getattr(torch, dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    adapter = None if motion_adapter is None else load_motion_adapter(motion_adapter, weight_dtype)
    depth = {} if depth_model is None else load_depth_model(depth_model)
    pipe = load_model(model, adapter, weight_dtype, **depth).to(device)
    if window is not None or temporal_heads is not None:
        pipe.set_attention_window(pipe.config.attention_window if window is None else windows, temporal_heads)
    if temporal_heads and AttentionWindows(pipe.config.attention_window).temporal_only:
        raise typer.BadParameter("--temporal-heads: expected a window wider than 1, where all heads attend along time")
    if scheduler is not None:
        pipe.scheduler = _scheduler(SCHEDULERS[scheduler], pipe.scheduler)
    kinds = [
        kind for kind, wanted in ((DepthAwareFeatureRendering, dfr), (ConsistentAwareLatentCompletion, clc)) if wanted
    ]
    pipe.set_hooks([hook for hook in pipe.hooks if isinstance(hook, tuple(kinds))])
    maker = ViewMaker(
        pipe,
        call={
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "reference_guidance_scale": reference_guidance,
            "pose_guidance_start": pose_guidance[0],
            "pose_guidance_end": pose_guidance[1],
            "anchor": anchor,
            "anchor_image": anchor_image or None,
            "views_at_a_time": views_at_a_time,
        },
        record={
            "model": model,
            "attention_window": pipe.config.attention_window,
            "temporal_heads": pipe.config.temporal_heads,
            "dtype": dtype,
        },
        choice=choice,
        negative_prompt=negative_prompt,
        saved={"formats": format or None, "fps": fps, "frame": frame},
    )
    started = time.perf_counter()
    if requests is not None:
        pipe.set_progress_bar_config(disable=not processes.is_main_process)
        tally = generate_prompts(maker, requests, output, processes, subject=subject, seed=seed, overwrite=overwrite)
        if processes.is_main_process:
            typer.echo(summary(tally, started, processes, output))
        processes.destroy_process_group()
        if tally.failed:
            raise typer.Exit(1)
        return
    assert prompt is not None  # either these or prompts of a file are given
    maker.use_subject(subject)
    targets = maker.make(prompt, seed, output)
    hooks = " + ".join(type(hook).__name__ for hook in acting_hooks(pipe.hooks, len(targets))) or "no hooks"
    typer.echo(
        f"{len(prompt)} × {len(targets)} views of {targets.width} × {targets.height} in "
        f"{time.perf_counter() - started:.1f} s ({steps} steps, {hooks}) → {output}"
    )


def _scheduler(name: str, current: SchedulerMixin) -> SchedulerMixin:
    import diffusers

    return getattr(diffusers, name).from_config(current.config)
