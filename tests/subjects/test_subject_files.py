import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import AnimateDiffPipeline
from hub_stand_in import HubStandIn
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.subjects import SubjectAdapter

FILES = {
    "README.md",
    "feature_nerf.safetensors",
    "learned_embeds.safetensors",
    "pytorch_lora_weights.safetensors",
    "subject_config.json",
    "references/transforms.json",
    *(f"references/{part}/{i:03d}.png" for part in ("images", "masks") for i in range(12)),
}


def files_of(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same(first: SubjectAdapter, second: SubjectAdapter) -> None:
    assert first.config == second.config
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, value in first.state_dict().items():
        assert value.dtype == second.state_dict()[key].dtype
        assert torch.equal(value, second.state_dict()[key])
    for one, other in (
        (first.learned_embeddings, second.learned_embeddings),
        (first.lora_state_dict or {}, second.lora_state_dict or {}),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert torch.equal(first.references.images, second.references.images)
    assert torch.equal(first.references.masks, second.references.masks)
    assert torch.equal(first.references.cameras.camera_to_world, second.references.cameras.camera_to_world)
    assert torch.equal(first.references.cameras.intrinsics, second.references.cameras.intrinsics)
    assert first.references.captions == second.references.captions


@pytest.fixture
def saved(trained, tmp_path):
    trained.save_pretrained(tmp_path / "subject")
    return tmp_path / "subject"


# --- round trips ---


def test_a_saved_subject_comes_back_exactly(trained, saved):
    assert set(files_of(saved)) == FILES
    assert_same(SubjectAdapter.from_pretrained(saved), trained)
    assert not [p for p in saved.parent.iterdir() if p != saved]  # nothing temporary is left


def test_an_untrained_subject_has_no_lora_and_no_embedding(adapter, tmp_path):
    adapter.save_pretrained(tmp_path / "subject")
    assert set(files_of(tmp_path / "subject")) == FILES - {
        "learned_embeds.safetensors",
        "pytorch_lora_weights.safetensors",
    }
    assert_same(SubjectAdapter.from_pretrained(tmp_path / "subject"), adapter)


def test_half_precision_stays_half(trained, tmp_path):
    trained.to(torch.bfloat16).save_pretrained(tmp_path / "subject")
    assert_same(SubjectAdapter.from_pretrained(tmp_path / "subject"), trained)


def test_an_attached_subject_saves_the_same_files(trained, unet, saved, tmp_path):
    trained.attach(unet)
    trained.save_pretrained(tmp_path / "attached")
    assert files_of(tmp_path / "attached") == files_of(saved)


def test_a_subfolder_can_be_named(trained, saved):
    assert_same(SubjectAdapter.from_pretrained(saved.parent, subfolder="subject"), trained)
    with pytest.raises(MVCustomError, match="inside the folder"):
        SubjectAdapter.from_pretrained(saved, subfolder="../subject")


def test_lora_and_embedding_load_into_a_stock_pipeline(trained, saved, make_components):
    pipe = AnimateDiffPipeline(**make_components(depth_estimator=False), motion_adapter=None)
    pipe.load_lora_weights(saved)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    weights = trained.lora_state_dict
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_"
    assert torch.equal(layer.lora_A["default_0"].weight, weights[key + "A.weight"])
    assert torch.equal(layer.lora_B["default_0"].weight, weights[key + "B.weight"])
    assert layer.scaling["default_0"] == 1.0
    pipe.load_textual_inversion(saved, weight_name="learned_embeds.safetensors")
    index = pipe.tokenizer.convert_tokens_to_ids("<my-cube>")
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[index], trained.token_embedding)


def test_the_model_card_names_the_subject(trained, saved):
    card = ModelCard.load(saved / "README.md")
    assert "diffusers-mvcustom" in card.data.tags
    assert "`<my-cube>`" in card.text
    assert "12 of 64 × 48 pixels, with masks" in card.text


# --- safe writing ---


def test_a_saved_subject_is_replaced_as_a_whole(trained, adapter, saved, unet, cube_views):
    other = SubjectAdapter.create(unet, cube_views[:3], "<other>", "cube")
    other.save_pretrained(saved)
    assert "pytorch_lora_weights.safetensors" not in files_of(saved)
    assert len(list((saved / "references" / "images").iterdir())) == 3
    assert_same(SubjectAdapter.from_pretrained(saved), other)


def test_a_failure_while_saving_leaves_the_old_subject(trained, saved, unet, cube_views):
    before = files_of(saved)
    broken = SubjectAdapter.create(unet, cube_views, "<other>", "cube", training={"callback": print})
    with pytest.raises(MVCustomError, match="training"):
        broken.save_pretrained(saved)
    assert files_of(saved) == before
    assert list(saved.parent.iterdir()) == [saved]


def test_folders_with_other_things_are_not_replaced(trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(MVCustomError, match="holds other things"):
        trained.save_pretrained(tmp_path)
    with pytest.raises(MVCustomError, match="is a file"):
        trained.save_pretrained(tmp_path / "thesis.tex")
    assert files_of(tmp_path) == {"thesis.tex": b"precious"}
    (tmp_path / "empty").mkdir()
    trained.save_pretrained(tmp_path / "empty")
    assert set(files_of(tmp_path / "empty")) == FILES


def test_unknown_arguments_are_refused(trained, tmp_path):
    with pytest.raises(MVCustomError, match="push_to_hub"):
        trained.save_pretrained(tmp_path / "subject", privat=True)


# --- strict reading ---


@pytest.mark.parametrize(
    "name",
    ["feature_nerf.safetensors", "subject_config.json", "references/transforms.json", "references/images/005.png"],
)
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(MVCustomError, match=name.rpartition("/")[-1].replace(".", r"\.")):
        SubjectAdapter.from_pretrained(saved)


@pytest.mark.parametrize(
    "name", ["feature_nerf.safetensors", "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"]
)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_weights_are_named(saved, name, share):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MVCustomError, match=name.replace(".", r"\.")):
        SubjectAdapter.from_pretrained(saved)


PROJECTION = "mid_block.attentions.0.transformer_blocks.0.projection.difference.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(PROJECTION), "1 weights are missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 weights are unknown"),
        (lambda w: w.update({PROJECTION: w[PROJECTION][:, :1].clone()}), r"expected shape \(32, 64\)"),
        (lambda w: w.update({PROJECTION: w[PROJECTION] * torch.nan}), "finite"),
        (lambda w: w.update({PROJECTION: w[PROJECTION].int()}), "floating-point"),
    ],
)
def test_weights_are_read_strictly(saved, change, message):
    file = saved / "feature_nerf.safetensors"
    weights = load_file(file)
    assert weights[PROJECTION].shape == (32, 64)
    change(weights)
    save_file(weights, file)
    with pytest.raises(MVCustomError, match=message) as error:
        SubjectAdapter.from_pretrained(saved)
    assert str(file) in str(error.value)


