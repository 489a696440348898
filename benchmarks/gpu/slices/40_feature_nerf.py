"""FeatureNeRF at the shapes of Stable Diffusion 1.5, alone and with gradients."""

from benchmarks.gpu.slice import Slice


def slices(options):
    common = ["benchmarks/feature_nerf.py", "--device", options.device]
    common += ["--cases", "8x4", "--targets", 2, "--references", 2] if options.quick else ["--dtype", "bfloat16"]
    return [
        Slice.of_script(
            f"feature-nerf-{name}",
            *(*common, *extra, "--markdown", f"{{out}}/feature-nerf-{name}.md"),
            expected=60.0,
        )
        for name, extra in (("forward", []), ("backward", ["--backward"]))
    ]
