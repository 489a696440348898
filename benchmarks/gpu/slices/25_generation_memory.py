"""Peak memory of a generation at the shapes of Stable Diffusion 1.5, by setting, measured phase by phase."""

from benchmarks.gpu.slice import Slice


def slices(options):
    device = ["--device", options.device] if options.device == "cuda" else []
    size = ["--model", "tiny", "--quick"] if options.quick else []
    return [
        Slice.of_script(
            "generation-memory",
            *("benchmarks/generation_memory.py", *device, *size, "-o", "{out}/generation-memory"),
            expected=60.0 if options.quick else 240.0,
            resumable=True,
            important=True,
        )
    ]
