"""The backbone trainer end to end on tiny components: what it trains, with which window, what it writes, what it refuses."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, AutoencoderTiny, MotionAdapter, UNetMotionModel
from PIL import Image
from safetensors.torch import load_file
from training.backbone_small import SMALL, reset_accelerate, write_moving_squares

from diffusers_mvcustom import Cameras, MVCustomPipeline
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.models.motion_transformer import motion_bypassed
from diffusers_mvcustom.training import BackboneTrainer, BackboneTrainingConfig, fresh_motion_adapter
from diffusers_mvcustom.training.backbone_parts import clip_size, extract_motion_adapter
from diffusers_mvcustom.training.backbone_validation import held_out_loss
from diffusers_mvcustom.training.checkpoints import load_checkpoint
from diffusers_mvcustom.training.clip_geometry import GEOMETRY_SUFFIX, ClipGeometry
from diffusers_mvcustom.training.records import read_records
from diffusers_mvcustom.training.video_clips import VideoClips


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_moving_squares(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def make_backbone_trainer(videos, make_components, tmp_path):
    """Builds a trainer with other settings than the small ones, on fresh tiny components (of seed 0)."""

    def make(pipe=None, command="", **settings):
        reset_accelerate()
        config = BackboneTrainingConfig(
            **{**SMALL, "data": str(videos), "output_dir": str(tmp_path / "out"), **settings}
        )
        if pipe is None:
            pipe = MVCustomPipeline(**make_components("tiny", depth_estimator=False))
        return BackboneTrainer(config, pipe, command=command)

    return make


def losses_of(folder):
    return [row["loss"] for row in read_records(folder)]


def all_weights(pipe):
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


# --- what is trained, and how ---


def test_only_motion_modules_change(make_backbone_trainer):
    trainer = make_backbone_trainer()
    before = all_weights(trainer.pipe)
    trainer.train()
    after = all_weights(trainer.pipe)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    motion = {name for name in before if "motion_modules" in name and not name.endswith(".pe")}
    assert changed == motion
    assert len(motion) > 100


def test_nothing_is_left_behind(make_backbone_trainer):
    trainer = make_backbone_trainer(gradient_checkpointing=True)
    trainer.train()
    unet = trainer.pipe.unet
    assert not any(weight.requires_grad for weight in unet.parameters())
    assert not unet.training
    assert not unet.is_gradient_checkpointing
    assert trainer.pipe.config.attention_window == 3
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in unet.modules())


def positions_reached(attention, arguments, keywords, position, size):
    """Positions whose output changes when the tokens of one position do: by the attention itself, run twice."""
    hidden_states = arguments[0].detach()  # [B * h * w, F, C]
    changed = hidden_states.clone()
    changed[position[0] * size[1] + position[1]] += 1.0
    with torch.no_grad():
        difference = (attention(changed, **keywords) - attention(hidden_states, **keywords)).abs().amax(dim=(1, 2))
    reached = difference.unflatten(0, (-1, *size))[0] > 0
    return {tuple(place) for place in reached.nonzero().tolist()}


def test_the_window_of_the_schedule_is_what_attention_reaches(make_backbone_trainer):
    trainer = make_backbone_trainer(window_schedule=[(0, 1), (1, 3), (2, 5), (3, None)])
    trainer._set_up()
    attention = trainer.pipe.unet.down_blocks[0].motion_modules[0].transformer_blocks[0].attn1
    height, width = size = (8, 8)  # of the latents of 32 × 32 pixels
    calls = []
    handle = attention.register_forward_hook(lambda *call: calls.append(call[1:3]), with_kwargs=True)
    reached = []
    for _ in range(4):
        trainer._update()
        trainer.step += 1
        handle.remove()
        arguments, keywords = calls[-1]
        assert arguments[0].shape[0] == 2 * height * width
        reached.append(positions_reached(attention, arguments, keywords, (3, 4), size))
        handle = attention.register_forward_hook(lambda *call: calls.append(call[1:3]), with_kwargs=True)
    handle.remove()

    def square(radius):
        return {(y, x) for y in range(height) for x in range(width) if max(abs(y - 3), abs(x - 4)) <= radius}

    assert reached == [square(0), square(1), square(2), square(8)]


def test_the_loss_falls_on_a_moving_pattern(make_backbone_trainer):
    trainer = make_backbone_trainer(
        max_train_steps=30, holdout=2, learning_rate=3e-3, window_schedule=[(0, 1), (0.5, 3)], checkpointing_steps=30
    )
    trainer._set_up()
    trainer.training_model.eval()
    before = held_out_loss(trainer.training_model, trainer.batches, trainer._held_out_clips())
    trainer.loader.close()
    trainer = make_backbone_trainer(**{**vars(trainer.config)})
    trainer.train()
    record = json.loads((trainer.output / "motion_adapter" / "training.json").read_text())
    assert record["validation_loss"] < 0.8 * before
    losses = losses_of(trainer.output)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_loss_is_the_mean_square_of_the_noise_that_is_missed(make_backbone_trainer):
    """Clip by clip, with the noise added by hand."""
    trainer = make_backbone_trainer(image_share=0.5, train_batch_size=6, snr_gamma=5.0)
    trainer._set_up()
    (clips, images) = trainer.batches([trainer.clips[number] for number in range(6)])
    assert clips.latents.shape[2] == 4
    assert images.latents.shape[2] == 1
    model = trainer.training_model
    alphas = model.scheduler.alphas_cumprod
    expected = []
    for group in (clips, images):
        for n, t in enumerate(group.timesteps.tolist()):
            latents, noise = group.latents[n], group.noise[n]
            noisy = alphas[t] ** 0.5 * latents + (1 - alphas[t]) ** 0.5 * noise
            states = torch.stack([group.text_states[n]] * latents.shape[1])
            with torch.no_grad():
                predicted = model.unet(noisy[None], t, encoder_hidden_states=states).sample[0]
            snr = alphas[t] / (1 - alphas[t])
            expected.append((predicted - noise).square().mean() * min(snr, 5.0) / snr)
    values = model([clips, images])
    assert values["loss"].item() == pytest.approx(sum(expected).item() / 6, rel=1e-5)
    assert values["image"].item() == pytest.approx(sum(expected[len(clips.latents) :]).item() / 6, rel=1e-5)
    values["loss"].backward()
    assert all(weight.grad is not None for weight in trainer.trained.values())


def test_samples_do_not_depend_on_their_batch(make_backbone_trainer):
    trainer = make_backbone_trainer(noise_offset=0.1)
    trainer._set_up()
    samples = [trainer.clips[number] for number in range(5)]
    (together,) = trainer.batches(samples)
    assert len(together.timesteps.unique()) > 1
    for n, sample in enumerate(samples):
        (alone,) = trainer.batches([sample])
        assert torch.equal(alone.noise[0], together.noise[n])
        assert alone.timesteps[0] == together.timesteps[n]
        assert torch.allclose(alone.latents[0], together.latents[n], atol=1e-5)
    again = make_backbone_trainer(seed=1)
    again._set_up()
    (other,) = again.batches(samples)
    assert not torch.equal(other.noise, together.noise)


def test_noise_offset_is_shared_by_frames_and_positions(make_backbone_trainer):
    trainer = make_backbone_trainer(noise_offset=3.0)
    trainer._set_up()
    (with_offset,) = trainer.batches([trainer.clips[number] for number in range(8)])
    trainer.batches.noise_offset = 0.0
    (without,) = trainer.batches([trainer.clips[number] for number in range(8)])
    offset = with_offset.noise - without.noise
    assert torch.allclose(offset, offset.mean(dim=(2, 3, 4), keepdim=True).expand_as(offset), atol=1e-5)
    # 32 draws of a normal number times 3: their standard deviation is within a third of 3 (more than 2.5 deviations).
    assert offset.mean(dim=(2, 3, 4)).std().item() == pytest.approx(3.0, rel=0.34)


def add_geometry(videos, folder, names):
    """A copy of the videos, some with the geometry of a wall that the camera moves past by two latents a frame."""
    shutil.copytree(videos, folder)
    cameras = Cameras.from_focal(torch.eye(4).repeat(8, 1, 1), 8.0, height=16, width=16)
    cameras.camera_to_world[:, 0, 3] = torch.arange(8) / 4
    for name in names:
        ClipGeometry(torch.ones(8, 16, 16), cameras).save(folder / f"{name}{GEOMETRY_SUFFIX}")
    return str(folder)


def test_noise_is_carried_by_the_geometry(make_backbone_trainer, videos, tmp_path):
    data = add_geometry(videos, tmp_path / "videos", "123")
    noises = {}
    for share in (0.0, 1.0, 0.5):
        trainer = make_backbone_trainer(data=data, carried_noise=share)
        trainer._set_up()
        clips = VideoClips(trainer.clips.sources, replace(trainer.clips.settings, geometry=True))
        samples = [clips[number] for number in range(12)]
        noises[share] = [(sample, trainer.batches([sample])[0].noise[0]) for sample in samples]
        trainer.loader.close()
    carried = 0
    for (sample, plain), (_, moved), (_, some) in zip(*noises.values()):
        expected = plain if sample.geometry is None else sample.geometry.carried(plain, anchor=2)
        torch.testing.assert_close(moved, expected)
        assert torch.equal(some, moved) or torch.equal(some, plain)
        carried += sample.geometry is not None and torch.equal(some, moved)
    with_geometry = sum(sample.geometry is not None for sample, _ in noises[0.0])
    assert with_geometry == 6  # each video twice
    assert 0 < carried < with_geometry


def test_a_training_with_carried_noise_runs_and_says_so(make_backbone_trainer, videos, tmp_path, capsys):
    trainer = make_backbone_trainer(data=add_geometry(videos, tmp_path / "videos", "123"), carried_noise=0.7)
    trainer.train()
    assert "noise of 70% of 3 videos carried by their geometry" in capsys.readouterr().out
    with pytest.raises(MVCustomError, match=r"carried_noise: none of the 6 videos has a geometry; expected NAME"):
        make_backbone_trainer(carried_noise=0.7, output_dir=str(tmp_path / "other"))


def test_accumulation_and_checkpointing_change_nothing(make_backbone_trainer, tmp_path):
    short = {"max_train_steps": 2, "window_schedule": [(0, 1), (1, 3)]}
    make_backbone_trainer(train_batch_size=4, **short).train()
    variants = {
        "accumulated": {"train_batch_size": 1, "gradient_accumulation_steps": 4},
        "checkpointed": {"train_batch_size": 4, "gradient_checkpointing": True},
    }
    expected = read_records(tmp_path / "out")
    for name, settings in variants.items():
        make_backbone_trainer(**settings, **short, output_dir=str(tmp_path / name)).train()
        for row, twin in zip(read_records(tmp_path / name), expected, strict=True):
            assert row["loss"] == pytest.approx(twin["loss"], rel=1e-5), name
            assert row["gradient_norm"] == pytest.approx(twin["gradient_norm"], rel=1e-4), name


def test_bfloat16_trains_float32_weights(make_backbone_trainer):
    trainer = make_backbone_trainer(
        mixed_precision="bf16",
        holdout=1,
        validation_prompts=["a cube"],
        validation_inference_steps=2,
        max_train_steps=3,
    )
    folder = trainer.train()
    dtypes = {("motion_modules" in name, weight.dtype) for name, weight in trainer.pipe.unet.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    assert {tensor.dtype for tensor in load_file(folder / "diffusion_pytorch_model.safetensors").values()} == {
        torch.float32
    }
    assert all(math.isfinite(loss) for loss in losses_of(trainer.output))


def test_fresh_motion_modules_change_nothing_at_first(make_backbone_trainer, components, tmp_path):
    trainer = make_backbone_trainer(fresh_motion=True)
    before = all_weights(trainer.pipe)
    trainer._set_up()
    unet = trainer.pipe.unet
    video = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    states = torch.randn(3, 77, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        moving = unet(video, 500, encoder_hidden_states=states).sample
        with motion_bypassed(unet):
            still = unet(video, 500, encoder_hidden_states=states).sample
    assert torch.equal(moving, still)
    after = all_weights(trainer.pipe)
    assert all(torch.equal(before[name], after[name]) for name in before if "motion_modules" not in name)
    other = make_backbone_trainer(fresh_motion=True)
    torch.manual_seed(5)  # what was drawn before does not matter
    other._set_up()
    assert all(torch.equal(after[name], tensor) for name, tensor in all_weights(other.pipe).items())
    other.loader.close()
    other.train()
    assert losses_of(other.output)[0] > losses_of(other.output)[-1]


# --- what it writes ---


def test_the_result_is_a_stock_motion_adapter(make_backbone_trainer, make_components, tmp_path):
    from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter

    unet2d, adapter = random_unet2d_and_motion_adapter("tiny")
    parts = make_components("tiny", depth_estimator=False)
    trainer = make_backbone_trainer(
        MVCustomPipeline(**{**parts, "unet": unet2d, "motion_adapter": adapter}),
        command="accelerate launch x --y 'a b'",
    )
    folder = trainer.train()
    assert folder == tmp_path / "out" / "motion_adapter"
    assert json.loads((folder / "config.json").read_text())["attention_window"] == 3
    loaded = MotionAdapter.from_pretrained(folder)
    weights = {name: tensor for name, tensor in trainer.pipe.unet.state_dict().items() if "motion_modules" in name}
    assert weights.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    # The pipeline finds the window, and gives what the trained one gives.
    unet2d, _ = random_unet2d_and_motion_adapter("tiny")
    again = MVCustomPipeline(**{**parts, "unet": unet2d, "motion_adapter": loaded})
    assert again.config.attention_window == 3
    from diffusers_mvcustom import Cameras

    outputs = [
        pipe(
            "a red cube",
            cameras=Cameras.orbit(3, height=32, width=32),
            hooks=[],
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames
        for pipe in (trainer.pipe, again)
    ]
    assert torch.equal(*outputs)
    # It is AnimateDiff's, too.
    unet2d, _ = random_unet2d_and_motion_adapter("tiny")
    stock = AnimateDiffPipeline(**{**parts, "unet": unet2d, "motion_adapter": MotionAdapter.from_pretrained(folder)})
    assert isinstance(stock.unet, UNetMotionModel)
    card = (folder / "README.md").read_text()
    assert "accelerate launch x --y 'a b'" in card
    assert "| attention window | 3 |" in card
    record = json.loads((folder / "training.json").read_text())
    assert record["steps"] == 4
    assert record["settings"]["learning_rate"] == 1e-3
    assert record["videos"] == 6
    assert (tmp_path / "out" / "losses.png").is_file()


def test_heads_along_time_are_trained_so_and_found_again(make_backbone_trainer, make_components):
    trainer = make_backbone_trainer(temporal_heads=1)
    folder = trainer.train()
    reach = [module.temporal_heads for module in trainer.pipe.unet.modules() if hasattr(module, "temporal_heads")]
    assert reach == [1] * len(reach) != []
    adapter = MotionAdapter.from_pretrained(folder)
    assert adapter.config["temporal_heads"] == 1
    pipe = MVCustomPipeline(**make_components("tiny", depth_estimator=False))
    pipe.load_motion_adapter(adapter)
    pipe.set_attention_window("auto")
    assert (pipe.config.attention_window, pipe.config.temporal_heads) == (3, 1)
    assert "| heads along time alone | 1 of 2 |" in (folder / "README.md").read_text()


def test_more_heads_along_time_than_there_are(make_backbone_trainer, tmp_path):
    with pytest.raises(MVCustomError, match="temporal_heads: expected a number of heads from 0 to 1"):
        make_backbone_trainer(temporal_heads=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", [None, {"8": None, "4": 3}])
def test_any_window_survives_the_configuration(make_backbone_trainer, setting, tmp_path):
    trainer = make_backbone_trainer(window_schedule=[(0, 1), (2, setting)])
    folder = trainer.train()
    stored = json.loads((folder / "config.json").read_text())
    assert "attention_window" in stored
    assert stored["attention_window"] == setting
    assert MotionAdapter.from_pretrained(folder).config["attention_window"] == setting


def test_averaged_weights_are_the_ones_saved(make_backbone_trainer):
    trainer = make_backbone_trainer(use_ema=True, ema_decay=0.5, checkpointing_steps=1)
    folder = trainer.train()
    saved = load_file(folder / "diffusion_pytorch_model.safetensors")
    state = load_checkpoint(trainer.checkpoints.latest())
    names = list(trainer.trained)
    for n, name in enumerate(names):
        assert torch.equal(saved[name], state.tensors["ema"][str(n)])
        assert torch.equal(trainer.trained[name], state.tensors["weights"][name])
    assert any(not torch.equal(saved[name], trainer.trained[name]) for name in names)


def test_validation_is_the_same_for_the_same_weights_and_draws_nothing(make_backbone_trainer):
    class Bar:
        def __init__(self):
            self.lines = []

        def write(self, text):
            self.lines.append(text)

    bar = Bar()
    trainer = make_backbone_trainer(
        holdout=2, validation_prompts=["a red cube", "a blue cube"], validation_inference_steps=2
    )
    trainer._set_up()
    random_state = torch.get_rng_state()
    first, second = trainer._validate(bar), trainer._validate(bar)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert trainer.training_model.training
    assert first.loss == second.loss
    assert first.sheet().tobytes() == second.sheet().tobytes()
    assert first.sheet().size == (4 * 32, 2 * 32)
    assert "held-out videos, 2 clips generated" in bar.lines[0]
    with Image.open(trainer.output / "validation" / "step-000000-1.gif") as gif:
        assert gif.n_frames == 4
    trainer._update()
    assert trainer._validate(bar).loss != first.loss
    assert len(trainer.clips.sources) == 4
    names = {source.name for source in trainer.clips.sources}
    assert names.isdisjoint(source.name for source in trainer.held_out)


def test_validation_and_trackers_change_nothing(make_backbone_trainer, tmp_path):
    short = {"max_train_steps": 2, "window_schedule": [(0, 1)], "holdout": 1}
    make_backbone_trainer(**short).train()
    make_backbone_trainer(
        **short,
        output_dir=str(tmp_path / "watched"),
        validation_steps=1,
        validation_prompts=["a cube"],
        validation_inference_steps=1,
        report_to="tensorboard",
        num_workers=2,
    ).train()
    assert losses_of(tmp_path / "watched") == losses_of(tmp_path / "out")
    assert list((tmp_path / "watched" / "logs").rglob("events*"))


def test_cached_latents_change_nothing(make_backbone_trainer, tmp_path):
    short = {"max_train_steps": 2, "window_schedule": [(0, 1)], "random_crop": False}
    cached = {**short, "cache_latents": True, "cache_dir": str(tmp_path / "cache")}
    make_backbone_trainer(**short).train()
    first = make_backbone_trainer(**cached, output_dir=str(tmp_path / "a"))
    first.train()
    second = make_backbone_trainer(**cached, output_dir=str(tmp_path / "b"))
    second.train()
    assert first.batches.cache.encoded > 0
    assert second.batches.cache.encoded == 0
    assert losses_of(tmp_path / "a") == losses_of(tmp_path / "b")
    assert losses_of(tmp_path / "a") == pytest.approx(losses_of(tmp_path / "out"), rel=1e-4)


# --- what it refuses ---


def test_videos_that_cannot_be_read_are_named_and_counted(make_backbone_trainer, videos, tmp_path, capfd):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for n in range(3):
        (mixed / f"{n}.mkv").write_bytes((videos / f"{n}.mkv").read_bytes())
    (mixed / "broken.mp4").write_bytes(b"nothing")
    trainer = make_backbone_trainer(data=str(mixed))
    folder = trainer.train()
    assert json.loads((folder / "training.json").read_text())["skipped"] == 1
    shown = capfd.readouterr().err
    assert shown.count("skipped (1 so far): broken.mp4: cannot be decoded") == 1
    assert "1 videos could not be read and were skipped" in shown
    with pytest.raises(MVCustomError, match=r"broken\.mp4: cannot be decoded"):
        make_backbone_trainer(data=str(mixed), unreadable="refuse", output_dir=str(tmp_path / "strict")).train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 33}, r"num_frames: expected at most 32 .* got 33"),
        ({"resolution": 40}, "resolution: expected multiples of 16 for this model, got 40 × 40; try 32 × 32"),
        ({"resolution": (32, 8)}, "got 32 × 8; try 32 × 16"),
        ({"holdout": 6}, "holdout: expected fewer than the 6 videos"),
        ({"data": "/nowhere"}, "data: there is no /nowhere"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"report_to": "paper"}, "report_to: expected none, all or one of"),
    ],
)
def test_refused_before_anything_is_written(make_backbone_trainer, tmp_path, settings, message):
    with pytest.raises(MVCustomError, match=message):
        make_backbone_trainer(**settings)
    assert not (tmp_path / "out").exists()


def test_another_trainings_work_is_not_written_over(make_backbone_trainer, tmp_path):
    make_backbone_trainer().train()
    with pytest.raises(MVCustomError, match=r"holds a training already \(checkpoint-4\); go on with --resume"):
        make_backbone_trainer()
    for settings, message in (
        ({"learning_rate": 2e-3}, r"learning_rate: 0\.001 → 0\.002"),
        ({"window_schedule": [(0, 1), (3, 3)]}, "windows: "),
        ({"train_batch_size": 3}, "samples_per_step: 2 → 3"),
        ({"holdout": 1}, "holdout: 0 → 1.*videos: "),
    ):
        with pytest.raises(MVCustomError, match=f"made with other settings .*{message}"):
            make_backbone_trainer(**settings, resume_from_checkpoint="latest")
    # Batches may be cut otherwise, and with a constant learning rate there may be more steps.
    longer = make_backbone_trainer(
        train_batch_size=1, gradient_accumulation_steps=2, max_train_steps=5, resume_from_checkpoint="latest"
    )
    longer.train()
    assert [row["step"] for row in read_records(tmp_path / "out")] == [1, 2, 3, 4, 5]
    result = tmp_path / "out" / "motion_adapter" / "diffusion_pytorch_model.safetensors"
    saved = load_file(result)
    make_backbone_trainer(max_train_steps=5, resume_from_checkpoint="latest").train()  # there is nothing left to do
    assert all(torch.equal(saved[name], tensor) for name, tensor in load_file(result).items())
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
    other = tmp_path / "file"
    other.write_text("mine")
    with pytest.raises(MVCustomError, match=r"expected a folder, .*file is a file"):
        make_backbone_trainer(output_dir=str(other))


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(make_backbone_trainer):
    trainer = make_backbone_trainer()
    update = trainer._update

    def poisoned():
        if trainer.step == 3:
            with torch.no_grad():
                trainer.pipe.unet.conv_out.weight.fill_(float("nan"))
        return update()

    trainer._update = poisoned
    with pytest.raises(
        MVCustomError, match=r"step 4: loss is not finite; .* after step 3, the last good checkpoint is .*checkpoint-2"
    ):
        trainer.train()
    stored = load_checkpoint(trainer.checkpoints.latest())
    assert stored.step == 2
    assert all(tensor.isfinite().all() for tensor in stored.tensors["weights"].values())
    assert not trainer.pipe.unet.training


def test_models_that_will_not_do(make_backbone_trainer, make_components):
    parts = make_components("tiny", depth_estimator=False)
    with pytest.raises(MVCustomError, match="expected one with unet, vae"):
        make_backbone_trainer(MVCustomPipeline(**{**parts, "vae": None}))
    with pytest.raises(MVCustomError, match="expected an AutoencoderKL, got AutoencoderTiny"):
        make_backbone_trainer(MVCustomPipeline(**{**parts, "vae": AutoencoderTiny(latent_channels=4)}))


# --- parts ---


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("mid_block", [True, False])
def test_motion_modules_of_any_form_come_out_again(layers, mid_block):
    from diffusers_mvcustom.models import AttentionWindows

    unet = UNetMotionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        layers_per_block=layers,
        norm_num_groups=4,
        cross_attention_dim=8,
        num_attention_heads=2,
        motion_num_attention_heads=4,
        motion_max_seq_length=12,
        use_motion_mid_block=mid_block,
    )
    state = torch.get_rng_state()
    adapter = extract_motion_adapter(unet, AttentionWindows(5))
    assert torch.equal(torch.get_rng_state(), state)
    weights = {name: tensor for name, tensor in unet.state_dict().items() if "motion_modules" in name}
    assert all(torch.equal(tensor, weights.pop(name)) for name, tensor in adapter.state_dict().items())
    assert not weights
    assert adapter.config.motion_max_seq_length == 12
    assert adapter.config["attention_window"] == 5


def test_new_motion_modules_fit_a_2d_unet():
    from diffusers_mvcustom.toy.random_models import random_unet2d_and_motion_adapter

    unet2d, theirs = random_unet2d_and_motion_adapter("tiny")
    ours = fresh_motion_adapter(unet2d.config)
    assert {name: w.shape for name, w in ours.named_parameters()} == {
        name: w.shape for name, w in theirs.named_parameters()
    }
    assert UNetMotionModel.from_unet2d(unet2d, ours).config.motion_max_seq_length == 32


def test_the_models_own_size():
    config = {"sample_size": 16, "block_out_channels": (1, 2, 3)}
    assert clip_size(None, config, 4) == (64, 64)
    assert clip_size(None, {**config, "sample_size": (16, 24)}, 4) == (64, 96)
    assert clip_size((48, 32), config, 4) == (48, 32)
    with pytest.raises(MVCustomError, match="the model does not name one"):
        clip_size(None, {**config, "sample_size": None}, 4)
