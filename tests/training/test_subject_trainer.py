"""The subject trainer end to end on tiny components: what it trains, what it writes, what it refuses."""

import json
import math
import resource
import shutil
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from diffusers_mvcustom import Cameras, MVCustomPipeline, SubjectAdapter
from diffusers_mvcustom.errors import CamerasError, MVCustomError
from diffusers_mvcustom.training.checkpoints import load_checkpoint
from diffusers_mvcustom.training.records import read_records


def test_only_lora_word_and_feature_nerf_change(make_trainer):
    trainer = make_trainer()
    frozen = {
        name: tensor.clone()
        for part in (trainer.pipe.unet, trainer.pipe.text_encoder, trainer.pipe.vae)
        for name, tensor in part.state_dict().items()
    }
    trainer._set_up()
    before = {name: weight.detach().clone() for name, weight in trainer.parts.trained.items()}
    kinds = {
        "lora": [name for name in before if "lora_" in name],
        "token": ["token.embeddings"],
        "FeatureNeRF": [name for name in before if "feature_nerf" in name],
        "projection": [name for name in before if "projection.difference" in name],
    }
    assert sum(len(names) for names in kinds.values()) == len(before)
    for _ in range(3):  # LoRA's first factor and FeatureNeRF's last layers wait for others that start at zero
        trainer._update()
        trainer.step += 1
    for kind, names in kinds.items():
        changed = [name for name in names if not torch.equal(before[name], trainer.parts.trained[name])]
        assert len(changed) > 0.9 * len(names), (kind, set(names) - set(changed))
    lora_names = [name for name in kinds["lora"] if "motion_modules" in name]
    assert lora_names == []
    after = {
        name.replace(".base_layer", ""): tensor
        for part in (trainer.pipe.unet, trainer.pipe.text_encoder, trainer.pipe.vae)
        for name, tensor in part.state_dict().items()
    }
    assert frozen.keys() <= after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())


@pytest.mark.parametrize(
    ("off", "gone"),
    [("train_lora", "lora_"), ("train_token", "token."), ("train_feature_nerf", "pose_conditioner")],
)
def test_each_part_can_be_left_out(make_trainer, tmp_path, off, gone):
    trainer = make_trainer(**{off: False}, max_train_steps=1)
    folder = trainer.train()
    assert not [name for name in trainer.trained if gone in name or gone == "pose_conditioner" in name]
    assert (folder / "pytorch_lora_weights.safetensors").exists() == (off != "train_lora")
    assert (folder / "learned_embeds.safetensors").exists() == (off != "train_token")
    if off == "train_feature_nerf":
        loaded = SubjectAdapter.from_pretrained(folder)
        assert all(
            loaded.conditioner(name).projection.difference.weight.abs().sum() == 0 for name in loaded.block_names
        )


def test_losses_fall(make_trainer, tmp_path):
    make_trainer(max_train_steps=60, learning_rate=5e-3, checkpointing_steps=100).train()
    rows = read_records(tmp_path / "out")
    assert [row["step"] for row in rows] == list(range(1, 61))
    for name in ("loss", "rgb", "opacity", "background"):
        first, last = (sum(row[name] for row in part) / 15 for part in (rows[:15], rows[-15:]))
        assert last < 0.85 * first, (name, first, last)
    assert Image.open(tmp_path / "out" / "losses.png").width > 600


def test_the_saved_subject_is_the_trained_one(make_trainer, make_components, tmp_path):
    """Its files, loaded into a fresh pipeline, render what the trainer's own weights do."""
    trainer = make_trainer(max_train_steps=6, learning_rate=1e-2, holdout=3)
    rendered = []
    finish = trainer._finish

    def rendering(bar):
        with torch.no_grad():
            trainer.parts.model.eval()
            rendered.append(trainer.validation.render())
        return finish(bar)

    trainer._finish = rendering
    folder = trainer.train()
    (ours,) = rendered
    pipe = MVCustomPipeline(**make_components("tiny"))
    pipe.load_subject(folder)
    prompt, _ = pipe.encode_prompt(trainer.validation.prompt, "cpu", 1, False)
    with torch.no_grad():
        theirs = pipe.render_subject(prompt, trainer.validation.photos.cameras)
    assert torch.allclose(ours.rgb, theirs.rgb, atol=1e-5)
    for name, features in ours.features.items():
        assert torch.allclose(features, theirs.features[name], atol=1e-4)
    assert len(pipe.subject.references) == 9
    untrained = SubjectAdapter.from_pretrained(folder)
    assert untrained.config.training["steps"] == 6


