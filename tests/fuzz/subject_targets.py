"""Subject folders, prepared folders and pictures."""

from __future__ import annotations

import functools
import io
import json
import random
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from synthetic_capture import write_capture

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.data import load_subject_dataset
from diffusers_mvcustom.data.output_folder import check_output
from diffusers_mvcustom.data.photos import open_photo, read_photos
from diffusers_mvcustom.models.feature_nerf_config import FeatureNeRFConfig
from diffusers_mvcustom.subjects import ReferenceViews, SubjectAdapter, SubjectConfig
from diffusers_mvcustom.subjects.reference_files import read_image

from .mutations import PICKLE, as_json, odd_numbers, spoiled, spoiled_bytes
from .targets import Target

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
_LORA = f"unet.{BLOCK}.attn2.to_k.lora_A.weight"


def tiny_subject() -> SubjectAdapter:
    """A subject of 8 channels and 3 references of 16 × 16, with embedding and LoRA, the same each time."""
    config = SubjectConfig("<it>", "mug", "mug", {BLOCK: 8}, FeatureNeRFConfig(), base_model="you/base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        photos = torch.rand(3, 3, 16, 16)
        references = ReferenceViews(photos, Cameras.orbit(3, height=16, width=16), torch.ones(3, 1, 16, 16))
        lora = {_LORA: torch.randn(2, 8), _LORA.replace("_A", "_B"): torch.randn(8, 2)}
        return SubjectAdapter(config, references, token_embedding=torch.randn(8), lora_state_dict=lora)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# --- weights ---

_WEIGHT_DTYPES = [torch.float16, torch.float64, torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64]


@st.composite
def spoiled_weights(draw: Callable, content: bytes) -> bytes:
    """A safetensors file with other tensors, another header, other bytes, or a pickle in its place."""
    from safetensors.torch import load

    change = draw(st.sampled_from(["bytes", "tensors", "tensors", "header", "size", "pickle"]))
    if change == "bytes":
        return draw(spoiled_bytes(content))
    if change == "pickle":
        return PICKLE
    length = struct.unpack("<Q", content[:8])[0]
    if change == "size":
        return (
            struct.pack("<Q", draw(st.sampled_from([2**60, 2**64 - 1, 0, 10**8, len(content), length - 1])))
            + content[8:]
        )
    if change == "header":
        header = as_json(draw(spoiled(json.loads(content[8 : 8 + length]))))
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    tensors = load(content)
    name = draw(st.sampled_from(sorted(tensors)))
    spoil = draw(st.sampled_from(["dtype", "shape", "value", "name", "drop", "extra"]))
    if spoil == "dtype":
        tensors[name] = tensors[name].to(draw(st.sampled_from(_WEIGHT_DTYPES)))
    elif spoil == "shape":
        tensors[name] = torch.zeros(draw(st.sampled_from([(), (0,), (1,), (3, 3), (2, 2, 2), (8,)])))
    elif spoil == "value":
        tensors[name] = torch.full_like(tensors[name], draw(st.sampled_from([float("nan"), float("inf"), 1e30])))
    elif spoil == "extra":
        tensors[draw(st.text(max_size=8))] = torch.zeros(2)
    else:
        value = tensors.pop(name)
        if spoil == "name":
            tensors[draw(st.text(max_size=8))] = value
    settings = draw(st.none() | st.sampled_from(["[]", "{", "1", '{"a.lora_alpha": 3}', "[" * 20_000]))
    return save(tensors, None if settings is None else {"lora_adapter_metadata": settings})


# --- pictures ---


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@functools.cache
def pictures() -> list[bytes]:
    """Good pictures in several formats and modes."""
    image = Image.frombytes("L", (16, 16), random.Random(0).randbytes(256))
    saved = []
    for format, mode in (("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
                         ("TIFF", "F"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "1")):  # fmt: skip
        stream, exif = io.BytesIO(), Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "maker"
        exif.get_ifd(0x8769)[0xA405] = 28
        options = {"exif": exif} if format in ("JPEG", "WEBP", "TIFF") else {}
        image.convert("L" if mode == "I;16" else mode).convert(mode).save(stream, format, **options)
        saved.append(stream.getvalue())
    return saved


def spoiled_pictures() -> st.SearchStrategy:
    bombs = [
        claiming(*size) for size in ((2**31 - 1, 2**31 - 1), (20_000, 20_000), (13_000, 13_000), (0, 0), (16, 16))
    ]
    others = [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n(x) print\n", PICKLE, b"", b"GIF89a", b"BM"]
    return st.sampled_from(pictures()).flatmap(spoiled_bytes) | st.sampled_from([*bombs, *others, *pictures()])


def _write_picture(folder: Path, content: bytes) -> None:
    write_files(folder, {"a.png": content, "b.png": pictures()[0], "c.png": pictures()[2]})


def _read_picture(folder: Path, content: bytes) -> None:
    file = folder / "a.png"
    pixels = read_image(file, "RGB", (16, 16))
    assert pixels.shape == (3, 16, 16)
    read_image(file, "L", (16, 16))
    open_photo(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_photos(folder, sorted(folder.iterdir()))


# --- folders ---


def _subject_folders() -> st.SearchStrategy:
    with tempfile.TemporaryDirectory() as temporary:
        tiny_subject().save_pretrained(Path(temporary) / "subject")
        files = files_of(Path(temporary) / "subject")

    def spoil(name: str) -> st.SearchStrategy:
        content = files[name]
        if name.endswith(".json"):
            change = spoiled(json.loads(content)).map(as_json) | spoiled_bytes(content)
        elif name.endswith(".safetensors"):
            change = spoiled_weights(content)
        else:
            change = spoiled_pictures()
        return change.map(lambda spoilt: {**files, name: spoilt, "pytorch_model.bin": PICKLE})

    changed = [name for name in files if name.endswith((".json", ".safetensors"))] * 2 + ["references/images/000.png"]
    return st.sampled_from(changed).flatmap(spoil)


def _load_subject(folder: Path, files: dict[str, bytes]) -> None:
    adapter = SubjectAdapter.from_pretrained(folder, local_files_only=True)
    assert len(adapter.config.reference_prompt_text) < 10**4
    assert adapter.config.feature_nerf.num_samples < 10**5


def _prepared_folders() -> st.SearchStrategy:
    with tempfile.TemporaryDirectory() as temporary:
        files = files_of(write_capture(Path(temporary) / "capture"))
    manifest = json.loads(files["transforms.json"])
    manifest["frames"] = manifest["frames"][:4]
    used = {frame[key] for frame in manifest["frames"] for key in ("file_path", "mask_path")}
    files = {name: content for name, content in files.items() if name in used}
    for i, frame in enumerate(manifest["frames"]):
        frame |= {"name": f"{i}.png", "caption": "a {token} cube"}
    frame = {"scale": 1.0, "rotation": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], "translation": [0, 0, 0]}
    preparation = {"fingerprint": "f", "photos": 4, "registered": 4, "left_out": [], "size": [48, 64], "masks": True}
    preparation |= {"captions": True, "files": dict.fromkeys(used, "0")}
    record = {"version": 1, "subject_frame": frame, "class_noun": "cube", "token": "<it>", "preparation": preparation}
    manifest = {"mvcustom_subject": record, **manifest}
    return spoiled(manifest).map(lambda value: {**files, "transforms.json": as_json(value)})


def _load_prepared(folder: Path, files: dict[str, bytes]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_subject_dataset(folder)
    check_output(folder.parent / "photos", folder, "f", overwrite=True)


@st.composite
def _config_calls(draw: Callable) -> Callable[[], Any]:
    """Settings of a subject from JSON, without files."""
    values = FeatureNeRFConfig().to_dict()
    for name in draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=2)):
        values[name] = draw(odd_numbers)
    return lambda: FeatureNeRFConfig.from_dict(values)


SUBJECT_TARGETS = (
    Target("subject folder", _subject_folders, write_files, _load_subject, weight=2.0),
    Target("FeatureNeRF settings", _config_calls, lambda folder, call: None, lambda folder, call: call(), weight=0.2),
    Target("prepared folder", _prepared_folders, write_files, _load_prepared),
    Target("photo or mask", spoiled_pictures, _write_picture, _read_picture),
)
