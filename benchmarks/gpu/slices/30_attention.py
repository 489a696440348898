"""Windowed, full and per-pixel attention of the motion modules."""

from benchmarks.gpu.slice import Slice


def slices(options):
    sizes = ["--sizes", 8, "--frames", 3, "--channels", 16, "--heads", 2] if options.quick else []
    sizes += ["--device", options.device, "--repeats", 1 if options.quick else 10, "--backends", "tiles"]
    sizes += [] if options.quick else ["flex"]  # compiles for half a minute on a CPU
    dtypes = ["float32"] if options.quick else ["bfloat16", "float16", "float32"]
    return [
        Slice.of_script(
            f"attention-{dtype}",
            *("benchmarks/attention.py", *sizes, "--dtype", dtype, "-o", f"{{out}}/attention-{dtype}.md"),
            expected=120.0,
            important=dtype == "bfloat16",
        )
        for dtype in dtypes
    ]
