"""What the browser is told, without one. Needs the extra `app`."""

import pytest

from diffusers_mvcustom.app import CameraPath
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.pipelines.inputs import check_prompts

gr = pytest.importorskip("gradio", reason="the extra `app` is not installed")
pytest.importorskip("plotly", reason="the extra `app` is not installed")


def test_the_page_is_of_this_machine_alone(workshop):
    from diffusers_mvcustom.app.interface import build_interface, theme

    page = build_interface(workshop)
    assert not page.analytics_enabled
    # Fonts are the system's own: the theme names no style sheet to fetch.
    assert theme()._stylesheets == []
    labels = [block.label for block in page.blocks.values() if getattr(block, "label", None)]
    assert {"Prompt", "Views", "Steps", "DFR", "CLC", "Compare", "Camera path"} <= set(labels)


def test_the_figure_has_target_and_reference_cameras(workshop):
    from diffusers_mvcustom.app.camera_figure import camera_figure

    cameras = CameraPath(views=3).cameras(workshop.references, 64, 64)
    figure = camera_figure(cameras, workshop.references)
    names = [trace.name for trace in figure.data]
    assert names[0] == "reference cameras"
    assert [name for name in names if name.startswith("view ")] == ["view 0", "view 1", "view 2"]
    path = next(trace for trace in figure.data if trace.name == "target cameras")
    assert [list(point) for point in zip(path.x, path.y, path.z)] == cameras.centers.tolist()
    frustum = next(trace for trace in figure.data if trace.name == "view 1")
    drawn = {point for point in zip(frustum.x, frustum.y, frustum.z) if point[0] is not None}
    assert len(drawn) == 5  # four corners and the centre
    assert tuple(cameras.centers[1].double().tolist()) in drawn
    assert len(camera_figure(cameras).data) == len(figure.data) - 1


def test_errors_are_one_line():
    from diffusers_mvcustom.app.interface import one_line

    assert one_line(ValueError("first\n  second")) == "first second"
    assert one_line(KeyError()) == "KeyError"
    with pytest.raises(MVCustomError) as caught:
        check_prompts("a mug", None, "<my-mug>")
    assert one_line(caught.value).endswith("Name the subject, or load the model without it.")
