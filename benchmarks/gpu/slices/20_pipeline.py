"""A whole generation at the paper's size beside stock AnimateDiff, by attention window."""

from benchmarks.gpu.slice import Slice

WINDOWS = {
    "1": "1",
    "7-at-64": '{"64": 7, "32": null}',
    "7": "7",
    "full": "full",
}


def slices(options):
    if options.quick:
        size = ["--model", "tiny", "--views", 3, "--size", 64, "--steps", 3, "--references", 3]
    else:
        size = ["--model", "sd15", "--views", 16, "--size", 512, "--steps", 50, "--dtype", "bfloat16"]
    common = ["benchmarks/pipeline.py", *size, "--device", options.device]
    found = [
        Slice.of_script(
            f"pipeline-window-{name}",
            *common,
            *("--window", window, "--no-shares", "-o", f"{{out}}/pipeline-window-{name}.md"),
            expected=60.0 if options.quick else 100.0,
            important=name in ("7-at-64", "full"),
        )
        for name, window in WINDOWS.items()
    ]
    heads = 1 if options.quick else 4  # half of the motion modules'
    found.append(
        Slice.of_script(
            "pipeline-temporal-heads",
            *(*common, "--window", "full", "--temporal-heads", heads, "--no-shares"),
            *("--settings", "plain", "everything", "-o", "{out}/pipeline-temporal-heads.md"),
            expected=60.0 if options.quick else 100.0,
        )
    )
    window = WINDOWS["7-at-64"]
    least = [*common, "--window", window, "--no-shares", "--split-guidance", "--decode-chunk-size", 1]
    found.append(
        Slice.of_script(
            "pipeline-least-memory",
            *(*least, "--settings", "plain", "everything", "-o", "{out}/pipeline-least-memory.md"),
            expected=60.0 if options.quick else 100.0,
        )
    )
    found.append(
        Slice.of_script(
            "pipeline-compiled",
            *(*common, "--window", window, "--compile", "-o", "{out}/pipeline-compiled.md"),
            limit=400.0,  # how long the compiler takes there is not known
            expected=240.0,
        )
    )
    shares = [*common, "--window", window, "--settings", "everything"]
    if not options.quick:
        shares += ["--steps", 10]
    found.append(
        Slice.of_script(
            "pipeline-shares",
            *(*shares, "-o", "{out}/pipeline-shares.md"),
            expected=60.0 if options.quick else 120.0,
            environment={"CUDA_LAUNCH_BLOCKING": "1"},  # host time is then the GPU's
        )
    )
    return found
