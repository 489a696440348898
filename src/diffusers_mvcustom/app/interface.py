"""What the browser shows: gradio components around a [`Workshop`]."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import torch

from ..toy.demo import GUIDANCE, REFERENCE_GUIDANCE
from .camera_figure import camera_figure
from .camera_paths import PRESETS, CameraPath
from .results import Results
from .workshop import Cancelled, Order, Workshop

_PATH_SLIDERS: dict[str, tuple[str, float, float, float]] = {
    "azimuth": ("Azimuth (°)", -180, 180, 5),
    "span": ("Span (°)", 10, 720, 10),
    "elevation": ("Elevation (°)", -10, 80, 5),
    "rise": ("Rise (°)", -60, 60, 5),
    "distance": ("Distance (1: as the photos)", 0.5, 2.0, 0.05),
    "change": ("Change (first / last)", 0.5, 2.5, 0.05),
    "shift": ("Sideways move", -1.0, 1.0, 0.05),
}
"""Label, least, most and step of a slider for each number of a [`CameraPath`]."""

_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
"""What files, arguments and the device's memory bring about: said in one line. Anything else is a defect, and raised."""

_NOTHING_YET = "nothing is generated yet"
STYLE = "#moving-0 img, #moving-1 img { width: 100%; height: 100%; object-fit: contain; }"
"""Small views are shown as large as there is room."""


def theme() -> gr.themes.Base:
    """Fonts of the user's own system: nothing is fetched."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def one_line(error: BaseException) -> str:
    """An error as one line, with what the page has in place of calls in Python."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line.replace("take it out with unload_subject()", "load the model without it")


def _text(text: str, *, bold: str = "") -> str:
    """Text for the page; tokens such as <my-mug> are no tags."""
    return f"<b>{escape(bold)}</b>{escape(text)}"


