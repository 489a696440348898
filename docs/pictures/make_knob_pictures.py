"""Makes the pictures of generating.md: what every knob does to the views of the shipped toy model and subject.

python docs/pictures/make_knob_pictures.py                               # all of them; generating.md then shows them
python docs/pictures/make_knob_pictures.py --only guidance seeds         # some
python docs/pictures/make_knob_pictures.py --views 2 --steps 2 -o out/try  # to try it out; the page stays as it is

All views of one sheet start from the same noise, but for the sheet of seeds. What two sheets share is generated once.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import torch

from diffusers_mvcustom import ConsistentAwareLatentCompletion, DepthAwareFeatureRendering, MVCustomPipeline
from diffusers_mvcustom.cli.generate import SCHEDULERS
from diffusers_mvcustom.toy.demo import GUIDANCE, PROMPTS, REFERENCE_GUIDANCE, demo_cameras
from diffusers_mvcustom.toy.labelled_sheets import LabelledViews, labelled_sheet
from diffusers_mvcustom.toy.shipped import shipped_folder

DOCS = Path(__file__).parents[1]
PAGE, FOLDER = DOCS / "generating.md", DOCS / "pictures" / "knobs"
DFR, CLC = DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion()


@dataclass(frozen=True)
class Row:
    """One set of views: its label and what differs from the default call."""

    label: str
    call: dict[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    window: int | str | None = "default"
    seed: int | None = None
    hooks: tuple | None = None
    anchor: Callable[[int], int] | None = None
    anchor_from_seed: int | None = None


KNOBS: dict[str, tuple[str, list[Row]]] = {
    "guidance": (
        "views at text guidance 2, 3, 5 and 8",
        [Row(f"guidance_scale={scale:g}", {"guidance_scale": scale}) for scale in (2.0, 3.0, 5.0, 8.0)],
    ),
    "reference_guidance": (
        "views without guidance by the references, and at 1.5, 2.5 and 3.5",
        [
            Row(f"reference_guidance_scale={scale}", {"reference_guidance_scale": scale})
            for scale in (None, 1.5, 2.5, 3.5)
        ],
    ),
    "pose_conditioning": (
        "views with pose conditioning in 100, 75, 50 and 25 % of the steps",
        [
            Row(f"{100 * (1 - start):g} % (pose_guidance_start={start:g})", {"pose_guidance_start": start})
            for start in (0.0, 0.25, 0.5, 0.75)
        ],
    ),
    "hooks": (
        "views with DFR and CLC, with DFR of features alone, with one of the hooks, with none",
        [
            Row("DFR and CLC", hooks=(DFR, CLC)),
            Row("each from noise of its own", hooks=(DepthAwareFeatureRendering(carry_noise=False), CLC)),
            Row("DFR alone", hooks=(DFR,)),
            Row("CLC alone", hooks=(CLC,)),
            Row("neither", hooks=()),
        ],
    ),
    "window": (
        "views with attention windows of 1, 3, 7 and the whole map",
        [
            Row("1: along time only", window=1),
            Row("3 × 3 positions", window=3),
            Row("7 × 7 positions", window=7),
            Row("the whole map", window=None),
        ],
    ),
    "anchor": (
        "views with the first, the middle and the last view as anchor",
        [
            Row("anchor: first view", anchor=lambda count: 0),
            Row("anchor: middle view (default)"),
            Row("anchor: last view", anchor=lambda count: count - 1),
        ],
    ),
    "anchor_image": (
        "views from noise alone, and around a given picture",
        [
            Row("from noise alone"),
            Row("the middle view is given: that of seed 1", anchor_from_seed=1),
        ],
    ),
    "views_at_a_time": (
        "views generated together, and three at a time",
        [Row("all together"), Row("views_at_a_time=3", {"views_at_a_time": 3})],
    ),
    "schedulers": (
        "views by several schedulers and numbers of steps",
        [
            Row("ddim, all steps"),
            Row("ddim, 10 steps", {"num_inference_steps": 10}),
            Row("euler, 10 steps", {"num_inference_steps": 10}, scheduler="euler"),
            Row("dpm++, 10 steps", {"num_inference_steps": 10}, scheduler="dpm++"),
            Row("lcm, 4 steps (these weights are not distilled for it)", {"num_inference_steps": 4}, scheduler="lcm"),
        ],
    ),
    "seeds": ("views from three seeds", [Row(f"seed {seed}", seed=seed) for seed in (0, 1, 2)]),
}


class Maker:
    """A loaded pipeline that generates rows, each setting once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pipe = MVCustomPipeline.from_pretrained(options.model, dtype=torch.float32)
        self.pipe.load_subject(options.subject)
        self.pipe.set_progress_bar_config(disable=True)
        self.cameras = demo_cameras(self.pipe, options.views)
        config = self.pipe.subject.config
        self.prompt = (options.prompt or PROMPTS[0]).format(token=config.token, noun=config.class_noun)
        self.scheduler, self.window = self.pipe.scheduler, self.pipe.config.attention_window
        self.made: dict[str, list[PIL.Image.Image]] = {}

    def row(self, row: Row) -> list[PIL.Image.Image]:
        """The views of one row."""
        options = self.options
        seed = options.seed if row.seed is None else row.seed
        window = self.window if row.window == "default" else row.window
        guidance = {"guidance_scale": GUIDANCE, "reference_guidance_scale": REFERENCE_GUIDANCE}
        call: dict[str, Any] = {"num_inference_steps": options.steps, **guidance, **row.call}
        call["num_inference_steps"] = min(call["num_inference_steps"], options.steps)
        call["hooks"] = list((DFR, CLC) if row.hooks is None else row.hooks)
        if call["hooks"] or row.anchor_from_seed is not None:  # else nobody would look at it
            call["anchor"] = options.views // 2 if row.anchor is None else row.anchor(options.views)
        key = repr((seed, window, row.scheduler, row.anchor_from_seed, sorted(call.items())))
        if key not in self.made:
            if row.anchor_from_seed is not None:
                call["anchor_image"] = self.row(Row("", seed=row.anchor_from_seed))[options.views // 2]
            self.pipe.set_attention_window(window)
            kind = type(self.scheduler) if row.scheduler is None else getattr(diffusers, SCHEDULERS[row.scheduler])
            self.pipe.scheduler = kind.from_config(self.scheduler.config)
            generator = torch.Generator().manual_seed(seed)
            self.made[key] = self.pipe(self.prompt, self.cameras, generator=generator, **call).frames[0]
        return self.made[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="by default the shipped one")
    parser.add_argument("--subject", default=None, help="by default the shipped one")
    parser.add_argument("--prompt", help="with {token} and {noun}; by default the demo's first")
    parser.add_argument("--views", type=int, default=6, help="on the demo's arc of 80°")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps; fewer where a row says so")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KNOBS, default=list(KNOBS), help="which sheets")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="any other folder leaves the page as it is")
    options = parser.parse_args()
    options.model = options.model or shipped_folder("toy")
    options.subject = options.subject or shipped_folder("toy-subject")
    maker = Maker(options)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        rows = [LabelledViews(row.label, maker.row(row)) for row in KNOBS[name][1]]
        labelled_sheet(rows).save(options.output / f"{name}.webp", quality=88, method=6)
        print(f"{name}.webp: {len(rows)} × {options.views} views → {options.output}")
    if options.output.resolve() == FOLDER.resolve():
        page = with_pictures(PAGE.read_text(encoding="utf-8"), options.only, how(maker))
        PAGE.write_text(page, encoding="utf-8")


def how(maker: Maker) -> str:
    """How the pictures were made, in a sentence."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=DOCS)
    commit = asked.stdout.strip() or "unknown"
    command = shlex.join(["python", "docs/pictures/make_knob_pictures.py", *sys.argv[1:]])
    return (
        f'Made by `{command}` at commit {commit}: the shipped toy model and subject, "{maker.prompt}", '
        f"{maker.options.views} views on an arc of 80°, {maker.options.steps} steps, text guidance {GUIDANCE:g} and "
        f"reference guidance {REFERENCE_GUIDANCE:g} where nothing else is said, seed {maker.options.seed}."
    )


def with_pictures(page: str, names: list[str], how_made: str) -> str:
    """The page with a picture below each of the markers `<!-- picture: NAME -->`, and how they were made."""
    below = {name: f"![{KNOBS[name][0]}](pictures/knobs/{name}.webp)" for name in names} | {"how": how_made}
    for name, line in below.items():
        marker = f"<!-- picture: {name} -->"
        if marker not in page:
            raise ValueError(f"{PAGE.name} has no {marker}")
        page = re.sub(rf"{re.escape(marker)}\n(?:\S.*\n)?", lambda _, text=f"{marker}\n{line}\n": text, page)
    return page


if __name__ == "__main__":
    main()
