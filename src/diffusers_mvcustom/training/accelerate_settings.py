"""What trainers ask of accelerate."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DistributedType

from ..errors import MVCustomError


def check_distribution(accelerator: Accelerator) -> None:
    """Raises under engines that shard weights or optimiser states, of which a process could only save its part.

    Raises:
        MVCustomError: naming the engine.
    """
    kind = accelerator.distributed_type
    sharding = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if kind in sharding:
        raise MVCustomError(
            f"accelerate: expected one process or data parallelism, got {kind.value}. What is trained is small and the "
            "rest is frozen: start with `accelerate launch --multi_gpu` or choose MULTI_GPU in `accelerate config`."
        )


def trackers_of(name: str) -> str | None:
    """What accelerate is to log with, for the setting `report_to`.

    Raises:
        MVCustomError: if the tracker is unknown or not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name == "none":
        return None
    if name == "all":
        return name
    if name not in LOGGER_TYPE_TO_CLASS:
        raise MVCustomError(f"report_to: expected none, all or one of {sorted(LOGGER_TYPE_TO_CLASS)}, got {name!r}.")
    if name not in [str(tracker.value) for tracker in get_available_trackers()]:
        raise MVCustomError(f"report_to: {name} is not installed: pip install {name}, or --report_to none.")
    return name
