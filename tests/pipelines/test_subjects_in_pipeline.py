"""Subjects in the pipeline: loading, switching, taking out, saving, and what they do to a generation."""

import io
import logging

import accelerate
import numpy as np
import pytest
import torch
from diffusers import UNetMotionModel
from peft import LoraConfig

from diffusers_mvcustom import Cameras, MVCustomPipeline
from diffusers_mvcustom.cameras import load_capture
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.hooks import AnchorSettings, DepthAwareFeatureRendering

PROMPT = "a <cube> toy by a lake"


def state(pipe):
    return (
        {name: value.clone() for name, value in pipe.unet.state_dict().items()},
        {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()},
        len(pipe.tokenizer),
    )


def assert_same_state(one, other):
    for first, second in zip(one[:2], other[:2]):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert one[2] == other[2]


def test_loading_a_subject_warns_of_nothing(pipe, make_subject):
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("diffusers").addHandler(handler)
    try:
        pipe.load_subject(make_subject(pipe))
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert said.getvalue() == ""


def test_an_untrained_subject_changes_nothing(pipe, run, make_subject):
    plain = run(pipe, "a toy by a lake", hooks=[])
    pipe.load_subject(make_subject(pipe, trained=False))
    # Its token starts as the class noun's embedding, so the prompt with the token is the prompt with the noun.
    assert torch.equal(run(pipe, "a <cube> by a lake", hooks=[]), plain)


def test_a_trained_subject_does_and_unloading_restores_everything(pipe, run, make_subject):
    before, plain = state(pipe), run(pipe)
    pipe.load_subject(make_subject(pipe))
    assert "cube" in pipe.subjects
    with_subject = run(pipe, PROMPT)
    assert not torch.allclose(with_subject, run(pipe, PROMPT, pose_guidance_start=1.0))
    assert torch.equal(run(pipe, PROMPT), with_subject)
    pipe.unload_subject()
    assert_same_state(state(pipe), before)
    assert torch.equal(run(pipe), plain)
    assert pipe.subject is None
    assert not pipe.subjects


def test_without_a_subject_there_is_none_to_render(pipe):
    states = torch.zeros(1, 77, pipe.unet.config.cross_attention_dim)
    with pytest.raises(MVCustomError, match="load_subject"):
        pipe.render_subject(states, Cameras.orbit(2, height=64, width=64))


def test_cameras_matter_only_through_the_subject(pipe, run, make_subject):
    elsewhere = Cameras.orbit(3, azimuth=(100, 140), elevation=40, height=64, width=64)
    assert torch.equal(run(pipe, hooks=[]), run(pipe, hooks=[], cameras=elsewhere))
    pipe.load_subject(make_subject(pipe))
    assert not torch.allclose(run(pipe, PROMPT, hooks=[]), run(pipe, PROMPT, hooks=[], cameras=elsewhere))


def test_the_subject_is_rendered_once_per_call(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe))
    calls = []
    conditioner = pipe.subject.conditioner(pipe.subject.block_names[0])
    handle = conditioner.feature_nerf.register_forward_hook(lambda *_: calls.append(True))
    run(pipe, PROMPT, num_inference_steps=4)
    handle.remove()
    assert len(calls) == 1


def test_several_loaded_one_active(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe, "<one>", seed=1))
    first = run(pipe, "a <one> toy")
    pipe.load_subject(make_subject(pipe, "<two>", seed=2), adapter_name="second")
    assert list(pipe.subjects) == ["one", "second"]
    second = run(pipe, "a <two> toy")
    assert not torch.allclose(first, second)
    pipe.set_subject("one")
    assert torch.equal(run(pipe, "a <one> toy"), first)
    pipe.set_subject(None)
    assert pipe.subject is None
    pipe.set_subject("second")
    assert torch.equal(run(pipe, "a <two> toy"), second)
    for wrong, call in (("other", pipe.set_subject), ("other", pipe.unload_subject)):
        with pytest.raises(MVCustomError, match="adapter_name"):
            call(wrong)
    with pytest.raises(MVCustomError, match="already loaded"):
        pipe.load_subject(make_subject(pipe, "<one>"))
    assert pipe.subject.config.token == "<two>"


def test_a_subject_of_another_model_is_refused_and_changes_nothing(pipe, make_subject):
    subject = make_subject(pipe)
    other = UNetMotionModel.from_config({**pipe.unet.config, "block_out_channels": (16, 48, 48)})
    with pytest.raises(MVCustomError, match="channels"):
        subject.attach(other)
    before = state(pipe)
    subject.lora_state_dict = {"unet.nothing.lora.down.weight": torch.zeros(2, 3)}
    with pytest.raises(Exception):  # noqa: B017  (diffusers' own error)
        pipe.load_subject(subject)
    assert_same_state(state(pipe), before)
    assert pipe.subject is None