def test_the_embedding_has_to_be_the_token_s(saved):
    save_file({"<other>": torch.zeros(32)}, saved / "learned_embeds.safetensors")
    with pytest.raises(MVCustomError, match=r"learned_embeds\.safetensors: expected one embedding, of '<my-cube>'"):
        SubjectAdapter.from_pretrained(saved)


def test_a_lora_with_another_scale_is_refused(saved):
    file = saved / "pytorch_lora_weights.safetensors"
    weights = load_file(file)
    save_file(weights, file, {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 4})})
    SubjectAdapter.from_pretrained(saved)
    save_file(weights, file, {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})})
    with pytest.raises(
        MVCustomError, match=r"lora_weights\.safetensors: expected a lora_alpha equal to the rank, got 8"
    ):
        SubjectAdapter.from_pretrained(saved)


def test_a_name_that_is_neither_folder_nor_hub_id_is_an_error(tmp_path):
    with pytest.raises(MVCustomError, match="no such folder"):
        SubjectAdapter.from_pretrained(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(MVCustomError, match="no such folder"):
        SubjectAdapter.from_pretrained("you/not-cached", cache_dir=tmp_path, local_files_only=True)


# --- the Hub ---

WORKER = """
import json, sys
from diffusers_mvcustom.subjects import SubjectAdapter
for line in sys.stdin:
    source, arguments, target = json.loads(line)
    try:
        SubjectAdapter.from_pretrained(source, **arguments).save_pretrained(target)
        print(json.dumps(None), flush=True)
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


@pytest.fixture
def hub():
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
def load_remotely(hub, tmp_path):
    """Loads and saves a subject in a user's process, whose Hub is the stand-in (`HF_ENDPOINT` is read on import)."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKER], env=environment, **pipes) as process:

        def load(source, target, **arguments):
            arguments = {"cache_dir": str(tmp_path / "cache"), **arguments}
            process.stdin.write(json.dumps([source, arguments, str(target)]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield load
        process.stdin.close()


def test_a_subject_comes_from_the_hub_and_then_from_the_cache(saved, hub, load_remotely, tmp_path):
    (saved / "evil.py").write_text("raise SystemExit('code of a subject was run')")
    (saved / "pickled.bin").write_bytes(b"not wanted")
    (saved / "unet.safetensors").write_bytes(b"not wanted")
    expected = {name: content for name, content in files_of(saved).items() if name in FILES}
    first = hub.add_folder("you/subject", saved)
    assert load_remotely("you/subject", tmp_path / "1") is None
    assert files_of(tmp_path / "1") == expected
    fetched = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert len(fetched) == len(FILES)
    assert {path.split("/", 5)[-1] for path in fetched} == FILES
    # a subject in a pipeline's repository
    hub.add_folder("you/pipeline", saved.parent)
    hub.requests.clear()
    assert load_remotely("you/pipeline", tmp_path / "2", subfolder="subject") is None
    assert files_of(tmp_path / "2") == expected
    assert all("/subject/" in path for _, path in hub.requests if "/resolve/" in path)
    # an earlier revision
    (saved / "subject_config.json").write_text("{}")
    hub.add_folder("you/subject", saved)
    name, message = load_remotely("you/subject", tmp_path / "3")
    assert (name, "subject_config.json" in message) == ("MVCustomError", True)
    assert load_remotely("you/subject", tmp_path / "3", revision=first) is None
    assert files_of(tmp_path / "3") == expected
    # private, missing
    hub.add_folder("you/secret", tmp_path / "1", private=True)
    for repo_id in ("you/none", "you/secret"):
        name, message = load_remotely(repo_id, tmp_path / "4")
        assert name == "MVCustomError"
        assert f"{repo_id}: there is no such folder, and the Hub answers: 401" in message
    assert load_remotely("you/secret", tmp_path / "4", token=hub.valid_token) is None
    # without a network
    hub.stop()
    assert load_remotely("you/subject", tmp_path / "5", revision=first) is None
    assert files_of(tmp_path / "5") == expected
    name, message = load_remotely("you/never-seen", tmp_path / "6")
    assert name == "MVCustomError"
    assert "not in the cache" in message
    cached = SubjectAdapter.from_pretrained(
        "you/subject", revision=first, cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert_same(cached, SubjectAdapter.from_pretrained(tmp_path / "1"))


def test_pushing_uploads_the_folder_and_replaces_an_earlier_subject(trained, saved, cube_views, unet, hub, tmp_path):
    options = {"token": hub.valid_token, "endpoint": hub.endpoint}
    url = trained.push_to_hub("you/pushed", private=True, **options)
    assert url.startswith(f"{hub.endpoint}/you/pushed/commit/")
    assert hub.repositories["you/pushed"].private
    assert {name: hub.files("you/pushed")[name] for name in FILES} == files_of(saved)
    fewer = SubjectAdapter.create(unet, cube_views[:3], "<my-cube>", "cube")
    fewer.save_pretrained(tmp_path / "fewer", push_to_hub=True, repo_id="you/pushed", **options)
    left = {name for name in hub.files("you/pushed") if name != ".gitattributes"}
    assert left == set(files_of(tmp_path / "fewer"))
    assert HfApi(endpoint=hub.endpoint, token=hub.valid_token).model_info("you/pushed").private


@pytest.mark.parametrize(
    ("base_model", "linked"), [("you/base", True), ("/home/you/base model", False), (None, False)]
)
def test_the_card_links_only_to_models_of_the_hub(unet, cube_views, tmp_path, base_model, linked):
    adapter = SubjectAdapter.create(unet, cube_views[:2], "<v>", 'cube "one"', base_model=base_model)
    adapter.token_embedding = torch.randn(32, 2).T  # not contiguous
    adapter.save_pretrained(tmp_path / "subject")
    assert ModelCard.load(tmp_path / "subject" / "README.md").data.base_model == (base_model if linked else None)
    loaded = SubjectAdapter.from_pretrained(tmp_path / "subject").token_embedding
    assert torch.equal(loaded, adapter.token_embedding)