def test_after_a_training_the_pipeline_has_its_result(make_trainer, make_components, tmp_path):
    cameras = Cameras.orbit(2, azimuth=(-20, 20), height=32, width=32)

    def views(pipe, prompt):
        generator = torch.Generator().manual_seed(0)
        return pipe(prompt, cameras, num_inference_steps=2, output_type="latent", generator=generator, hooks=[]).frames

    trainer = make_trainer(max_train_steps=2, learning_rate=1e-2, gradient_checkpointing=True, use_ema=True)
    trainer._set_up()
    assert trainer.pipe.unet.is_gradient_checkpointing
    trainer._release()
    plain = MVCustomPipeline(**make_components("tiny"))
    names = set(plain.unet.state_dict())
    assert set(trainer.pipe.unet.state_dict()) == names
    assert torch.equal(views(trainer.pipe, "a mug"), views(plain, "a mug"))
    trainer = make_trainer(max_train_steps=2, learning_rate=1e-2, gradient_checkpointing=True, use_ema=True)
    plain.load_subject(trainer.train())
    assert not trainer.pipe.unet.is_gradient_checkpointing
    assert list(trainer.pipe.subjects) == ["my-cube"]
    assert torch.equal(views(trainer.pipe, "a <my-cube>"), views(plain, "a <my-cube>"))
    with pytest.raises(MVCustomError, match="pipe: expected a model without a subject, got one with 'my-cube'"):
        make_trainer(pipe=trainer.pipe, output_dir=str(tmp_path / "other"))
    trainer.pipe.unload_subject()
    assert set(trainer.pipe.unet.state_dict()) == names
    assert torch.equal(views(trainer.pipe, "a mug"), views(MVCustomPipeline(**make_components("tiny")), "a mug"))


def test_a_training_that_fails_leaves_no_subject(make_trainer):
    trainer = make_trainer()
    trainer._backward = lambda micro: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert not trainer.pipe.subjects
    assert "<my-cube>" not in trainer.pipe.tokenizer.get_vocab()
    assert not [name for name in trainer.pipe.unet.state_dict() if "lora" in name]


