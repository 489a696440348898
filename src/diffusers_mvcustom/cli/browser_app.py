"""`mvcustom app`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import checked_device

if TYPE_CHECKING:
    from ..app.workshop import Workshop


def app_command(
    model: Annotated[
        str | None, typer.Option(help="Model folder or Hub id; by default the small one that ships with the package.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="Subject folder or Hub id; by default the shipped one, with the shipped model.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than 127.0.0.1 let other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Ask gradio's servers for a public link.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    device: Annotated[
        str | None, typer.Option(help="By default cuda where there is one.", callback=checked_device)
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
) -> None:
    """Generate in a browser: prompt, camera paths in 3-D, quick previews, comparison with and without DFR and CLC.

    Needs the extra `app`. Listens on this machine only, and calls no other one.

    Example: `mvcustom app` or `mvcustom app --model you/base --subject out/my-mug/subject --port 8000`
    """
    if dtype not in ("float32", "float16", "bfloat16"):
        raise typer.BadParameter(f"--dtype: expected float32, float16 or bfloat16, got {dtype!r}")
    missing = [name for name in ("gradio", "plotly") if find_spec(name) is None]
    if missing:
        raise typer.BadParameter(
            f"{' and '.join(missing)} not installed, which the app needs: pip install 'diffusers-mvcustom[app]'"
        )
    from ..app.ports import check_port

    if port:
        check_port(host, port)
    import torch

    from ..app import Workshop
    from ..toy.shipped import shipped_folder

    if model is None:
        model, subject = _shown(shipped_folder("toy")), subject or _shown(shipped_folder("toy-subject"))
    workshop = Workshop(device, getattr(torch, dtype))
    try:
        workshop.load(model, subject)
        typer.echo(workshop.description)
        _serve(workshop, host, port, share, open_browser)
    finally:
        workshop.close()


def _shown(folder: Path) -> str:
    """A folder as the page shows it: short where it can be."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _serve(workshop: Workshop, host: str, port: int, share: bool, open_browser: bool) -> None:
    """Serves the page until Ctrl-C."""
    import os

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where gradio is imported
    from ..app.interface import STYLE, build_interface, theme
    from ..app.ports import free_port

    page = build_interface(workshop)
    _, address, public = page.queue().launch(
        server_name=host,
        server_port=port or free_port(host),
        share=share,
        inbrowser=open_browser,
        theme=theme(),
        css=STYLE,
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    typer.echo(f"{address}{f' and {public}' if public else ''} (Ctrl-C ends it)")
    try:
        page.block_thread()
    finally:
        page.close()
