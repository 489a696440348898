import json

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, UNetMotionModel
from transformers import CLIPTextModel, CLIPTokenizer, ZoeDepthForDepthEstimation

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import random_components, random_unet2d_and_motion_adapter, save_random_model


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = (random_components(seed=seed)["unet"].state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_dtype_is_that_of_every_model_and_the_default_dtype_is_restored():
    components = random_components(dtype=torch.bfloat16, image_encoder=True)
    models = [component for component in components.values() if isinstance(component, torch.nn.Module)]
    assert len(models) == 5
    assert {p.dtype for model in models for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_the_device_is_that_of_every_model_and_the_scheduler_stays_on_the_cpu():
    components = random_components(device="meta", image_encoder=True)
    models = [component for component in components.values() if isinstance(component, torch.nn.Module)]
    assert len(models) == 5
    assert {p.device.type for model in models for p in model.parameters()} == {"meta"}
    assert components["scheduler"].betas.device.type == torch.empty(0).device.type == "cpu"


def test_optional_components_are_absent_when_not_asked_for():
    components = random_components(depth_estimator=False)
    assert "depth_estimator" not in components
    assert components["image_encoder"] is None
    assert components["feature_extractor"] is None


def test_an_unknown_size_is_an_error():
    with pytest.raises(MVCustomError, match="size: expected one of"):
        random_components("huge")


@pytest.mark.parametrize("text", ["a photo of a <v*> Mug", "ünïcödé 猫 7 🙂!", "line\nbreak\ttab \x00", ""])
def test_every_text_tokenises_without_unknown_tokens(text):
    tokenizer = random_components(depth_estimator=False)["tokenizer"]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids[1:-1]
    words = " ".join(text.lower().split())
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == words.replace(" ", "")


def test_texts_frames_and_time_reach_the_unet_output():
    components = random_components(depth_estimator=False)
    unet, generator = components["unet"], torch.Generator().manual_seed(0)
    sample = torch.randn(1, 4, 3, 16, 12, generator=generator)
    ids = components["tokenizer"](["a red mug", "a blue car"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        red, blue = components["text_encoder"](ids)[0]

        def frames(sample, time, text):
            return unet(sample, time, text.expand(3, -1, -1)).sample

        expected = frames(sample, 100, red)
        moved = sample.clone()
        moved[:, :, 1] += 1.0
        assert (frames(moved, 100, red)[:, :, 0] - expected[:, :, 0]).abs().mean() > 0.05
        assert (frames(sample, 100, blue) - expected).abs().mean() > 0.05
        assert (frames(sample, 900, red) - expected).abs().mean() > 0.02
    assert 0.3 < expected.std() < 3.0


def test_decoded_images_and_depths_vary():
    components = random_components()
    with torch.no_grad():
        images = components["vae"].decode(torch.randn(2, 4, 16, 12, generator=torch.Generator().manual_seed(0))).sample
        assert images.shape == (2, 3, 64, 48)
        assert images.std() > 0.1
        arrays = [(image.permute(1, 2, 0).clamp(-1, 1) * 127.5 + 127.5).byte().numpy() for image in images]
        inputs = components["depth_image_processor"](images=arrays, return_tensors="pt")
        depth = components["depth_estimator"](**inputs).predicted_depth
    assert depth.min() > 0
    assert depth.std() / depth.mean() > 0.05


def test_the_saved_model_is_a_stock_animatediff_repository(tmp_path):
    save_random_model(tmp_path, seed=5)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "AnimateDiffPipeline"
    assert index["unet"] == ["diffusers", "UNetMotionModel"]
    pipe = AnimateDiffPipeline.from_pretrained(tmp_path)
    expected = random_components(seed=5, depth_estimator=False)
    for name in ("unet", "vae", "text_encoder"):
        loaded, built = getattr(pipe, name).state_dict(), expected[name].state_dict()
        assert loaded.keys() == built.keys()
        assert all(torch.equal(loaded[key], built[key]) for key in built)
    text = "a red mug on a mossy rock, 猫"
    assert pipe.tokenizer(text)["input_ids"] == expected["tokenizer"](text)["input_ids"]
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert (pipe.scheduler.config.beta_schedule, pipe.scheduler.config.clip_sample) == ("linear", False)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a red mug", num_frames=2, num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)
    ).frames
    assert frames.shape == (1, 2, 64, 64, 3)
    assert np.isfinite(frames).all()


def test_the_saved_tokenizer_takes_a_textual_inversion(tmp_path):
    save_random_model(tmp_path)
    pipe = AnimateDiffPipeline.from_pretrained(tmp_path)
    vector = torch.randn(pipe.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion({"<my-mug>": vector})
    index = pipe.tokenizer.convert_tokens_to_ids("<my-mug>")
    assert index in pipe.tokenizer("a <my-mug> mug")["input_ids"]
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[index], vector)


def test_the_depth_estimator_and_image_encoder_load_back(tmp_path):
    components = random_components(image_encoder=True)
    for name in ("depth_estimator", "image_encoder"):
        components[name].save_pretrained(tmp_path / name)
        loaded = type(components[name]).from_pretrained(tmp_path / name).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in components[name].state_dict().items())
    assert isinstance(components["depth_estimator"], ZoeDepthForDepthEstimation)


def test_an_image_unet_and_a_motion_adapter_make_the_same_motion_unet():
    unet, motion_adapter = random_unet2d_and_motion_adapter()
    built = random_components(depth_estimator=False)["unet"]
    joined = UNetMotionModel.from_unet2d(unet, motion_adapter)
    assert {k: v.shape for k, v in joined.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    assert torch.equal(joined.conv_in.weight, unet.conv_in.weight)


def test_sd15_has_the_published_shapes():
    # on the meta device: shapes only, no 5 GB of weights
    with torch.device("meta"):
        unet, motion_adapter = random_unet2d_and_motion_adapter("sd15")
        components = random_components("sd15", depth_estimator=False)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in components["vae"].parameters()) == 83_653_863
    assert sum(p.numel() for p in components["text_encoder"].parameters()) == 123_060_480
    in_motion_unet = {k: v.shape for k, v in components["unet"].state_dict().items() if "motion_modules" in k}
    assert {k: v.shape for k, v in motion_adapter.state_dict().items()} == in_motion_unet
    assert isinstance(components["tokenizer"], CLIPTokenizer)
    assert len(components["tokenizer"]) == 49408
    assert isinstance(components["text_encoder"], CLIPTextModel)