def test_saved_with_its_subject_it_gives_the_same_views(pipe, run, make_subject, tmp_path):
    pipe.load_subject(make_subject(pipe))
    expected = run(pipe, PROMPT)
    pipe.save_pretrained(tmp_path / "saved")
    assert torch.equal(run(pipe, PROMPT), expected)  # saving changes nothing
    loaded = MVCustomPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.subject.config.token == "<cube>"
    assert torch.equal(run(loaded, PROMPT), expected)
    loaded.unload_subject()
    loaded.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="mine")
    with pytest.raises(MVCustomError, match="LoRA"):
        loaded.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_reference_guidance(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe))
    plain = run(pipe, PROMPT, hooks=[])
    # e(∅,∅) + 1 (e(∅,Y) − e(∅,∅)) + s (e(c,Y) − e(∅,Y)) is guidance by text alone
    torch.testing.assert_close(run(pipe, PROMPT, hooks=[], reference_guidance_scale=1.0), plain, rtol=1e-3, atol=1e-3)
    guided = run(pipe, PROMPT, hooks=[], reference_guidance_scale=3.0)
    assert not torch.allclose(guided, plain)
    split = run(pipe, PROMPT, hooks=[], reference_guidance_scale=3.0, split_guidance=True)
    torch.testing.assert_close(split, guided, rtol=1e-3, atol=1e-3)


def test_the_subject_is_left_to_its_own_rendering_unless_asked_for(pipe, run, make_subject):
    def views(render_subject, prompt):
        anchor = AnchorSettings(render_subject=render_subject)
        return run(pipe, prompt, anchor=anchor, hooks=[DepthAwareFeatureRendering()], num_inference_steps=2)

    assert torch.equal(views(False, "a mug"), views(True, "a mug"))  # there is no subject
    pipe.load_subject(make_subject(pipe))
    own = views(False, PROMPT)
    assert torch.equal(own, run(pipe, PROMPT, hooks=[DepthAwareFeatureRendering()], num_inference_steps=2))
    assert not torch.equal(own, views(True, PROMPT))


def test_pose_guidance_share(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe))
    views = {
        start: run(pipe, PROMPT, hooks=[], num_inference_steps=4, pose_guidance_start=start)
        for start in (0.0, 0.25, 0.5, 1.0)
    }
    distance = [(views[start] - views[1.0]).abs().mean().item() for start in views]
    assert distance[-1] == 0
    assert len({round(value, 6) for value in distance}) == 4


def test_a_batch_is_its_prompts_one_by_one_with_a_subject(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe))
    prompts = ["a <cube> by a lake", "a <cube> on the moon"]
    noise = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = run(pipe, prompts, latents=noise, hooks=[])
    for i, prompt in enumerate(prompts):
        single = run(pipe, prompt, latents=noise[i : i + 1], hooks=[])
        torch.testing.assert_close(batch[i : i + 1], single, rtol=1e-3, atol=1e-3)


def test_with_the_users_own_lora_and_ip_adapter(make_pipe, run, make_subject):
    pipe = make_pipe(image_encoder_for_ip_adapter=True)
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora"
    channels = pipe.unet.config.block_out_channels[0]
    mine = {f"{layer}.down.weight": torch.randn(2, channels), f"{layer}.up.weight": torch.randn(channels, 2)}
    pipe.load_lora_weights(mine, adapter_name="mine")
    with_lora = run(pipe, hooks=[])
    pipe.load_subject(make_subject(pipe))
    pipe.unload_subject()
    assert list(pipe.unet.peft_config) == ["mine"]
    assert torch.equal(run(pipe, hooks=[]), with_lora)


def offload_layers(pipe):
    """As `enable_sequential_cpu_offload` does, which wants a GPU: weights on meta, loaded for each layer's forward."""
    for model in models_of(pipe).values():
        accelerate.cpu_offload(model, torch.device("cpu"))


def models_of(pipe):
    return {name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)}


def hooked_modules(model):
    return {name for name, module in model.named_modules() if hasattr(module, "_hf_hook")}


