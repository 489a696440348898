"""Bad input is refused by an error that names the argument, before any model runs."""

import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PNDMScheduler

from diffusers_mvcustom import Cameras, DepthAwareFeatureRendering, MVCustomError, save_cameras
from diffusers_mvcustom.toy import random_unet2d_and_motion_adapter


@pytest.fixture
def refused(pipe, cameras):
    """Asserts that a call is refused with a message, and that no model ran."""

    def refused(match, **call):
        ran = []
        handles = [
            model.register_forward_pre_hook(lambda *_: ran.append(True))
            for model in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.depth_estimator)
        ]
        try:
            with pytest.raises(ValueError, match=match):
                pipe(**{"prompt": "a mug", "cameras": cameras, "num_inference_steps": 2, **call})
        finally:
            for handle in handles:
                handle.remove()
        assert not ran

    return refused


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("cameras", {"cameras": None}),
        ("camera_convention", {"cameras": torch.eye(4)[None]}),
        ("camera_convention", {"camera_convention": "opencv"}),
        (r"Cameras.cat\(list\) joins them", {"cameras": [Cameras.orbit(2), Cameras.orbit(2)]}),
        ("cameras: expected Cameras, got 3", {"cameras": 3}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": ["a mug", 3]}),
        ("height, width", {"height": 63}),
        ("num_inference_steps", {"num_inference_steps": 0}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("reference_guidance_scale", {"reference_guidance_scale": 3.0}),
        ("pose_guidance_start", {"pose_guidance_start": 0.8, "pose_guidance_end": 0.2}),
        ("anchor", {"anchor": 7}),
        ("anchor", {"anchor": [0, 0]}),
        ("decode_chunk_size", {"decode_chunk_size": 0}),
        ("anchor_depth", {"anchor_depth": torch.ones(2, 2, 8, 8)}),
        ("anchor_depth", {"anchor_depth": torch.zeros(8, 8)}),
        ("latents", {"latents": torch.zeros(1, 4, 3, 4, 4)}),
        ("latents: expected a tensor", {"latents": np.zeros((1, 4, 3, 16, 16))}),
        ("latents: expected finite", {"latents": torch.full((1, 4, 3, 16, 16), float("nan"))}),
        ("generator: expected a torch.Generator", {"generator": 0}),
        ("generator: expected one, or 1", {"generator": [torch.Generator()] * 2}),
        ("num_inference_steps: expected at most the 1000", {"num_inference_steps": 2000}),
        ("cross_attention_kwargs", {"cross_attention_kwargs": {"scale": "x"}}),
        ("cross_attention_kwargs", {"cross_attention_kwargs": 0.5}),
        (
            "prompt_embeds: expected finite",
            {"prompt": None, "prompt_embeds": torch.full((1, 77, 32), float("nan")), "guidance_scale": 1.0},
        ),
        ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["timesteps"]}),
    ],
)
def test_arguments_are_named(refused, match, call):
    refused(match, **call)


def test_more_cameras_than_the_motion_modules_know(refused):
    refused("at most 32 cameras", cameras=Cameras.orbit(33, height=64, width=64))


def test_missing_camera_file(refused, tmp_path):
    refused("nothing.json", cameras=tmp_path / "nothing.json")


def test_a_camera_file_has_intrinsics_and_may_have_other_axes(pipe, refused, cameras, tmp_path):
    save_cameras(tmp_path / "t.json", cameras)
    refused("camera_intrinsics: only for poses", cameras=tmp_path / "t.json", camera_intrinsics=torch.eye(3))
    refused("convention", cameras=tmp_path / "t.json", camera_convention="nonsense")
    content = json.loads((tmp_path / "t.json").read_text())
    for frame in content["frames"]:
        for row in frame["transform_matrix"]:
            row[1:3] = [-row[1], -row[2]]
    (tmp_path / "opencv.json").write_text(json.dumps(content))
    out = pipe(
        "a mug",
        cameras=tmp_path / "opencv.json",
        camera_convention="opencv",
        num_inference_steps=1,
        output_type="latent",
        hooks=[],
    )
    assert out.cameras.allclose(cameras, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "match"),
    [
        (PNDMScheduler(skip_prk_steps=True), "one model call a step, got PNDM"),
        (FlowMatchEulerDiscreteScheduler(), "scheduler: expected one that starts from scaled noise"),
    ],
)
def test_schedulers_that_do_not_fit(pipe, refused, scheduler, match):
    pipe.scheduler = scheduler
    refused(match)


def test_noise_of_another_precision_is_taken(pipe, cameras):
    noise = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).half()
    call = {"num_inference_steps": 1, "output_type": "latent", "hooks": []}
    assert torch.equal(
        pipe("a mug", cameras, latents=noise, **call).frames,
        pipe("a mug", cameras, latents=noise.float(), **call).frames,
    )


def test_hooks_are_a_list_of_hooks(pipe, cameras):
    for use in (lambda hooks: pipe("a mug", cameras, hooks=hooks), pipe.set_hooks):
        with pytest.raises(MVCustomError, match="hooks: expected a list of hooks, got a single DepthAwareFeature"):
            use(DepthAwareFeatureRendering())
        with pytest.raises(MVCustomError, match="hooks: expected instances of DenoisingHook, got 'dfr'"):
            use(["dfr"])


def test_hooks_need_depth(make_pipe, cameras):
    pipe = make_pipe(depth_estimator=None, depth_image_processor=None)
    assert pipe.hooks == ()
    with pytest.raises(MVCustomError, match="depth_estimator"):
        pipe("a mug", cameras, hooks=[DepthAwareFeatureRendering()])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"start": -0.1}, "start"),
        ({"start": 0.6, "end": 0.5}, "start <= end"),
        ({"layers": "("}, "regular expression"),
        ({"steps": 3}, "unknown settings"),
    ],
)
def test_hook_settings(settings, match):
    with pytest.raises(MVCustomError, match=match):
        DepthAwareFeatureRendering.from_dict(settings)


def test_layers_that_name_nothing(pipe, run):
    with pytest.raises(MVCustomError, match="names no motion module"):
        run(pipe, hooks=[DepthAwareFeatureRendering(layers="nothing")])


def test_pipeline_settings(make_pipe):
    with pytest.raises(MVCustomError, match="motion_adapter"):
        make_pipe(unet=random_unet2d_and_motion_adapter("tiny")[0])
    with pytest.raises(MVCustomError, match="unknown hooks"):
        make_pipe(denoising_hooks={"nothing": {}})
    with pytest.raises(MVCustomError, match="AnchorSettings"):
        make_pipe(anchor={"frame": 1})
    with pytest.raises(MVCustomError, match="enable_free_noise"):
        make_pipe().enable_free_noise()
