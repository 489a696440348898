"""Fuzzes the public entry points for as long as is asked for, and counts.

    python tests/fuzz/run.py --minutes 5
    python tests/fuzz/run.py --minutes 2 --only "subject folder" --seed 7

Every input is new: hypothesis draws it from the strategies that the tests draw a few from. A crash, which is anything
but an answer or one of the package's own errors, is printed with its input and counted, and the run goes on; the exit code is
1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
if __name__ == "__main__":  # not where the module is only imported: doctests are collected from it
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz.all_targets import ALL_TARGETS
from fuzz.targets import Target
from hypothesis import HealthCheck, Phase, given, seed, settings

_AT_ONCE = 50


def try_many(target: Target, inputs, number: int, counts: Counter, crashes: Counter) -> None:
    """A batch of inputs of one entry point, drawn from one seed."""

    @seed(number)
    @settings(
        max_examples=_AT_ONCE,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def try_one(value) -> None:
        counts["inputs"] += 1
        try:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "inner"
                folder.mkdir()
                outcome, _ = target.try_one(folder, value)
            counts[outcome] += 1
        except Exception as error:
            counts["crashes"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            ours = [
                frame for frame in traceback.extract_tb(error.__traceback__) if "diffusers_mvcustom" in frame.filename
            ]
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else f"{Path(place.filename).name}"
            key = f"{target.name}: {type(error).__name__} at {where}: {str(error)[:160]!r}"
            kind = (target.name, type(error).__name__, where)
            if not any(kind == known[1] for known in crashes):
                print(f"CRASH {key}\n      input {str(value)[:300]!r}", flush=True)
            crashes[(key, kind)] += 1

    try_one()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long, in minutes of this process's CPU time")
    parser.add_argument("--only", help="one entry point by name")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; later ones count on")
    options = parser.parse_args()
    targets = [target for target in ALL_TARGETS if options.only in (None, target.name)]
    if not targets:
        parser.error(f"--only: expected one of {', '.join(target.name for target in ALL_TARGETS)}")
    share = 60 * options.minutes / sum(target.weight for target in targets)
    total, crashes = Counter(), Counter()
    print(
        "| entry point | inputs | answered | refused clearly | crashes | CPU s |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for target in targets:
        inputs, counts, number = target.inputs(), Counter(), options.seed
        started = time.process_time()
        while time.process_time() - started < share * target.weight:
            try_many(target, inputs, number, counts, crashes)
            number += 1
        seconds = time.process_time() - started
        row = " | ".join(f"{counts[key]:,}" for key in ("inputs", "accepted", "refused", "crashes"))
        print(f"| {target.name} | {row} | {seconds:.0f} |", flush=True)
        total += counts
    row = " | ".join(f"{total[key]:,}" for key in ("inputs", "accepted", "refused", "crashes"))
    print(f"| all | {row} | |")
    sys.exit(1 if crashes else 0)


if __name__ == "__main__":
    main()
