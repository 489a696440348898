"""`mvcustom generate --prompts FILE`: many prompts over the processes that `accelerate launch` starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MVCustomError
from .failures import in_options

if TYPE_CHECKING:
    from accelerate import PartialState

    from .prompt_file import PromptRequest
    from .view_maker import ViewMaker

_PATIENCE = timedelta(days=14)
"""How long a process that is done waits for the others; the default of 10 minutes is less than a share may take."""


@dataclass
class Tally:
    """What became of the prompts of one process, or of all."""

    generated: list[str] = field(default_factory=list)
    there_already: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # the error by output name

    @classmethod
    def of_all(cls, tallies: Sequence[Tally]) -> Tally:
        """One tally of several processes."""
        total = cls()
        for tally in tallies:
            total.generated += tally.generated
            total.there_already += tally.there_already
            total.failed |= tally.failed
        return total


def start_processes(device: str | None) -> PartialState:
    """This process among those of `accelerate launch`, or alone without it.

    Raises:
        MVCustomError: for one named device and several processes.
    """
    from accelerate import PartialState

    from ..launched_processes import meet_on_cpu

    state = PartialState(cpu=device == "cpu" or (device is None and meet_on_cpu()), timeout=_PATIENCE)
    if state.num_processes > 1 and device not in (None, "cpu", state.device.type):
        raise MVCustomError(
            f"--device: expected none, or 'cpu', with several processes (each has its own, here {state.device}), got "
            f"{device!r}."
        )
    return state


def generate_prompts(
    maker: ViewMaker,
    requests: Sequence[PromptRequest],
    output: Path,
    state: PartialState,
    *,
    subject: str | None,
    seed: int,
    overwrite: bool,
) -> Tally:
    """Generates this process's share of the prompts, each in a folder of its own, and returns what became of all.

    A prompt is one call from a generator of its own seed, so its views do not depend on the number of processes.
    What `output` holds already, made from the same prompt by the same settings, is left as it is. A prompt that is
    refused does not stop the others.

    Args:
        maker ([`ViewMaker`]): Pipeline and settings.
        requests (sequence of [`PromptRequest`]): All prompts.
        output (`Path`): Folder of the folders.
        state (`accelerate.PartialState`): From [`start_processes`].
        subject (`str`, *optional*), seed (`int`): Of requests that name none.
        overwrite (`bool`): Whether to generate again what is there.
    """
    from accelerate.utils import broadcast_object_list, gather_object
    from tqdm.auto import tqdm

    pending, tally = list(requests), Tally()
    if state.is_main_process and not overwrite:
        pending = []
        for request in requests:
            finished = (output / request.output).is_dir() and _is_finished(maker, request, output, subject, seed)
            if finished:
                tally.there_already.append(request.output)
            else:
                pending.append(request)
    # The main process says what is to be done: the others might look when some of it is done already.
    (pending,) = broadcast_object_list([pending])
    with state.split_between_processes(pending) as share:
        bar = tqdm(share, desc="prompts", disable=not state.is_main_process)
        for request in bar:
            bar.set_postfix_str(request.output)
            try:
                _use_subject(maker, request.subject or subject)
                maker.make([request.prompt], _seed(request, seed), output / request.output)
                tally.generated.append(request.output)
            except MVCustomError as error:
                tally.failed[request.output] = str(error)
    return Tally.of_all(gather_object([tally]))


def summary(tally: Tally, started: float, state: PartialState, output: Path) -> str:
    """The lines for the end of the command."""
    lines = [f"{name}: {in_options(' '.join(error.split()))}" for name, error in sorted(tally.failed.items())]
    count = len(tally.generated) + len(tally.there_already) + len(tally.failed)
    processes = "1 process" if state.num_processes == 1 else f"{state.num_processes} processes"
    lines.append(
        f"{count} prompts: {len(tally.generated)} generated, {len(tally.there_already)} there already, "
        f"{len(tally.failed)} failed, in {time.perf_counter() - started:.1f} s by {processes} → {output}"
    )
    return "\n".join(lines)


def _is_finished(maker: ViewMaker, request: PromptRequest, output: Path, subject: str | None, seed: int) -> bool:
    try:
        _use_subject(maker, request.subject or subject)
    except MVCustomError:
        return False  # its own turn says what is wrong
    return maker.is_finished(output / request.output, request.prompt, _seed(request, seed))


def _use_subject(maker: ViewMaker, subject: str | None) -> None:
    try:
        maker.use_subject(subject)
    except OSError as error:  # no such folder or Hub id; a full disk later on is another matter
        raise MVCustomError(f"subject: {subject!r} cannot be loaded: {error}") from error


def _seed(request: PromptRequest, seed: int) -> int:
    return seed if request.seed is None else request.seed
