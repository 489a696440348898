"""Where the processes of `accelerate launch` meet."""

from __future__ import annotations

import torch


def meet_on_cpu() -> bool:
    """Whether processes started together are to work on the CPU: asked for, or there is nothing else.

    Asked for by `accelerate launch --cpu` or `ACCELERATE_USE_CPU`. Unless accelerate is told, processes on a machine
    without a GPU do not find each other: each takes itself for the only one, and they do the same work twice.
    """
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