def test_lora_and_word_load_in_plain_diffusers(make_trainer, make_components):
    folder = make_trainer(max_train_steps=3, learning_rate=1e-2).train()
    components = make_components("tiny", depth_estimator=False)
    from diffusers_mvcustom.toy import random_unet2d_and_motion_adapter

    unet, _ = random_unet2d_and_motion_adapter("tiny", seed=0)
    parts = {name: components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    plain = StableDiffusionPipeline(
        **parts, unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    options = {"num_inference_steps": 2, "output_type": "np", "height": 32, "width": 32}

    def picture(prompt):
        return torch.from_numpy(plain(prompt, generator=torch.Generator().manual_seed(0), **options).images)

    without = picture("a <my-cube> mug")
    plain.load_textual_inversion(folder, weight_name="learned_embeds.safetensors", token="<my-cube>")
    with_word = picture("a <my-cube> mug")
    plain.load_lora_weights(folder)
    targets = [name for name, module in plain.unet.named_modules() if hasattr(module, "lora_A")]
    expected = [
        name for name in dict(plain.unet.named_modules()) if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    ]
    assert sorted(targets) == sorted(expected)
    with_both = picture("a <my-cube> mug")
    assert not torch.equal(without, with_word)
    assert not torch.equal(with_word, with_both)
    weights = load_file(folder / "pytorch_lora_weights.safetensors")
    loaded = dict(plain.unet.named_parameters())
    for name, weight in weights.items():  # unet.<module>.lora.{down,up}.weight
        module, _, kind = name.removeprefix("unet.").rpartition(".lora.")
        letter = {"down": "A", "up": "B"}[kind.split(".")[0]]
        assert torch.equal(loaded[f"{module}.lora_{letter}.default_0.weight"], weight)


def test_the_result_tells_how_it_was_made(make_trainer, tmp_path):
    trainer = make_trainer(
        command="accelerate launch train_lora.py --token '<my-cube>'",
        holdout=2,
        num_validation_views=2,
        validation_inference_steps=1,
        validation_steps=2,
        report_to="tensorboard",
    )
    before = trainer.pipe.text_encoder.config.vocab_size, len(trainer.pipe.tokenizer)
    folder = trainer.train()
    trainer.pipe.unload_subject()
    assert (trainer.pipe.text_encoder.config.vocab_size, len(trainer.pipe.tokenizer)) == before
    card = (folder / "README.md").read_text()
    assert "accelerate launch train_lora.py --token '<my-cube>'" in card
    assert "(samples/feature-nerf.png)" in card
    assert "(samples/views.png)" in card
    assert Image.open(folder / "samples" / "views.png").size == (2 * 32, 2 * 32) or (folder / "samples").is_dir()
    record = json.loads((folder / "subject_config.json").read_text())["training"]
    assert record["steps"] == 4
    assert record["settings"]["rank"] == 2
    assert record["validation"]["validation_psnr"] > 0
    names = sorted(path.name for path in (tmp_path / "out" / "validation").iterdir())
    assert names == [f"step-00000{n}-{kind}.png" for n in (2, 4) for kind in ("feature-nerf", "views")]
    assert list((tmp_path / "out" / "logs").rglob("events.out.tfevents.*"))
    assert [path.name for path in sorted((tmp_path / "out" / "checkpoints").iterdir())] == [
        "checkpoint-2",
        "checkpoint-4",
    ]


def test_class_images_are_made_once_and_trained_without_references(make_trainer, tmp_path):
    trainer = make_trainer(prior_probability=0.9, num_class_images=2, max_train_steps=1)
    trainer._set_up()
    made = sorted((tmp_path / "out" / "class_images").glob("*.png"))
    assert [path.name for path in made] == ["0000.png", "0001.png"]
    assert Image.open(made[0]).size == (32, 32)
    stamps = [path.stat().st_mtime_ns for path in made]
    numbers = [n for n in range(40) if trainer.batches.planner.plan(n).prior][:2]
    batch = trainer.batches(numbers)
    assert batch.texts[0] in ("a photo of a mug", "")
    assert batch.reference_indices == []
    assert batch.masks.min() == 1
    with trainer.parts.model.conditioned():
        losses = trainer.parts.model(batch, trainer.parts.model.reference_features(batch))
    assert "rgb" not in losses
    losses["loss"].backward()
    projections = [w for name, w in trainer.parts.trained.items() if "projection" in name]
    assert all(w.grad[:, w.shape[1] // 2 :].abs().sum() == 0 for w in projections if w.grad is not None)
    again = make_trainer(prior_probability=0.9, num_class_images=2, max_train_steps=1, resume_from_checkpoint="latest")
    again._set_up()
    assert [path.stat().st_mtime_ns for path in made] == stamps


def test_class_images_of_the_user(make_trainer, tmp_path):
    folder = tmp_path / "mugs"
    folder.mkdir()
    for n, size in enumerate([(50, 40), (32, 64)]):
        Image.new("RGB", size, (10 * n, 200, 30)).save(folder / f"{n}.png")
    (folder / "1.txt").write_text("a tall mug\n")
    trainer = make_trainer(prior_probability=0.5, class_data_dir=str(folder))
    trainer._set_up()
    views = trainer.batches.class_views
    assert list(views.texts) == ["a photo of a mug", "a tall mug"]
    assert views.images.shape == (2, 3, 32, 32)
    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(MVCustomError, match=r"class_data_dir: .* holds no images"):
        make_trainer(prior_probability=0.5, class_data_dir=str(empty))._set_up()


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"train_batch_size": 1, "gradient_accumulation_steps": 2},
        {"cache_latents": False},
    ],
)
def test_what_only_costs_time_or_memory_changes_no_step(make_trainer, tmp_path, settings, weights_of):
    plain = make_trainer(max_train_steps=2, output_dir=str(tmp_path / "plain"))
    plain.train()
    other = make_trainer(max_train_steps=2, output_dir=str(tmp_path / "other"), **settings)
    other.train()
    rows, same = read_records(tmp_path / "plain"), read_records(tmp_path / "other")
    for row, twin in zip(rows, same):
        for name in ("loss", "denoising", "rgb", "opacity", "background", "gradient_norm"):
            assert twin[name] == pytest.approx(row[name], rel=2e-5), name


def test_mixed_precision_keeps_what_is_trained_in_float32(make_trainer):
    trainer = make_trainer(mixed_precision="bf16", max_train_steps=2, gradient_checkpointing=True, holdout=2)
    folder = trainer.train()
    assert trainer.pipe.unet.conv_in.weight.dtype == torch.bfloat16
    assert {weight.dtype for weight in trainer.trained.values()} == {torch.float32}
    stored = load_file(folder / "feature_nerf.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in stored.values())


def test_one_process_trains_with_one_precision(make_trainer, tmp_path):
    make_trainer(mixed_precision="bf16")
    with pytest.raises(MVCustomError, match="mixed_precision: this process has trained with 'bf16' before"):
        make_trainer(output_dir=str(tmp_path / "other"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU cannot do")
def test_fp16_on_a_cpu_is_refused(make_trainer):
    with pytest.raises(MVCustomError, match="fp16 needs a GPU"):
        make_trainer(mixed_precision="fp16")


def test_the_average_of_the_weights_is_what_is_saved(make_trainer, tmp_path):
    trainer = make_trainer(use_ema=True, ema_decay=0.5, max_train_steps=3, learning_rate=1e-2)
    folder = trainer.train()
    names = list(trainer.trained)
    index = names.index("token.embeddings")
    shadow = trainer.ema.shadow_params[index]
    saved = load_file(folder / "learned_embeds.safetensors")["<my-cube>"]
    assert torch.equal(saved, shadow)
    assert not torch.equal(saved, trainer.trained["token.embeddings"])
    assert "ema" in load_checkpoint(trainer.checkpoints.latest()).tensors


@pytest.mark.parametrize(
    ("optimizer", "package", "learning_rate"), [("prodigy", "prodigyopt", 1.0), ("adamw8bit", "bitsandbytes", 1e-3)]
)
def test_other_optimisers_train_and_go_on_exactly(
    make_trainer, tmp_path, weights_of, optimizer, package, learning_rate
):
    pytest.importorskip(package)
    settings = {"optimizer": optimizer, "learning_rate": learning_rate}
    straight = make_trainer(max_train_steps=4, output_dir=str(tmp_path / "straight"), **settings).train()
    make_trainer(max_train_steps=2, **settings).train()
    longer = make_trainer(max_train_steps=4, resume_from_checkpoint="latest", **settings).train()
    ours, theirs = weights_of(longer), weights_of(straight)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    untrained = make_trainer(max_train_steps=1, output_dir=str(tmp_path / "one"), **settings).train()
    assert any(not torch.equal(ours[name], weight) for name, weight in weights_of(untrained).items())


def test_min_snr_weights_change_the_denoising_error_only(make_trainer, tmp_path):
    make_trainer(max_train_steps=1, output_dir=str(tmp_path / "a")).train()
    make_trainer(max_train_steps=1, output_dir=str(tmp_path / "b"), snr_gamma=1.0).train()
    (plain,), (weighted,) = read_records(tmp_path / "a"), read_records(tmp_path / "b")
    assert weighted["denoising"] < plain["denoising"]
    assert weighted["rgb"] == plain["rgb"]


# --- bad input ---


def test_a_loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(
        max_train_steps=50, learning_rate=1e30, lr_scheduler="constant_with_warmup", lr_warmup_steps=0
    )
    trainer.config.checkpointing_steps = 1
    with pytest.raises(
        MVCustomError, match=r"step \d+: .* is not finite; .* last good checkpoint is .*checkpoint-\d+"
    ):
        trainer.train()
    stored = load_checkpoint(trainer.checkpoints.latest()).tensors["weights"]
    assert all(tensor.isfinite().all() for tensor in stored.values())
    assert not (tmp_path / "out" / "subject").exists()


def test_a_disk_that_is_full_at_the_end_costs_nothing(make_trainer, tmp_path, weights_of):
    whole = make_trainer(max_train_steps=2, output_dir=str(tmp_path / "whole")).train()
    make_trainer(max_train_steps=2).train()
    shutil.rmtree(tmp_path / "out" / "subject")
    trainer = make_trainer(max_train_steps=2, resume_from_checkpoint="latest")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))  # no file may grow beyond 16 KiB
    try:
        with pytest.raises(MVCustomError, match=r"could not be written .* last state is .*checkpoint-2; make room"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out" / "subject").exists()
    saved = make_trainer(max_train_steps=2, resume_from_checkpoint="latest").train()
    ours, theirs = weights_of(saved), weights_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token": "mug"}, "token: 'mug' already is a word"),
        ({"optimizer": "sgd"}, "optimizer: expected one of adamw, adamw8bit, prodigy, got 'sgd'"),
        ({"lr_scheduler": "cos"}, "lr_scheduler: expected one of linear, .*, got 'cos'"),
        ({"seed": -1}, "seed: expected a whole number from 0 to"),
        ({"resolution": 33}, "resolution: expected a multiple of 16 .* got 33; try 32"),
        ({"resolution": 512}, "resolution: the photos have 64 × 48 pixels, less than half of the 512"),
        ({"holdout": 10}, "held_out: expected a whole number from 1 to 9"),
        ({"holdout": ["nobody.png"]}, r"holdout: .* has no photos \['nobody.png'\]"),
        ({"up": "sideways"}, "up: expected auto or three numbers"),
        ({"data": "nowhere/at/all"}, "nowhere/at/all"),
        ({"report_to": "paper"}, "report_to: expected none, all or one of"),
        ({"pose_conditioned_blocks": "nothing"}, "blocks: expected text-conditioned transformer blocks"),
        ({"feature_nerf": {"samples": 3}}, "samples"),
        ({"masks": "required", "data": "MASKLESS"}, "masks: expected a mask for every photo"),
    ],
)
def test_bad_settings_are_told_before_anything_is_trained(make_trainer, cube_capture, tmp_path, settings, message):
    if settings.get("data") == "MASKLESS":
        folder = shutil.copytree(cube_capture, tmp_path / "maskless")
        content = json.loads((folder / "transforms.json").read_text())
        for frame in content["frames"]:
            del frame["mask_path"]
        (folder / "transforms.json").write_text(json.dumps(content))
        settings = {**settings, "data": str(folder)}
    with pytest.raises((MVCustomError, CamerasError), match=message):
        make_trainer(**settings)._set_up()
    assert not (tmp_path / "out" / "subject").exists()
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(("optimizer", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimiser_whose_package_is_not_installed_is_told(make_trainer, tmp_path, monkeypatch, optimizer, package):
    for module in (package, f"{package}.optim"):  # as if it were not, where it is
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MVCustomError, match=f"optimizer: {optimizer} needs {package}: pip install {package}"):
        make_trainer(optimizer=optimizer)
    assert not (tmp_path / "out").exists()


def test_another_trainings_work_is_not_written_over(make_trainer, tmp_path):
    make_trainer(max_train_steps=2).train()
    with pytest.raises(
        MVCustomError, match=r"output_dir: .* holds a training already .* --resume_from_checkpoint latest"
    ):
        make_trainer(max_train_steps=2)
    with pytest.raises(MVCustomError, match=r"made with other settings \(rank: 2 → 3"):
        make_trainer(max_train_steps=2, rank=3, resume_from_checkpoint="latest")
    with pytest.raises(MVCustomError, match="checkpoint-77 is no complete checkpoint"):
        make_trainer(max_train_steps=2, resume_from_checkpoint="checkpoint-77")
    with pytest.raises(MVCustomError, match=r"output_dir: expected a folder of its own, got .* which holds the data"):
        make_trainer(data=str(tmp_path), output_dir=str(tmp_path / "out" / ".."))
    (tmp_path / "file").write_text("x")
    with pytest.raises(MVCustomError, match="output_dir: expected a folder"):
        make_trainer(output_dir=str(tmp_path / "file"))


def test_prepared_photos_know_their_token(make_trainer, cube_capture, tmp_path):
    from diffusers_mvcustom.data import prepare_subject

    prepare_subject(cube_capture, tmp_path / "cube", class_noun="mug", token="<prepared>")
    unnamed = {"data": str(tmp_path / "cube"), "token": None, "class_noun": None}
    assert make_trainer(**unnamed).token == "<prepared>"
    assert make_trainer(**{**unnamed, "token": "<given>"}).token == "<given>"
    with pytest.raises(MVCustomError, match="token: expected a new word that names the subject, such as '<my-mug>'"):
        make_trainer(token=None)


def test_a_training_whose_learning_rate_has_ended_cannot_be_prolonged(make_trainer):
    make_trainer(max_train_steps=1, lr_scheduler="cosine").train()
    with pytest.raises(MVCustomError, match="lr_scheduler cosine the learning rate follows the number of steps"):
        make_trainer(max_train_steps=2, lr_scheduler="cosine", resume_from_checkpoint="latest")


def test_a_finished_training_can_be_prolonged(make_trainer, tmp_path, weights_of):
    make_trainer(max_train_steps=2).train()
    longer = make_trainer(max_train_steps=4, resume_from_checkpoint="latest").train()
    straight = make_trainer(max_train_steps=4, output_dir=str(tmp_path / "straight")).train()
    ours, theirs = weights_of(longer), weights_of(straight)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [row["step"] for row in read_records(tmp_path / "out")] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) for row in read_records(tmp_path / "out"))
