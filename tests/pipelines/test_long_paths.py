"""More views than go through the U-Net together: windows that go on from what is there already."""

from dataclasses import dataclass

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from diffusers_mvcustom import (
    AnchorSettings,
    Cameras,
    ConsistentAwareLatentCompletion,
    DenoisingHook,
    DepthAwareFeatureRendering,
    MVCustomError,
    ReferenceViews,
    SubjectAdapter,
)
from diffusers_mvcustom.hooks import KnownViews
from diffusers_mvcustom.pipelines.subject_features import SubjectFeatures, SubjectOfWindows

VIEWS = 7
WINDOWS = [(2, 3, 4), (0, 1, 2), (4, 5, 6)]  # what goes through the U-Net together, three at a time


@pytest.fixture
def path():
    return Cameras.orbit(VIEWS, azimuth=(-30, 30), elevation=15, height=64, width=64)


@pytest.fixture
def unet_calls(pipe):
    """The number of frames of every U-Net call, as they happen."""
    calls = []
    handle = pipe.unet.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[2]))
    yield calls
    handle.remove()


@pytest.fixture
def make_subject():
    def make(pipe):
        generator = torch.Generator().manual_seed(0)
        photos = torch.rand(3, 3, 64, 64, generator=generator)
        subject = SubjectAdapter.create(
            pipe.unet,
            ReferenceViews(photos, Cameras.orbit(3, height=64, width=64)),
            "<it>",
            "mug",
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
        )
        for name, parameter in subject.named_parameters():
            if "projection" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        return subject

    return make


def test_with_room_for_all_views_it_is_a_plain_call_bit_for_bit(pipe, run, make_subject):
    pipe.load_subject(make_subject(pipe))
    hooks = [DepthAwareFeatureRendering(), ConsistentAwareLatentCompletion(end=0.7)]
    plain = run(pipe, "a <it> mug", hooks=hooks)
    for views_at_a_time in (3, 16, 100):
        assert torch.equal(run(pipe, "a <it> mug", hooks=hooks, views_at_a_time=views_at_a_time), plain)


def test_windows_go_on_from_views_that_stay_as_they_are(pipe, run, path, unet_calls):
    call = {"hooks": [DepthAwareFeatureRendering()], "num_inference_steps": 4}
    views = run(pipe, cameras=path, views_at_a_time=3, **call)
    assert views.shape[2] == VIEWS
    assert views.isfinite().all()
    preview = pipe.anchor.preview_steps(4)
    assert unet_calls == [3] * (preview + 4) + [3] * 4 + [3] * 4
    alone = run(pipe, cameras=path[2:5], latents=noise()[:, :, 2:5], **call)
    torch.testing.assert_close(views[:, :, 2:5], alone, rtol=1e-4, atol=1e-4)  # the first window is a call of its own


def noise():
    return torch.randn(1, 4, VIEWS, 16, 16, generator=torch.Generator().manual_seed(0))


def test_views_that_are_handed_over_do_not_change(pipe, run, path):
    handed_over = {}

    def keep(pipe, index, timestep, tensors):
        if index == 2:
            handed_over[len(handed_over)] = tensors["latents"]
        return tensors

    views = run(pipe, cameras=path, views_at_a_time=3, callback_on_step_end=keep)
    for window, latents in zip(WINDOWS, handed_over.values()):
        assert torch.equal(latents, views[:, :, list(window)])


def test_later_windows_depend_on_what_they_go_on_from(pipe, run, path):
    first, second = noise(), noise()
    second[:, :, 3] += 1.0  # a view of the first window that no other window holds
    views = [run(pipe, cameras=path, views_at_a_time=3, hooks=[], latents=latents) for latents in (first, second)]
    for frame in range(VIEWS):
        assert not torch.allclose(views[0][:, :, frame], views[1][:, :, frame])


