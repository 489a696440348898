"""What diffusers users expect of any pipeline, on `MVCustomPipeline` with its hooks on."""

import inspect

import accelerate
import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import MotionAdapter
from diffusers.callbacks import SDCFGCutoffCallback

from diffusers_mvcustom import (
    AnchorSettings,
    ConsistentAwareLatentCompletion,
    DepthAwareFeatureRendering,
    MVCustomError,
    MVCustomPipeline,
)
from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter

OPTIONAL = ["feature_extractor", "image_encoder", "motion_adapter", "depth_estimator", "depth_image_processor"]


def test_same_seed_same_views_other_seed_other_views(pipe, run):
    first, second, other = run(pipe), run(pipe), run(pipe, seed=1)
    assert first.std() > 0.01
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)


def test_save_and_load_gives_the_same_views(pipe, run, tmp_path):
    pipe.set_attention_window({"8": None, "16": 3}, temporal_heads=1)
    pipe.set_hooks([DepthAwareFeatureRendering(end=0.5)], AnchorSettings(frames=1, preview=0.7))
    expected = run(pipe)
    pipe.save_pretrained(tmp_path)
    loaded = MVCustomPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.hooks == (DepthAwareFeatureRendering(end=0.5),)
    assert loaded.anchor == AnchorSettings(frames=1, preview=0.7)
    assert loaded.config.attention_window == {"8": None, "16": 3}
    assert loaded.config.temporal_heads == 1
    assert torch.equal(run(loaded), expected)
    assert torch.equal(run(MVCustomPipeline.from_pipe(loaded)), expected)


def test_the_window_of_the_training_is_found_again(pipe, tmp_path):
    """A saved U-Net has no place for it, so it is the one that the pipeline was saved with."""
    pipe.set_attention_window(5, temporal_heads=1)
    pipe.save_pretrained(tmp_path)
    loaded = MVCustomPipeline.from_pretrained(tmp_path)
    for window in (None, 1):
        loaded.set_attention_window(window, temporal_heads=0)
        loaded.set_attention_window("auto")
        assert (loaded.config.attention_window, loaded.config.temporal_heads) == (5, 1)
    _, adapter = random_unet2d_and_motion_adapter()
    loaded.load_motion_adapter(adapter)
    loaded.set_attention_window("auto")
    assert (loaded.config.attention_window, loaded.config.temporal_heads) == (5, 1)  # it says none
    adapter.register_to_config(attention_window=3)
    loaded.load_motion_adapter(adapter)
    assert (loaded.config.attention_window, loaded.config.temporal_heads) == (5, 1)
    loaded.set_attention_window("auto")
    assert (loaded.config.attention_window, loaded.config.temporal_heads) == (3, 0)
    adapter.register_to_config(temporal_heads=1)
    loaded.load_motion_adapter(adapter)
    loaded.set_attention_window("auto", temporal_heads="auto")
    assert (loaded.config.attention_window, loaded.config.temporal_heads) == (3, 1)


def test_temporal_heads_stay_when_the_window_is_set(pipe, run):
    pipe.set_attention_window(None, temporal_heads=1)
    some = run(pipe)
    pipe.set_attention_window(None)
    assert torch.equal(run(pipe), some)
    with pytest.raises(MVCustomError, match="temporal_heads: expected a number of heads from 0 to 1"):
        pipe.set_attention_window(3, temporal_heads=2)
    assert (pipe.config.attention_window, pipe.config.temporal_heads) == (None, 1)
    assert torch.equal(run(pipe), some)
    pipe.set_attention_window(None, temporal_heads=0)
    assert not torch.allclose(run(pipe), some)


@pytest.mark.parametrize("device_map", ["cpu", "balanced"])
def test_loading_with_a_device_map(pipe, run, tmp_path, device_map):
    # "balanced" finds no accelerator on a CPU and leaves everything there.
    pipe.save_pretrained(tmp_path)
    loaded = MVCustomPipeline.from_pretrained(tmp_path, device_map=device_map)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(run(loaded), run(pipe))


def test_vae_slicing_and_tiling(pipe, run):
    expected = run(pipe, output_type="pt")
    pipe.vae.enable_slicing()
    assert (run(pipe, output_type="pt") - expected).abs().max() < 1e-5
    pipe.vae.enable_tiling()
    pipe.vae.tile_latent_min_size = pipe.vae.tile_sample_min_size // 4
    tiled = run(pipe, output_type="pt")
    assert tiled.shape == expected.shape
    assert (tiled - expected).abs().mean() < 0.05


