"""The tests that need a CUDA device."""

from benchmarks.gpu.slice import Slice


def slices(options):
    device = {"MVCUSTOM_TEST_DEVICE": options.device}
    pytest = ("{python}", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--durations=10")
    return [
        Slice(
            f"tests-{part}",
            (*pytest, f"--junitxml={{out}}/tests-{part}.xml", f"tests/gpu/test_cuda_{part}.py"),
            expected=60.0,
            important=True,
            environment=device,
        )
        for part in ("kernels", "pipeline", "memory")
    ]