def test_every_camera_of_the_subject_is_rendered_once(pipe, run, path, make_subject):
    pipe.load_subject(make_subject(pipe))
    rendered, looked = [], []
    conditioner = pipe.subject.conditioner(pipe.subject.block_names[0])
    handles = [
        conditioner.feature_nerf.register_forward_hook(lambda module, args, output: rendered.append(args[3][0])),
        pipe.vae.encoder.register_forward_hook(lambda *_: looked.append(True)),
    ]
    with_subject = run(pipe, "a <it> mug", cameras=path, views_at_a_time=3, hooks=[])
    for handle in handles:
        handle.remove()
    centers = torch.cat(rendered)[:, :3, 3]
    assert len(centers) == VIEWS
    assert torch.cdist(centers, path.centers).min(dim=0).values.max() < 1e-5
    assert len(looked) == len(pipe.subject.references)
    without = run(pipe, "a <it> mug", cameras=path, views_at_a_time=3, hooks=[], pose_guidance_start=1.0)
    assert not torch.allclose(without, with_subject)


@torch.no_grad()
def test_a_window_sees_the_subject_as_all_views_at_once_do(pipe, path, make_subject):
    pipe.load_subject(make_subject(pipe))
    embeds, _ = pipe.encode_prompt("a <it> mug", "cpu", 1, False)
    expected = SubjectFeatures.of(pipe.render_subject(embeds, path))
    windows = SubjectOfWindows(pipe.subject_renderer(embeds, (64, 64)), path)
    needed_later = [{2, 4}, {4}, set()]
    for i, frames in enumerate(WINDOWS):
        features = windows.of_window(frames, needed_later[i], last=i == 2)
        for name, states in features.features.items():
            torch.testing.assert_close(states, expected.features[name][:, list(frames)], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.depth, expected.depth[list(frames)], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.opacity, expected.opacity[list(frames)], rtol=1e-4, atol=1e-5)


