"""What fuzzing found in subject folders, photos and prepared folders, each with the input that showed it."""

import io
import json
import struct
import warnings

import pytest
import torch
from fuzz.mutations import PICKLE
from fuzz.subject_targets import BLOCK, claiming, files_of, tiny_subject, write_files
from fuzz.watch import attempt, bounded
from PIL import Image
from safetensors.torch import load, save

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.data import load_subject_dataset
from diffusers_mvcustom.data.output_folder import recorded_preparation
from diffusers_mvcustom.data.photos import open_photo, read_photos
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models.feature_nerf_config import FeatureNeRFConfig
from diffusers_mvcustom.subjects import SubjectAdapter
from diffusers_mvcustom.subjects.reference_files import read_image

WEIGHTS, LORA, EMBEDDING = (
    "feature_nerf.safetensors",
    "pytorch_lora_weights.safetensors",
    "learned_embeds.safetensors",
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "subject"
    tiny_subject().save_pretrained(folder)
    return files_of(folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


def changed(content, *keys, value):
    """JSON with one value changed."""
    whole = holder = json.loads(content)
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    return json.dumps(whole).encode()


def config(*keys, value):
    return lambda files: {"subject_config.json": changed(files["subject_config.json"], *keys, value=value)}


def frame(key, value):
    name = "references/transforms.json"
    return lambda files: {name: changed(files[name], "frames", 0, key, value=value)}


def weights(name, change):
    return lambda files: {name: change(files[name])}


def as_float8(content):
    return save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load(content).items()})


def with_settings(text):
    return lambda content: save(load(content), {"lora_adapter_metadata": text})


def not_finite(content):
    return save({name: torch.full_like(tensor, float("nan")) for name, tensor in load(content).items()})


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (config("pose_conditioned_blocks", BLOCK, value=2**40), "channels"),
        (config("pose_conditioned_blocks", BLOCK, value=2**15), "expected shape"),
        (config("pose_conditioned_blocks", value={f"block.{i}": 8 for i in range(20_000)}), "blocks are missing"),
        (config("feature_nerf", "hidden_channels", value=2**15), "expected shape"),
        (config("feature_nerf", "hidden_channels", value=2**60), "hidden_channels"),
        (config("feature_nerf", "point_frequencies", value=2**60), "point_frequencies"),
        (config("feature_nerf", "num_samples", value=2**40), "num_samples"),
        (config("feature_nerf", "far", value=10**400), "far"),
        (config("subject_frame", value={"scale": 10**400, "rotation": [], "translation": []}), "subject_frame"),
        (config("reference_prompt", value="{token:>99999999999}"), "reference_prompt"),
        (config("reference_prompt", value="{token!r:>9}"), "reference_prompt"),
        (lambda files: {"subject_config.json": DEEP}, "nested too deeply"),
        (lambda files: {"references/transforms.json": DEEP}, "nested too deeply"),
        (frame("fl_x", 10**400), "fl_x"),
        (frame("file_path", "images/a\0.png"), "inside the folder"),
        (frame("file_path", "i/" * 3000), "inside the folder"),
        (frame("file_path", "../canary.png"), "inside the folder"),
        (lambda files: {"references/images/000.png": claiming(13_000, 13_000)}, "expected 16 × 16 pixels"),
        (lambda files: {"references/images/000.png": claiming(2**31 - 1, 2**31 - 1)}, "unreadable"),
        (weights(WEIGHTS, as_float8), "float8"),
        (weights(EMBEDDING, as_float8), "float8"),
        (weights(LORA, as_float8), "finite floating-point"),
        (weights(LORA, not_finite), "finite floating-point"),
        (weights(LORA, with_settings("[]")), "expected a JSON object"),
        (weights(LORA, with_settings("[" * 100_000)), "nested too deeply"),
        *((lambda files, name=name: {name: PICKLE}, "safetensors") for name in (WEIGHTS, LORA, EMBEDDING)),
        *(
            (lambda files, name=name: {name: struct.pack("<Q", 2**60) + files[name][8:]}, "safetensors")
            for name in (WEIGHTS, LORA, EMBEDDING)
        ),
    ],
)  # fmt: skip
def test_subject_folders(folder, good, change, match):
    write_files(folder, {**good, **change(good), "pytorch_model.bin": PICKLE})
    kind, error = attempt(folder, lambda: SubjectAdapter.from_pretrained(folder))
    assert kind == "refused"
    assert match in str(error)


