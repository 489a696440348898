"""An image as the anchor: its view comes back, the others are made around it, and no preview runs."""

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.pipelines.anchor_images import resolve_anchor_images

SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, LCMScheduler]


def random_image(seed=0, size=(64, 64)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@torch.no_grad()
def reconstruction(pipe, image):
    """The image through the autoencoder, `(3, H, W)` in [0, 1]."""
    latents = pipe.vae.encode(as_tensor(image)[None] * 2 - 1).latent_dist.mode()
    return ((pipe.vae.decode(latents).sample[0] + 1) / 2).clamp(0, 1)


@pytest.fixture
def unet_calls(pipe):
    """The frames of every U-Net call, as they happen."""
    calls = []
    handle = pipe.unet.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[2]))
    yield calls
    handle.remove()


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_anchors_view_is_the_image(pipe, run, kind, unet_calls):
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    image = random_image()
    views = run(pipe, anchor=2, anchor_image=image, num_inference_steps=4, output_type="pt")
    torch.testing.assert_close(views[0, 2], reconstruction(pipe, image), rtol=0, atol=1e-4)
    assert len(unet_calls) == 4  # the steps alone: there was no preview


def test_without_an_image_there_is_a_preview(pipe, run, unet_calls):
    run(pipe, num_inference_steps=4)
    assert len(unet_calls) == 4 + pipe.anchor.preview_steps(4)


def test_the_other_views_depend_on_the_image(pipe, run):
    first, second = (run(pipe, hooks=[], anchor=0, anchor_image=random_image(seed)) for seed in (0, 1))
    assert not torch.allclose(first[:, :, 1:], second[:, :, 1:])  # by attention alone
    with_hooks = run(pipe, anchor=0, anchor_image=random_image(0))
    assert not torch.allclose(first[:, :, 1:], with_hooks[:, :, 1:])


def test_depth_is_estimated_on_the_image(pipe, cameras, unet_calls):
    image = random_image()
    seen = []
    handle = pipe.depth_estimator.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    out = pipe("a mug", cameras, num_inference_steps=2, anchor=1, anchor_image=image)
    handle.remove()
    expected = pipe.depth_image_processor(images=[np.array(image)], return_tensors="pt")["pixel_values"]
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected)
    assert out.anchors == (1,)
    assert out.anchor_depth.shape == (1, 1, 64, 64)
    given = torch.full((8, 8), 0.7)
    out = pipe("a mug", cameras, num_inference_steps=2, anchor=1, anchor_image=image, anchor_depth=given)
    assert torch.equal(out.anchor_depth, given[None, None])


def test_several_anchors_and_a_batch(pipe, run):
    images = [[random_image(10 * prompt + anchor) for anchor in range(2)] for prompt in range(2)]
    views = run(
        pipe, ["a mug", "a car"], anchor=[2, 0], anchor_image=images, num_images_per_prompt=2, output_type="pt"
    )
    assert views.shape[0] == 4
    for row, views_of_row in zip([images[0], images[0], images[1], images[1]], views):
        for frame, image in zip((2, 0), row):
            torch.testing.assert_close(views_of_row[frame], reconstruction(pipe, image), rtol=0, atol=1e-4)


def test_free_init_keeps_the_image(pipe, run):
    pipe.enable_free_init(num_iters=2)
    image = random_image()
    views = run(pipe, anchor=1, anchor_image=image, output_type="pt")
    torch.testing.assert_close(views[0, 1], reconstruction(pipe, image), rtol=0, atol=1e-4)


def test_a_single_view(pipe, run):
    image = random_image()
    views = run(pipe, cameras=Cameras.orbit(1, height=64, width=64), anchor_image=image, output_type="pt")
    torch.testing.assert_close(views[0, 0], reconstruction(pipe, image), rtol=0, atol=1e-4)


def test_a_view_that_is_not_square(pipe, run):
    image = random_image(size=(48, 80))
    views = run(pipe, cameras=Cameras.orbit(3, height=48, width=80), anchor=0, anchor_image=image, output_type="pt")
    torch.testing.assert_close(views[0, 0], reconstruction(pipe, image), rtol=0, atol=1e-4)


def resolve(given, prompts=1, per_prompt=1, anchors=1):
    return resolve_anchor_images(
        given, num_prompts=prompts, num_images_per_prompt=per_prompt, num_anchors=anchors, height=64, width=64
    )


def test_every_accepted_form_is_the_same_images(tmp_path):
    images = [random_image(seed) for seed in range(4)]
    tensors = torch.stack([as_tensor(image) for image in images])
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, images):
        image.save(path)
    for one in (images[0], tensors[0], paths[0], str(paths[0]), [images[0]], [[images[0]]]):
        assert torch.equal(resolve(one), tensors[None, :1])
    assert torch.equal(resolve(images[0], prompts=2, per_prompt=2), tensors[:1].expand(4, 1, -1, -1, -1))
    for two in (images[:2], tensors[:2], paths[:2], [images[0], tensors[1]]):
        assert torch.equal(resolve(two, anchors=2), tensors[None, :2])
        assert torch.equal(resolve(two, prompts=2, anchors=2), tensors[None, :2].expand(2, -1, -1, -1, -1))
        assert torch.equal(resolve(two, prompts=2), tensors[:2, None])  # one anchor: one per prompt
    for four in ([images[:2], images[2:]], tensors.unflatten(0, (2, 2))):
        assert torch.equal(resolve(four, prompts=2, anchors=2), tensors.unflatten(0, (2, 2)))
    assert torch.equal(
        resolve([[image] for image in images[:2]], prompts=2, per_prompt=2), tensors[[0, 0, 1, 1], None]
    )


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (random_image(size=(64, 32)), "64 × 64.*got 32 × 64"),
        (torch.rand(3, 63, 64), "got 64 × 63"),
        (torch.rand(4, 64, 64), "expected RGB"),
        (torch.rand(64, 64), "expected a tensor of shape"),
        (torch.rand(3, 64, 64) * 2, r"values in \[0, 1\]"),
        (torch.randint(0, 255, (3, 64, 64)), "floating dtype"),
        ([random_image()] * 3, "got a list of 3"),
        ([[random_image()], [random_image()] * 2], "one image per anchor frame"),
        ([], "one image per anchor frame"),
        ("nothing.png", "'nothing.png' cannot be read"),
        ([None], "got NoneType"),
    ],
)
def test_other_images_are_refused_before_any_model_runs(pipe, cameras, unet_calls, given, match):
    encoded = []
    handle = pipe.text_encoder.register_forward_pre_hook(lambda *_: encoded.append(True))
    with pytest.raises(MVCustomError, match=match):
        pipe("a mug", cameras, anchor=0, anchor_image=given)
    handle.remove()
    assert not unet_calls
    assert not encoded


def test_an_image_needs_a_frame_that_exists(pipe, cameras):
    with pytest.raises(MVCustomError, match="anchor"):
        pipe("a mug", cameras, hooks=[], anchor=3, anchor_image=random_image())