def build_interface(workshop: Workshop) -> gr.Blocks:
    """The page around a workshop in which a model is loaded."""
    defaults = Order(prompt=workshop.example_prompt, guidance_scale=GUIDANCE)
    with gr.Blocks(title="diffusers-mvcustom", analytics_enabled=False, fill_width=True) as page:
        with gr.Row():
            model = gr.Textbox(workshop.model, label="Model (folder or Hub id)", elem_id="model")
            subject = gr.Textbox(workshop.subject or "", label="Subject (folder or Hub id; may be empty)")
            load = gr.Button("Load", scale=0)
        status = gr.HTML(_text(workshop.description), elem_id="status")
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                prompt = gr.Textbox(defaults.prompt, label="Prompt", lines=2, elem_id="prompt")
                negative = gr.Textbox("", label="Negative prompt")
                with gr.Row():
                    preset = gr.Dropdown(list(PRESETS), value=defaults.path.preset, label="Camera path")
                    views = gr.Slider(1, 32, defaults.path.views, step=1, label="Views", elem_id="views")
                sliders = {
                    name: gr.Slider(
                        least,
                        most,
                        getattr(defaults.path, name),
                        step=step,
                        label=label,
                        visible=name in PRESETS[defaults.path.preset],
                    )
                    for name, (label, least, most, step) in _PATH_SLIDERS.items()
                }
                with gr.Row():
                    steps = gr.Slider(1, 100, defaults.steps, step=1, label="Steps", elem_id="steps")
                    guidance = gr.Slider(1, 12, defaults.guidance_scale, step=0.5, label="Guidance")
                    reference = gr.Slider(0, 12, REFERENCE_GUIDANCE, step=0.5, label="Guidance by the photos (0: off)")
                with gr.Row():
                    dfr = gr.Checkbox(workshop.has_hooks, label="DFR", info="depth-aware feature rendering")
                    clc = gr.Checkbox(workshop.has_hooks, label="CLC", info="consistent-aware latent completion")
                    compare = gr.Checkbox(False, label="Compare", info="same noise without them", elem_id="compare")
                with gr.Accordion("More", open=False):
                    with gr.Row():
                        seed = gr.Number(defaults.seed, label="Seed", precision=0, minimum=0, maximum=2**53)
                        height = gr.Number(None, label="Height (empty: the model's)", precision=0)
                        width = gr.Number(None, label="Width (empty: the model's)", precision=0)
                    frame = gr.Radio(
                        [("subject frame", "subject"), ("world of the photos", "user")],
                        value="subject",
                        label="Cameras and points in the archive",
                    )
                with gr.Row():
                    preview = gr.Button("Quick preview", elem_id="preview")
                    generate = gr.Button("Generate", variant="primary", elem_id="generate")
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
            with gr.Column(scale=2, min_width=480):
                figure = gr.Plot(_figure(workshop, defaults), label="Cameras (drag to turn)", elem_id="cameras")
                summary = gr.HTML(_text(_NOTHING_YET), elem_id="summary")
                with gr.Row():
                    shown = [_set_of_views(number) for number in range(2)]
                archive = gr.DownloadButton("Download everything (.zip)", interactive=False, elem_id="download")

        path = [preset, views, *sliders.values()]
        settings = [prompt, negative, *path, steps, guidance, reference, dfr, clc, compare, seed, height, width, frame]
        results = [summary, *(part for parts in shown for part in parts), archive]

        def order_of(values: dict[Any, Any]) -> Order:
            numbers = {name: values[slider] for name, slider in sliders.items()}
            return Order(
                prompt=values[prompt],
                negative_prompt=values[negative],
                path=CameraPath(preset=values[preset], views=int(values[views]), **numbers),
                height=values[height],
                width=values[width],
                steps=int(values[steps]),
                guidance_scale=values[guidance],
                reference_guidance_scale=values[reference] or None,
                seed=int(values[seed] or 0),
                dfr=values[dfr],
                clc=values[clc],
                compare=values[compare],
                frame=values[frame],
            )

        def draw(values: dict[Any, Any]) -> dict[Any, Any]:
            try:
                drawn = {figure: _figure(workshop, order_of(values))}
            except _ERRORS as error:
                gr.Warning(one_line(error), duration=6)
                drawn = {}
            used = PRESETS[values[preset]]
            return {**drawn, **{slider: gr.update(visible=name in used) for name, slider in sliders.items()}}

        def open_model(values: dict[Any, Any]) -> dict[Any, Any]:
            try:
                workshop.load(values[model], values[subject])
            except _ERRORS as error:
                gr.Warning(one_line(error), duration=10)
                return {status: _text(one_line(error), bold="not loaded: ")}
            hooks = workshop.has_hooks
            return {
                status: _text(workshop.description),
                prompt: workshop.example_prompt,
                dfr: gr.update(value=hooks, interactive=hooks),
                clc: gr.update(value=hooks, interactive=hooks),
                compare: gr.update(value=False, interactive=hooks),
                figure: _figure(workshop, order_of({**values, preset: "arc"})),
                preset: "arc",
            }

        def make(order: Order, progress: gr.Progress, run: str | None) -> dict[Any, Any]:
            try:
                made = workshop.generate(order, lambda share, text: progress(share, desc=text), run or "")
            except Cancelled:
                return {summary: _text("cancelled")}
            except (*_ERRORS, torch.OutOfMemoryError) as error:
                gr.Warning(one_line(error), duration=10)
                return {summary: _text(one_line(error), bold="not generated: ")}
            return dict(zip(results, _shown(made)))

        def generate_all(
            values: dict[Any, Any],
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008  (gradio's form)
        ) -> dict[Any, Any]:
            return make(order_of(values), progress, request.session_hash)

        def generate_preview(
            values: dict[Any, Any],
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
        ) -> dict[Any, Any]:
            return make(order_of(values).preview(), progress, request.session_hash)

        def stop(request: gr.Request) -> None:
            gr.Info(
                "stopping after this step" if workshop.cancel(request.session_hash or "") else _NOTHING_YET, duration=3
            )

        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "pipeline", "api_visibility": "private"}
        quick = {"show_progress": "hidden", "api_visibility": "private"}
        on_summary = {"show_progress_on": [summary], **one_at_a_time}
        everything = {model, subject, *settings}
        gr.on(
            [component.change for component in (preset, views, height, width)]
            + [slider.release for slider in sliders.values()],
            draw,
            everything,
            [figure, *sliders.values()],
            **quick,
            trigger_mode="always_last",
        )
        load.click(open_model, everything, [status, prompt, dfr, clc, compare, figure, preset], **one_at_a_time)
        generate.click(generate_all, everything, results, **on_summary)
        preview.click(generate_preview, everything, results, **on_summary)
        cancel.click(stop, None, None, queue=False, **quick)
    return page


def _set_of_views(number: int) -> tuple[gr.Column, gr.Markdown, gr.Image, gr.Gallery]:
    with gr.Column(visible=number == 0, min_width=240) as column:
        label = gr.HTML("", elem_id=f"label-{number}")
        moving = gr.Image(
            label="Moving",
            interactive=False,
            type="filepath",
            height=300,
            buttons=["download", "fullscreen"],
            elem_id=f"moving-{number}",
        )
        gallery = gr.Gallery(
            label="Views",
            columns=8,
            height=270,
            format="png",
            buttons=["download", "fullscreen"],
            elem_id=f"gallery-{number}",
        )
    return column, label, moving, gallery


def _shown(made: Results) -> list[Any]:
    """Values of the components of the results, in their order."""
    values: list[Any] = [_text(made.summary)]
    for number in range(2):
        if number < len(made.sets):
            one = made.sets[number]
            values += [gr.update(visible=True), _text("", bold=one.label), str(one.animation)]
            values.append(gr.update(value=one.views, columns=8 if len(made.sets) == 1 else 4))
        else:
            values += [gr.update(visible=False), "", None, None]
    return [*values, gr.update(value=str(made.archive), interactive=True)]


def _figure(workshop: Workshop, order: Order) -> Any:
    return camera_figure(workshop.cameras(order), workshop.references)
