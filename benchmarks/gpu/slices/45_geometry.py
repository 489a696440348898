"""Mesh, rasterisation and feature warp of depth-aware feature rendering alone."""

from benchmarks.gpu.slice import Slice


def slices(options):
    common = ["benchmarks/geometry.py", "--device", options.device]
    common += (
        ["--size", 8, "--views", 2, "--channels", 8]
        if options.quick
        else ["--size", 16, 32, 64, "--dtype", "bfloat16"]
    )
    return [Slice.of_script("geometry", *common, "-o", "{out}/geometry.md", expected=30.0)]
