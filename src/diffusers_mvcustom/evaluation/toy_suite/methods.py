"""The methods that are compared, and how each generates the views of a case."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ...errors import MVCustomError
from ...hooks import AnchorSettings
from ...models.motion_transformer import motion_bypassed
from .cases import Case, SuiteSettings
from .known_geometry import KnownGeometry
from .motion_weights import motion_weights
from .peak_memory import Cost, measured

if TYPE_CHECKING:
    from diffusers import MotionAdapter

    from ...pipelines import MVCustomPipeline

SubjectKind = Literal["pose-conditioned", "lora"]
DFR, CLC = "depth_aware_feature_rendering", "consistent_aware_latent_completion"


@dataclass(frozen=True)
class Method:
    """One way to generate.

    Args:
        name (`str`): Short, for files.
        title (`str`): For tables.
        subject (`str`): `"pose-conditioned"` (LoRA, token and FeatureNeRF) or `"lora"` (LoRA and token).
        hooks (`tuple` of `str`): Names of the pipeline's hooks that act.
        one_dimensional (`bool`): Attention of the motion modules along time only, as AnimateDiff has it; with motion
            modules that were trained so, where there are any.
        single_views (`bool`): Motion modules off, so that every view is generated on its own.
        hook_settings (`dict[str, dict]`): Fields of the hooks to change, by the hook's name.
        anchor (`dict`): Fields of [`AnchorSettings`] to change.
        guidance (`dict`): `guidance_scale` or `reference_guidance_scale` in the place of the suite's.
        exact_depth (`bool`): The anchor's depth is that of the [`KnownGeometry`] instead of an estimate, so that errors of
            the depth model, and a horizon of the picture's own, do not count.
    """

    name: str
    title: str
    subject: SubjectKind = "pose-conditioned"
    hooks: tuple[str, ...] = ()
    one_dimensional: bool = False
    single_views: bool = False
    hook_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    anchor: Mapping[str, Any] = field(default_factory=dict)
    guidance: Mapping[str, float | None] = field(default_factory=dict)
    exact_depth: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values; settings that are the pipeline's own are left out."""
        values = {**asdict(self), "hooks": list(self.hooks)}
        return {name: value for name, value in values.items() if value != {} and (name != "exact_depth" or value)}


GENERATION_VERSION = 2
"""Counted up when the pipeline's defaults change what methods generate, so that no views of before are taken."""

METHODS = (
    Method("full", "full", hooks=(DFR, CLC)),
    Method("without_clc", "without CLC", hooks=(DFR,)),
    Method("without_dfr_clc", "without DFR and CLC"),
    Method(
        "features_only",
        "full, as in the paper: features alone, and the subject's too",
        hooks=(DFR, CLC),
        hook_settings={DFR: {"carry_noise": False}},
        anchor={"render_subject": True, "ground": False},
    ),
    Method("without_ground", "full, depth fitted to the subject alone", hooks=(DFR, CLC), anchor={"ground": False}),
    Method("one_dimensional", "1-D attention, with DFR and CLC", hooks=(DFR, CLC), one_dimensional=True),
    Method("full_exact_depth", "full, exact depth", hooks=(DFR, CLC), exact_depth=True),
    Method(
        "one_dimensional_exact_depth",
        "1-D attention, with DFR and CLC, exact depth",
        hooks=(DFR, CLC),
        one_dimensional=True,
        exact_depth=True,
    ),
    Method("lora", "LoRA and token only (DreamBooth-LoRA)", subject="lora"),
    Method("single_views", "single views with FeatureNeRF (CustomDiffusion360)", single_views=True),
)


@dataclass(frozen=True, eq=False)
class Generated:
    """What a method made.

    Args:
        images (`torch.Tensor` of shape `(N, 3, S, S)`, *optional*): RGB in [0, 1]; `None` if it failed.
        cost ([`Cost`]): Seconds and memory.
        error (`str`, *optional*): Why there are no images.
    """

    images: Tensor | None
    cost: Cost
    error: str | None = None


def generate(
    pipe: MVCustomPipeline,
    method: Method,
    case: Case,
    settings: SuiteSettings,
    one_dimensional_motion: MotionAdapter | None = None,
) -> Generated:
    """Generates the views of a case. All methods start from the same noise.

    Args:
        pipe ([`MVCustomPipeline`]): With the case's subject loaded as `"pose-conditioned"` and as `"lora"`.
        method ([`Method`]): How.
        case ([`Case`]): What.
        settings ([`SuiteSettings`]): Steps and guidance.
        one_dimensional_motion (`MotionAdapter`, *optional*): Motion modules for `one_dimensional` methods, trained with
            that attention; the model's own if not given.

    Returns:
        [`Generated`]. A generation that the pipeline gives up, or that holds NaN, is a failure and not an exception.
    """
    device = pipe.unet.device
    if pipe.subject is not pipe.subjects[method.subject]:
        pipe.set_subject(method.subject)
    side = case.size // pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, case.views, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(case.seed))
    window = pipe.config.attention_window
    # Without FeatureNeRF there is nothing to render and nothing to be guided by.
    posed = method.subject == "pose-conditioned"
    by_text = method.guidance.get("guidance_scale", settings.guidance_scale)
    assert by_text is not None  # there is always some
    by_references = method.guidance.get("reference_guidance_scale", settings.reference_guidance_scale)
    anchor = AnchorSettings(**method.anchor) if method.anchor else None
    if method.one_dimensional:
        pipe.set_attention_window(1)
    try:
        anchors = pipe.anchor.with_frames(anchor).resolve(case.views)
        depth = KnownGeometry.of(case).depth[list(anchors)] if method.exact_depth else None
        with (
            motion_bypassed(pipe.unet) if method.single_views else nullcontext(),
            motion_weights(pipe.unet, one_dimensional_motion if method.one_dimensional else None),
            measured(device) as cost,
        ):
            frames = pipe(
                case.prompt,
                cameras=case.cameras(),
                num_inference_steps=settings.steps,
                guidance_scale=by_text,
                reference_guidance_scale=by_references if posed else None,
                latents=noise.to(device, pipe.unet.dtype),
                generator=torch.Generator(device).manual_seed(case.seed),
                hooks=[
                    replace(hook, **method.hook_settings.get(hook.name, {}))
                    for hook in pipe.hooks
                    if hook.name in method.hooks
                ],
                anchor=anchor,
                anchor_depth=depth,
                pose_guidance_end=1.0 if posed else 0.0,
                output_type="pt",
            ).frames
    except MVCustomError as error:
        return Generated(None, cost, str(error))
    finally:
        pipe.set_attention_window(window)
    assert isinstance(frames, Tensor)  # of output_type pt
    images = frames[0].detach().float().cpu()
    if not images.isfinite().all():
        return Generated(None, cost, "the views hold NaN or infinite values")
    return Generated(images.clamp(0, 1), cost)