@pytest.mark.parametrize("first", ["subject", "offloading"])
def test_sequential_offloading_with_a_subject(make_pipe, run, make_subject, first):
    whole, pipe = make_pipe(), make_pipe()
    plain = run(whole)
    subject = make_subject(whole)
    whole.load_subject(subject)
    expected = run(whole, PROMPT)
    whole.unload_subject()
    if first == "offloading":
        offload_layers(pipe)
    pipe.load_subject(subject)
    if first == "subject":
        offload_layers(pipe)
    assert all(parameter.is_meta for parameter in pipe.unet.parameters())
    for _ in range(2):  # the first call leaves nothing behind
        torch.testing.assert_close(run(pipe, PROMPT), expected, rtol=1e-4, atol=1e-4)
    pipe.unload_subject()
    assert all(parameter.is_meta for parameter in [*pipe.unet.parameters(), *pipe.text_encoder.parameters()])
    torch.testing.assert_close(run(pipe), plain, rtol=1e-4, atol=1e-4)


def test_device_map_with_a_subject(make_pipe, run, make_subject):
    """A device map's hooks stand on every layer, as `from_pretrained(device_map="balanced")` places them."""
    whole, pipe = make_pipe(), make_pipe()
    plain = run(whole)
    subject = make_subject(whole)
    whole.load_subject(subject)
    expected = run(whole, PROMPT)
    whole.unload_subject()
    for model in models_of(pipe).values():
        accelerate.dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)
    pipe.hf_device_map = dict.fromkeys(models_of(pipe), "cpu")
    hooked = hooked_modules(pipe.unet)
    pipe.load_subject(subject)
    assert set(subject.block_names) < hooked_modules(pipe.unet)
    assert torch.equal(run(pipe, PROMPT), expected)
    pipe.unload_subject()
    assert hooked_modules(pipe.unet) == hooked
    assert torch.equal(run(pipe), plain)


def test_a_subject_that_does_not_fit_leaves_the_hooks(make_pipe, run, make_subject):
    pipe = make_pipe()
    plain = run(pipe)
    subject = make_subject(pipe)
    subject.lora_state_dict = {name: weight[:, :1] for name, weight in subject.lora_state_dict.items()}
    offload_layers(pipe)
    hooked = hooked_modules(pipe.unet)
    with pytest.raises(MVCustomError, match="does not fit"):
        pipe.load_subject(subject)
    assert hooked_modules(pipe.unet) == hooked
    torch.testing.assert_close(run(pipe), plain, rtol=1e-4, atol=1e-4)


def test_the_token_must_be_named(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe))
    with pytest.raises(MVCustomError, match="'<cube>'"):
        run(pipe, "a toy by a lake")
    with pytest.raises(MVCustomError, match="at index 1"):
        run(pipe, [PROMPT, "a toy"])


def test_cameras_that_look_away_are_refused(pipe, run, make_subject, cameras):
    pipe.load_subject(make_subject(pipe))
    away = cameras.camera_to_world.clone()
    away[:, :3, 1:3] *= -1  # OpenGL poses taken for OpenCV
    with pytest.raises(MVCustomError, match="OpenGL"):
        run(pipe, PROMPT, cameras=Cameras(away, cameras.intrinsics, 64, 64))


def test_opengl_poses_with_their_name_are_the_same_views(pipe, run, make_subject, cameras):
    pipe.load_subject(make_subject(pipe))
    poses = cameras.camera_to_world.clone()
    poses[:, :3, 1:3] *= -1
    given = {"camera_convention": "opengl", "camera_intrinsics": cameras.intrinsics, "height": 64, "width": 64}
    views = run(pipe, PROMPT, cameras=poses, **given)
    torch.testing.assert_close(views, run(pipe, PROMPT), rtol=1e-4, atol=1e-4)


def test_bfloat16_with_a_subject(make_pipe, run, make_subject):
    pipe = make_pipe(depth_estimator=None, depth_image_processor=None)
    pipe.load_subject(make_subject(pipe))
    exact = run(pipe, PROMPT)
    pipe.to(dtype=torch.bfloat16)
    views = run(pipe, PROMPT)
    assert views.dtype == torch.bfloat16
    assert (views.float() - exact).abs().mean() < 0.2 * exact.std()


def test_views_are_saved_with_their_cameras(pipe, make_subject, cameras, tmp_path):
    pipe.load_subject(make_subject(pipe))
    out = pipe([PROMPT, PROMPT], cameras, num_inference_steps=1, output_type="np")
    out.save(tmp_path / "out")
    for folder in (tmp_path / "out" / "0", tmp_path / "out" / "1"):
        assert load_capture(folder).cameras.allclose(cameras, atol=1e-5)
        assert sorted(file.name for file in (folder / "images").iterdir()) == ["0000.png", "0001.png", "0002.png"]
        assert (folder / "views.gif").stat().st_size > 0
        assert (folder / "contact_sheet.png").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))
    assert np.isfinite(out.frames).all()