def test_a_saved_pipeline_is_a_stock_animatediff_repository(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    stock = diffusers.AnimateDiffPipeline.from_pretrained(tmp_path)
    assert type(stock.unet) is diffusers.UNetMotionModel
    for name, value in stock.unet.state_dict().items():
        assert torch.equal(value, pipe.unet.state_dict()[name])


@pytest.mark.parametrize("missing", OPTIONAL)
def test_every_optional_component_can_be_left_out(make_pipe, run, tmp_path, missing):
    pipe = make_pipe(image_encoder_for_ip_adapter=True, **{missing: None})
    expected = run(pipe, hooks=[])
    pipe.save_pretrained(tmp_path)
    loaded = MVCustomPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert getattr(loaded, missing) is None
    assert torch.equal(run(loaded, hooks=[]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make_pipe, run, tmp_path, dtype):
    whole, pipe = make_pipe(), make_pipe()
    pipe.to(dtype=dtype)
    pipe.depth_estimator.to(torch.float32)
    given = {"anchor_depth": torch.ones(64, 64)}
    for call in ({}, given):
        views = run(pipe, **call)
        assert views.dtype == dtype
        assert views.isfinite().all()
        # In bfloat16 the preview is another picture, and so is the geometry that is estimated on it.
        if call is given or dtype == torch.float16:
            exact = run(whole, **call)
            assert (views.float() - exact).abs().mean() < 0.1 * exact.std()
    pipe.save_pretrained(tmp_path)
    assert MVCustomPipeline.from_pretrained(tmp_path, dtype=dtype).unet.dtype == dtype


def test_half_precision_weights_load_as_one_dtype(make_pipe, run, tmp_path):
    """Left alone, diffusers' models would be float32 and those of transformers float16, which do not go together."""
    pipe = make_pipe()
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(tmp_path)
    loaded = MVCustomPipeline.from_pretrained(tmp_path)
    modules = {name: part for name, part in loaded.components.items() if isinstance(part, torch.nn.Module)}
    assert {"vae", "text_encoder", "unet", "depth_estimator"} <= modules.keys()
    assert {name: module.dtype for name, module in modules.items()} == dict.fromkeys(modules, torch.float32)
    assert run(loaded).isfinite().all()


def test_a_batch_is_its_prompts_one_by_one(pipe, run):
    prompts = ["a mug by a lake", "a red car"]
    noise = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    # Completion draws noise for the whole batch; an estimated depth turns rounding into other triangles.
    depth = torch.stack([torch.full((1, 8, 8), 0.9), torch.full((1, 8, 8), 1.4)])
    hooks = [DepthAwareFeatureRendering()]
    batch = run(pipe, prompts, latents=noise, hooks=hooks, anchor_depth=depth)
    for i, prompt in enumerate(prompts):
        single = run(pipe, prompt, latents=noise[i : i + 1], hooks=hooks, anchor_depth=depth[i : i + 1])
        torch.testing.assert_close(batch[i : i + 1], single, rtol=1e-3, atol=1e-3)


def test_several_sets_per_prompt(pipe, run):
    views = run(pipe, ["a mug", "a car"], num_images_per_prompt=2)
    assert views.shape == (4, 4, 3, 16, 16)
    embeds, negative = pipe.encode_prompt("a mug", "cpu", 1, True)
    given = run(pipe, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    without = MVCustomPipeline(**{**pipe.components, "text_encoder": None, "tokenizer": None})
    without.set_progress_bar_config(disable=True)
    assert torch.equal(run(without, None, prompt_embeds=embeds, negative_prompt_embeds=negative), given)
    assert torch.equal(given, run(pipe, "a mug"))


@pytest.mark.parametrize(("output_type", "shape"), [("pt", (1, 3, 3, 64, 64)), ("np", (1, 3, 64, 64, 3))])
def test_output_types(pipe, run, output_type, shape):
    frames = run(pipe, output_type=output_type)
    assert frames.shape == shape
    assert 0 <= frames.min() < frames.max() <= 1
    images = run(pipe, output_type="pil")[0]
    assert all(isinstance(image, PIL.Image.Image) for image in images)
    first = np.asarray(frames[0, 0]) if output_type == "np" else frames[0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(images[0]), (first * 255).round().astype(np.uint8))


def test_images_are_the_frames_of_pil(pipe, cameras):
    call = {"num_inference_steps": 1, "hooks": []}
    out = pipe("a mug", cameras, **call)
    assert out.images is out.frames
    with pytest.raises(MVCustomError, match="output_type='pil'"):
        _ = pipe("a mug", cameras, output_type="np", **call).images


def test_tuple_output(pipe, cameras):
    call = {"num_inference_steps": 2, "output_type": "latent"}
    as_tuple = pipe("a mug", cameras, generator=torch.Generator().manual_seed(0), return_dict=False, **call)
    as_output = pipe("a mug", cameras, generator=torch.Generator().manual_seed(0), **call)
    assert torch.equal(as_tuple[0], as_output.frames)
    assert as_output.cameras.allclose(cameras)
    assert as_output.anchors == (1,)
    assert as_output.anchor_depth.shape == (1, 1, 64, 64)


def test_callbacks_see_and_change_tensors(pipe, run):
    seen = []

    def callback(pipe, index, timestep, given):
        seen.append((index, int(timestep), sorted(given)))
        given["latents"] = given["latents"] * (0.0 if index == 2 else 1.0)
        return given

    views = run(
        pipe,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "negative_prompt_embeds"],
    )
    assert [index for index, _, _ in seen] == [0, 1, 2]
    assert seen[0][2] == ["latents", "negative_prompt_embeds", "prompt_embeds"]
    assert views.abs().max() == 0


def test_guidance_cutoff_callback_of_diffusers(pipe, run):
    cut = run(pipe, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0), hooks=[])
    plain = run(pipe, hooks=[])
    assert not torch.allclose(cut, plain)


def test_interrupt(pipe, run):
    steps = []

    def callback(pipe, index, timestep, given):
        steps.append(index)
        pipe._interrupt = True
        return given

    run(pipe, callback_on_step_end=callback)
    assert steps == [0]


def test_split_guidance_gives_the_same_views(pipe, run):
    depth = torch.full((8, 8), 0.9)  # an estimated depth turns rounding into other triangles
    together, apart = (run(pipe, anchor_depth=depth, split_guidance=split) for split in (False, True))
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)


