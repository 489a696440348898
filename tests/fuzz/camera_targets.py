"""Cameras as tensors, and camera files of every format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from diffusers_mvcustom.cameras import (
    CONVENTIONS,
    Cameras,
    SubjectFrame,
    cameras_from_convention,
    cameras_to_pytorch3d,
    check_cameras_face_subject,
    load_capture,
    normalize_cameras,
    save_cameras,
)

from .mutations import as_json, odd_numbers, odd_texts, odd_values, spoiled, spoiled_bytes, spoiled_text
from .targets import Target

# --- tensors ---

_SHAPES = [(3, 4, 4), (1, 4, 4), (4, 4), (0, 4, 4), (3, 3, 4), (3, 3), (3, 3, 3), (2, 3, 3), (), (3,)]
_DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
_FLOATS = [0.0, 1.0, -1.0, 1e-30, 1e20, 1e30, float("nan"), float("inf"), -float("inf")]


@st.composite
def tensors(draw: Callable) -> Any:
    """Poses or intrinsics: good ones spoiled, of any shape and dtype, or no tensors at all."""
    cameras = Cameras.orbit(3, height=48, width=64)
    kind = draw(st.sampled_from(["poses", "poses", "intrinsics", "intrinsics", "any", "other"]))
    if kind == "other":
        return draw(
            odd_values
            | st.sampled_from([np.array([object()]), np.eye(4)[None, ::-1], torch.eye(4)[None].to_sparse()])
            | st.sampled_from([torch.empty(3, 4, 4, device="meta"), [[10**400]], np.zeros((1, 4, 4), dtype="U3")])
        )
    if kind == "any":
        return torch.full(draw(st.sampled_from(_SHAPES)), draw(st.sampled_from(_FLOATS))).to(
            draw(st.sampled_from(_DTYPES))
        )
    value = (cameras.camera_to_world if kind == "poses" else cameras.intrinsics).clone()
    if draw(st.booleans()):
        value = value.double() * draw(st.sampled_from([1.0, 2.0, 1e-20, 1e200]))
    for _ in range(draw(st.integers(0, 3))):
        value.view(-1)[draw(st.integers(0, value.numel() - 1))] = draw(st.sampled_from(_FLOATS))
    return value.to(draw(st.sampled_from(_DTYPES))) if draw(st.integers(0, 4)) == 0 else value


_sizes = st.sampled_from([48, 64]) | odd_numbers | odd_values


def _use(cameras: Cameras, size: tuple[Any, Any]) -> None:
    """What a pipeline does with cameras."""
    assert torch.isfinite(cameras.world_to_camera).all()
    turned = cameras.camera_to_world[:, :3, :3].double()
    assert ((turned @ turned.transpose(1, 2)) - torch.eye(3).double()).abs().max() < 1e-2
    cameras.cover(*size)
    cameras.resize(*size)
    cameras.crop(0, 0, *size)
    check_cameras_face_subject(cameras)
    normalize_cameras(cameras)


@st.composite
def camera_calls(draw: Callable) -> Callable[[], Any]:
    """A call of a public function on cameras, with odd arguments."""
    kind = draw(st.sampled_from(["Cameras", "from_focal", "convention", "orbit", "spiral", "frame"]))
    size = (draw(_sizes), draw(_sizes))
    if kind == "Cameras":
        poses, intrinsics = draw(tensors()), draw(tensors())
        return lambda: _use(Cameras(poses, intrinsics, *size), size)
    if kind == "from_focal":
        poses = draw(tensors())
        focal = draw(odd_numbers | st.just(50.0) | odd_values | st.tuples(odd_numbers, odd_numbers))
        return lambda: _use(Cameras.from_focal(poses, focal, *size), size)
    if kind == "convention":
        poses, intrinsics = draw(tensors()), draw(tensors())
        name = draw(st.sampled_from(sorted(CONVENTIONS)) | odd_texts)
        return lambda: _use(cameras_from_convention(poses, intrinsics, *size, convention=name), size)
    if kind == "frame":
        values = draw(spoiled(SubjectFrame.identity().to_dict()))
        return lambda: SubjectFrame.from_dict(values).to_user(Cameras.orbit(2))
    number = st.sampled_from([1.0, 20.0]) | odd_numbers
    options = draw(
        st.fixed_dictionaries(
            {}, optional={name: number for name in ("elevation", "radius", "field_of_view", "height", "width")}
        )
    )
    count = draw(st.integers(-1, 5) | odd_values.filter(lambda value: not isinstance(value, int) or value < 10**4))
    return lambda: getattr(Cameras, kind)(count, **options)


# --- files ---


def _valid(format: str, name: str) -> dict[str, bytes]:
    """Good files of a format, by name."""
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / name
        points = (torch.zeros(2, 3), torch.zeros(2, 3)) if format.startswith("colmap") else None
        save_cameras(target, Cameras.orbit(3, height=48, width=64), format, points=points)
        files = [target] if target.is_file() else sorted(target.iterdir())
        return {file.name: file.read_bytes() for file in files}


def _transforms() -> st.SearchStrategy:
    (content,) = _valid("transforms_json", "transforms.json").values()
    frames = json.loads(content)
    frames["applied_transform"] = np.eye(4)[:3].tolist()
    for i, frame in enumerate(frames["frames"]):
        frame["mask_path"] = f"masks/{i}.png"
    angles = {key: value for key, value in frames.items() if key not in ("fl_x", "fl_y")} | {"camera_angle_x": 0.8}
    return spoiled(frames).map(as_json) | spoiled(angles).map(as_json) | spoiled_bytes(content)


def _camera_path() -> st.SearchStrategy:
    poses = Cameras.orbit(3).camera_to_world * torch.tensor([1.0, -1.0, -1.0, 1.0])
    path = [{"camera_to_world": pose.flatten().tolist(), "fov": 50.0, "aspect": 1.0} for pose in poses]
    content = {"camera_type": "perspective", "render_height": 48, "render_width": 64, "camera_path": path}
    return spoiled(content).map(as_json) | spoiled_bytes(as_json(content))


def _colmap(text: bool) -> st.SearchStrategy:
    files = _valid("colmap_text" if text else "colmap", "model")
    change = (lambda content: spoiled_text(content.decode())) if text else spoiled_bytes

    def spoil(name: str) -> st.SearchStrategy:
        return change(files[name]).map(lambda content: {**files, name: content})

    one = st.sampled_from(sorted(files)).flatmap(spoil)
    return one if text else one | _colmap_names(files)


def _colmap_names(files: dict[str, bytes]) -> st.SearchStrategy:
    """Names of photos that are odd, in a model that is good otherwise."""
    encoded = odd_texts.map(lambda name: name.encode("utf-8", "surrogatepass")) | st.binary(max_size=20)
    return encoded.map(lambda name: {**files, "images.bin": files["images.bin"].replace(b"0001.png", name)})


def _co3d() -> st.SearchStrategy:
    rotation, translation, focal, principal = (
        value.tolist() for value in cameras_to_pytorch3d(Cameras.orbit(3, height=30, width=40))
    )
    frames = [
        {
            "sequence_name": "1",
            "image": {"path": f"cup/1/images/{i}.jpg", "size": [30, 40]},
            "mask": {"path": f"cup/1/masks/{i}.png"},
            "viewpoint": {
                "R": rotation[i],
                "T": translation[i],
                "focal_length": focal[i],
                "principal_point": principal[i],
                "intrinsics_format": "ndc_isotropic",
            },
        }
        for i in range(3)
    ]
    packed = gzip.compress(json.dumps(frames).encode())
    return spoiled(frames).map(lambda value: gzip.compress(as_json(value), 1)) | spoiled_bytes(packed)


def _keyframes() -> list[dict[str, Any]]:
    cameras, frames = Cameras.orbit(3, height=48, width=64), []
    for pose, lens in zip(cameras.camera_to_world * torch.tensor([1.0, -1.0, -1.0, 1.0]), cameras.intrinsics):
        frame = {f"t_{i}{j}": pose[i, j].item() for i in range(3) for j in range(4)}
        frame |= {name: lens[i, j].item() for name, i, j in (("fx", 0, 0), ("fy", 1, 1), ("cx", 0, 2), ("cy", 1, 2))}
        frames.append({**frame, "width": 64, "height": 48})
    return frames


def _polycam() -> st.SearchStrategy:
    first = _keyframes()[0]
    return spoiled(first).map(as_json) | spoiled_bytes(json.dumps(first).encode())


def _real_estate() -> st.SearchStrategy:
    (content,) = _valid("real_estate10k", "clip.txt").values()
    return spoiled_text(content.decode())


def _write_as(*names: str) -> Callable[[Path, Any], None]:
    """Writes one file (its bytes) or several (by name) into folders that are made for them."""

    def write(folder: Path, value: Any) -> None:
        for name, content in (value if isinstance(value, dict) else {names[-1]: value}).items():
            target = folder.joinpath(*names[:-1], name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    return write


def _write_polycam(folder: Path, value: bytes) -> None:
    for i, good in enumerate(_keyframes()):
        _write_as("cameras", f"{i}.json")(folder, json.dumps(good).encode() if i else value)
        _write_as("images", f"{i}.jpg")(folder, b"")


def _load(*name: str, **options) -> Callable[[Path, Any], None]:
    return lambda folder, value: _load_and_use(folder, folder.joinpath(*name), **options)


def _load_and_use(folder: Path, file: Path, **options) -> None:
    capture = load_capture(file, **options)
    for path in (*capture.image_paths, *capture.mask_paths):
        assert path is None or (path.is_relative_to(folder) and ".." not in path.parts), path
        if path is not None:
            path.is_file()  # a path that the system refuses would be an error of its own
    _use(capture.cameras, (48, 64))


def _colmap_target(name: str, text: bool) -> Target:
    return Target(name, lambda: _colmap(text), _write_as("model", "cameras"), _load("model"))


CAMERA_TARGETS = (
    Target("cameras", camera_calls, lambda folder, call: None, lambda folder, call: call()),
    Target("transforms.json", _transforms, _write_as("transforms.json"), _load()),
    Target("camera_path.json", _camera_path, _write_as("camera_path.json"), _load("camera_path.json")),
    _colmap_target("COLMAP .bin", text=False),
    _colmap_target("COLMAP .txt", text=True),
    Target(
        "CO3Dv2",
        _co3d,
        _write_as("cup", "frame_annotations.jgz"),
        _load("cup", "frame_annotations.jgz"),
    ),
    Target("Polycam", _polycam, _write_polycam, _load()),
    Target("RealEstate10K", _real_estate, _write_as("clip.txt"), _load("clip.txt", height=4, width=6)),
)