def test_a_good_subject_folder_is_answered(folder, good):
    write_files(folder, {**good, "pytorch_model.bin": PICKLE})
    kind, adapter = attempt(folder, lambda: SubjectAdapter.from_pretrained(folder))
    assert kind == "accepted"
    assert adapter.block_names == [BLOCK]


def test_a_name_too_long_for_any_folder(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MVCustomError, match="no such folder"):
        SubjectAdapter.from_pretrained("n" * 300)


@pytest.mark.parametrize(
    ("embedding", "rank_shape"), [(torch.zeros(7), (2, 32)), (torch.zeros(32), (2, 31)), (torch.zeros(32), (2, 32, 3))]
)
def test_parts_that_do_not_fit_the_model(components, embedding, rank_shape):
    """Refused as a whole: pipeline and subject are as before."""
    pipe = MVCustomPipeline(**components)
    names, words = list(pipe.unet.state_dict()), len(pipe.tokenizer)
    target = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    lora = {f"{target}.lora_A.weight": torch.zeros(rank_shape), f"{target}.lora_B.weight": torch.zeros(32, 2)}
    subject = SubjectAdapter.create(pipe.unet, tiny_subject().references, "<it>", "mug", token_embedding=embedding)
    subject.lora_state_dict = lora
    with pytest.raises(MVCustomError, match="does not fit this model"):
        pipe.load_subject(subject)
    assert list(pipe.unet.state_dict()) == names
    assert len(pipe.tokenizer) == words
    assert not pipe.subjects
    assert not subject.is_attached


@pytest.mark.parametrize("name", ["num_samples", "far", "near", "encoding_octaves", "importance_share"])
def test_settings_beyond_floats(name):
    with pytest.raises(MVCustomError, match=name):
        FeatureNeRFConfig.from_dict({name: 10**400})
    with pytest.raises(MVCustomError, match="unknown keys"):
        FeatureNeRFConfig.from_dict({3: 1, "x": 2})


# --- photos ---


def test_no_program_is_run_for_a_picture(folder):
    """Pillow would hand PostScript to Ghostscript, whatever the file's name."""
    (folder / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(x) print\n%%EOF\n"
    )
    for call in (lambda: read_image(folder / "a.png", "RGB"), lambda: open_photo(folder / "a.png")):
        kind, error = attempt(folder, call)
        assert kind == "refused"
        assert "a.png" in str(error)


def test_an_orientation_that_is_no_number(tmp_path):
    for i in range(3):
        exif = Image.Exif()
        exif[0x0112] = 6
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (i * 80, 0, 0)).save(stream, "JPEG", exif=exif)
        number, text = (b"\x01\x12\x00" + kind + b"\x00\x00\x00\x01" for kind in (b"\x03", b"\x02"))
        content = stream.getvalue()
        assert number in content
        (tmp_path / f"{i}.jpg").write_bytes(content.replace(number, text))
    assert [photo.width for photo in read_photos(tmp_path, sorted(tmp_path.iterdir()))] == [8, 8, 8]


def test_a_large_picture_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.png").write_bytes(claiming(13_000, 13_000))
    with pytest.raises(MVCustomError, match="13000"), bounded(seconds=1, memory=1 << 26):
        read_image(tmp_path / "a.png", "RGB", (16, 16))


def test_pictures_that_are_cut_off(tmp_path):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue()[:-600])
    with pytest.raises(MVCustomError, match=r"a\.png"):
        read_image(tmp_path / "a.png", "RGB")


# --- prepared folders ---


def test_a_record_that_lacks_what_is_read_of_it_is_none(tmp_path):
    for preparation in ({"fingerprint": "f"}, {"fingerprint": "f", "files": ["../canary.png"]}, []):
        record = {"version": 1, "preparation": preparation}
        (tmp_path / "transforms.json").write_text(json.dumps({"mvcustom_subject": record, "frames": []}))
        assert recorded_preparation(tmp_path) is None


def test_photos_of_a_prepared_folder_stay_inside(cube_capture, folder):
    files = files_of(cube_capture)
    files["transforms.json"] = changed(files["transforms.json"], "frames", 2, "file_path", value=".")
    write_files(folder, files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind, error = attempt(folder, lambda: load_subject_dataset(folder))
    assert kind == "refused"
    assert "path of a file" in str(error)