def test_decode_chunks_do_not_matter(pipe, run):
    whole = run(pipe, output_type="pt")
    torch.testing.assert_close(run(pipe, output_type="pt", decode_chunk_size=1), whole, rtol=1e-4, atol=1e-4)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    torch.testing.assert_close(run(pipe, output_type="pt"), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [1, 3])
def test_attention_slicing(pipe, run, window):
    pipe.set_attention_window(window)
    expected = run(pipe, hooks=[])
    pipe.enable_attention_slicing()
    torch.testing.assert_close(run(pipe, hooks=[]), expected, rtol=1e-3, atol=1e-3)


def test_layers_offloaded_one_by_one(make_pipe, run):
    expected = run(make_pipe())
    pipe = make_pipe()
    for component in (pipe.unet, pipe.vae):
        accelerate.cpu_offload(component, execution_device="cpu")
    torch.testing.assert_close(run(pipe), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"]
)
def test_schedulers_with_hooks(pipe, run, scheduler):
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    views, bare = run(pipe), run(pipe, hooks=[])
    assert views.isfinite().all()
    assert not torch.allclose(views, bare)


def test_progress_bars_for_preview_denoise_and_decode(make_pipe, run, capsys):
    pipe = make_pipe()
    pipe.set_progress_bar_config(disable=False)
    run(pipe, output_type="pil")
    printed = capsys.readouterr().err
    assert all(name in printed for name in ("preview", "denoise", "decode"))


def test_components_stay_as_they_were(pipe, run):
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    config = dict(pipe.scheduler.config)
    run(pipe)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert dict(pipe.scheduler.config) == config
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_arguments_have_diffusers_names():
    arguments = inspect.signature(MVCustomPipeline.__call__).parameters
    stock = inspect.signature(diffusers.AnimateDiffPipeline.__call__).parameters
    renamed = {"num_videos_per_prompt", "num_frames", "kwargs"}
    assert set(stock) - renamed <= set(arguments)
    assert arguments["guidance_scale"].default == 5.0


def test_both_hooks_alone_and_together_change_the_views(pipe, run):
    hooks = [DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion(end=0.7)]
    results = [run(pipe, hooks=chosen) for chosen in ([], hooks[:1], hooks[1:], hooks)]
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert not torch.allclose(first, second)


def test_a_motion_adapter_takes_the_place_of_the_models_own_motion_modules(make_pipe, tmp_path):
    pipe = make_pipe()
    pipe.save_pretrained(tmp_path / "model")
    _, adapter = random_unet2d_and_motion_adapter("tiny", seed=5)
    loaded = MVCustomPipeline.from_pretrained(tmp_path / "model", motion_adapter=adapter)
    given, own = adapter.state_dict(), pipe.unet.state_dict()
    for name, weight in loaded.unet.state_dict().items():
        assert torch.equal(weight, given[name] if name in given else own[name]), name
    assert any(not torch.equal(given[name], own[name]) for name in given)
    other = MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=1, motion_num_attention_heads=2)
    with pytest.raises(MVCustomError, match="motion_adapter: it does not fit the model's U-Net"):
        MVCustomPipeline.from_pretrained(tmp_path / "model", motion_adapter=other)


def test_a_motion_adapter_that_does_not_fit_changes_nothing(pipe):
    _, other = random_unet2d_and_motion_adapter("tiny", seed=5)
    settings = {**other.config, "motion_max_seq_length": other.config.motion_max_seq_length + 1}
    longer = MotionAdapter.from_config(settings)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    with pytest.raises(MVCustomError, match="does not fit the model"):
        pipe.load_motion_adapter(longer)
    with torch.no_grad():
        other.mid_block.motion_modules[0].proj_out.weight = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(MVCustomError, match="does not fit the model"):
        pipe.load_motion_adapter(other)
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())