def test_depth_is_estimated_once_per_anchor(pipe, path):
    estimated = []
    handle = pipe.depth_estimator.register_forward_hook(
        lambda module, args, kwargs, output: estimated.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    out = pipe(["a mug", "a car"], path, num_inference_steps=2, views_at_a_time=3)
    handle.remove()
    assert out.anchors == (3, 2, 4)
    assert out.anchor_depth.shape == (2, 3, 64, 64)
    assert estimated == [2, 2, 2]


def test_depth_of_a_view_that_is_handed_over_fits_the_first_anchors(pipe, path):
    medians = {}
    for distance in (0.5, 1.5):
        call = {"num_inference_steps": 2, "views_at_a_time": 3, "anchor_depth": torch.full((16, 16), distance)}
        out = pipe("a mug", path, generator=torch.Generator().manual_seed(0), **call)
        assert (out.anchor_depth[0, 0] == distance).all()
        medians[distance] = out.anchor_depth[0, 1:].flatten(1).median(dim=1).values
    # Alone they would have the cameras' distance of 1 as their median.
    assert ((medians[0.5] > 0.4) & (medians[0.5] < 0.65)).all()
    assert ((medians[1.5] > 1.2) & (medians[1.5] < 1.9)).all()


def test_the_first_anchor_can_stay_through_all_windows(pipe, path, unet_calls):
    anchor = AnchorSettings(keep_first=True)
    out = pipe("a mug", path, num_inference_steps=2, views_at_a_time=3, anchor=anchor)
    assert out.anchors == (3, 2, 4)
    assert unet_calls == [3] * (anchor.preview_steps(2) + 2) + [4] * 4


def test_without_a_depth_model(make_pipe, run, path):
    pipe = make_pipe(depth_estimator=None, depth_image_processor=None)
    plain = run(pipe, cameras=path, views_at_a_time=3)
    assert plain.isfinite().all()
    hooks = [DepthAwareFeatureRendering(end=1.0)]
    seen = []

    def note(pipe, index, timestep, tensors):
        seen.append(tensors["latents"].shape[2])
        return tensors

    depth = torch.full((64, 64), 0.8)
    views = run(pipe, cameras=path, views_at_a_time=3, hooks=hooks, anchor_depth=depth, callback_on_step_end=note)
    assert seen == [3] * 3 + [4] * 6  # the anchor whose depth is given goes through every window
    for frame in (0, 6):
        assert not torch.allclose(views[:, :, frame], plain[:, :, frame])


def test_every_window_is_guided_as_a_call_of_its_own(pipe, run, path):
    rows = []
    handle = pipe.unet.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    callback = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    run(pipe, cameras=path, views_at_a_time=3, hooks=[], num_inference_steps=4, callback_on_step_end=callback)
    handle.remove()
    assert rows == [2, 2, 2, 1] * 3


def test_a_batch_and_its_generators(pipe, run, path):
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = run(pipe, ["a mug", "a car"], cameras=path, views_at_a_time=3, hooks=[], generator=generators)
    for i, (prompt, seed) in enumerate((("a mug", 3), ("a car", 4))):
        single = run(pipe, prompt, cameras=path, views_at_a_time=3, hooks=[], seed=seed)
        torch.testing.assert_close(both[i : i + 1], single, rtol=1e-3, atol=1e-3)


def test_the_output_is_that_of_a_plain_call(pipe, path, tmp_path):
    out = pipe("a mug", path, num_inference_steps=1, views_at_a_time=3, decode_chunk_size=2)
    assert len(out.frames[0]) == VIEWS
    assert out.cameras.allclose(path)
    out.save(tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == VIEWS
    (views,) = pipe("a mug", path, num_inference_steps=1, views_at_a_time=3, output_type="np", return_dict=False)
    assert views.shape == (1, VIEWS, 64, 64, 3)


def test_images_anywhere_on_the_path(pipe, run, path, unet_calls):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    views = run(pipe, cameras=path, views_at_a_time=3, anchor=[0, 5], anchor_image=images)
    encoded = pipe.vae.encode(images * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(views[0, :, [0, 5]].transpose(0, 1), encoded, rtol=0, atol=1e-5)
    assert len(unet_calls) == 3 * 3  # no preview at all


def test_the_progress_bar_names_the_window(pipe, run, path, capsys):
    pipe.set_progress_bar_config(disable=False)
    run(pipe, cameras=path, views_at_a_time=3, hooks=[])
    shown = capsys.readouterr().err
    assert all(f"window {i} of 3" in shown for i in (1, 2, 3))


def test_an_interrupt_ends_the_call(pipe, path):
    steps = []

    def stop(pipe, index, timestep, tensors):
        steps.append(index)
        pipe._interrupt = True
        return tensors

    views = pipe("a mug", path, views_at_a_time=3, hooks=[], output_type="latent", callback_on_step_end=stop).frames
    assert steps == [0]
    assert views.shape[2] == VIEWS


@dataclass
class AsManyCamerasAsFrames(DenoisingHook):
    """A hook of one's own, which sees one window at a time."""

    def before_step(self, run, step):
        assert run.latents.shape[2] == len(run.cameras)


def test_hooks_of_ones_own_see_one_window(pipe, run, path):
    run(pipe, cameras=path, views_at_a_time=3, hooks=[AsManyCamerasAsFrames()])


def test_what_does_not_fit_is_refused(pipe, unet_calls):
    many = Cameras.orbit(40, height=64, width=64)
    with pytest.raises(MVCustomError, match="views_at_a_time=16"):
        pipe("a mug", many)
    with pytest.raises(MVCustomError, match="views_at_a_time: expected at most 32"):
        pipe("a mug", many, views_at_a_time=33)
    with pytest.raises(MVCustomError, match="views_at_a_time: expected a whole number"):
        pipe("a mug", many, views_at_a_time=0)
    hook = KnownViews(frames=(0,), latents=torch.zeros(1, 4, 1, 16, 16))
    with pytest.raises(MVCustomError, match="KnownViews"):
        pipe("a mug", many, views_at_a_time=16, hooks=[hook])
    assert not unet_calls
