"""What the method's description leaves open, as methods to compare: one setting changed at a time."""

from __future__ import annotations

from typing import Any

from .methods import CLC, DFR, METHODS, Method


def _full(name: str, title: str, *, dfr: dict[str, Any] | None = None, **changes: Any) -> Method:
    if dfr is not None:
        changes["hook_settings"] = {DFR: dfr}
    return Method(name, title, hooks=(DFR, CLC), **changes)


_UP = r"up_blocks\.{}\.motion_modules\.\d+"

CHOICES: tuple[Method, ...] = (
    METHODS[0],
    METHODS[1],
    METHODS[2],
    _full("own_noise", "views start from noise of their own", dfr={"carry_noise": False}),
    _full("noise_only", "DFR of the initial noise alone", dfr={"end": 0.0}),
    _full("dfr_not_last", "DFR in all up blocks but the last", dfr={"layers": _UP.format("[01]")}),
    _full("dfr_coarsest", "DFR in up block 0", dfr={"layers": _UP.format("0")}),
    _full("dfr_middle", "DFR in up block 1", dfr={"layers": _UP.format("1")}),
    _full("dfr_finest", "DFR in up block 2", dfr={"layers": _UP.format("2")}),
    _full("dfr_down_too", "DFR in all motion modules", dfr={"layers": r".*"}),
    _full("dfr_short", "DFR to 30 % of the steps", dfr={"end": 0.3}),
    _full("dfr_half", "DFR to 50 % of the steps", dfr={"end": 0.5}),
    _full("dfr_always", "DFR in all steps", dfr={"end": 1.0}),
    _full("clc_short", "CLC to 10 % of the steps", hook_settings={CLC: {"end": 0.1}}),
    _full("clc_long", "CLC to 40 % of the steps", hook_settings={CLC: {"end": 0.4}}),
    _full("preview_short", "preview of 12 % of the steps", anchor={"preview": 0.12}),
    _full("preview_long", "preview of 40 % of the steps", anchor={"preview": 0.4}),
    _full("text_guidance_3", "text guidance 3", guidance={"guidance_scale": 3.0}),
    _full("text_guidance_5", "text guidance 5", guidance={"guidance_scale": 5.0}),
    _full("reference_guidance_none", "no reference guidance", guidance={"reference_guidance_scale": None}),
    _full("reference_guidance_2_5", "reference guidance 2.5", guidance={"reference_guidance_scale": 2.5}),
    _full("reference_guidance_3_5", "reference guidance 3.5", guidance={"reference_guidance_scale": 3.5}),
    _full("subject_rendered", "the subject is rendered too", anchor={"render_subject": True}),
    _full("depth_by_subject", "depth fitted to the subject alone", anchor={"ground": False}),
    _full("depth_as_estimated", "depth not aligned to the subject", anchor={"align": False}),
)
"""The first is the pipeline with its defaults, of which every other one changes one setting."""
