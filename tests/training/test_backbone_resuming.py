"""A backbone training that is killed and resumed ends with the weights of one that was not; two processes are one."""

import multiprocessing
import os
import signal

import pytest
import torch
from accelerate import debug_launcher
from safetensors.torch import load_file
from training.backbone_small import SMALL, reset_accelerate, write_moving_squares

from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.training import BackboneTrainer, BackboneTrainingConfig, checkpoints
from diffusers_mvcustom.training.records import read_records

STEPS = 5
COMPONENTS = {"size": "tiny", "depth_estimator": False}
# Schedule, averaged weights, dropped texts, single images and a window that changes: all that has a state or is random.
SETTINGS = {
    **SMALL,
    "max_train_steps": STEPS,
    "window_schedule": [(0, 1), (1, 3), (3, None)],
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
    "use_ema": True,
    "ema_decay": 0.9,
    "text_dropout": 0.3,
    "image_share": 0.3,
    "horizontal_flip": 0.5,
    "min_crop": 0.8,
    "checkpoints_total_limit": 2,
}


def train_and_die(settings, components, place, count):
    """Trains and is killed by SIGKILL when it comes to a place the given number of times."""
    reset_accelerate()
    trainer = BackboneTrainer(BackboneTrainingConfig(**settings), MVCustomPipeline(**components))
    calls = 0

    def dying(function, after=None):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == count:
                if after is not None:
                    after(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    whole = checkpoints.save_file

    def half_a_file(tensors, file, **kwargs):
        whole(tensors, file, **kwargs)
        os.truncate(file, os.path.getsize(file) // 2)

    if place == "update":  # gradients are there, the weights are not changed yet
        set_up = trainer._set_up
        trainer._set_up = lambda: (set_up(), setattr(trainer.optimizer, "step", dying(trainer.optimizer.step)))
    else:  # within a checkpoint's file
        checkpoints.save_file = dying(whole, after=half_a_file)
    trainer.train()


def train(settings, components):
    torch.set_num_threads(1)
    trainer = BackboneTrainer(BackboneTrainingConfig(**settings), MVCustomPipeline(**components))
    assert trainer.accelerator.num_processes == 2, trainer.accelerator.state
    trainer.train()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return {**SETTINGS, "data": str(write_moving_squares(tmp_path_factory.mktemp("videos")))}


@pytest.fixture
def make_backbone_trainer(settings, make_components):
    def make(output, **changes):
        reset_accelerate()
        config = BackboneTrainingConfig(**{**settings, "output_dir": str(output), **changes})
        return BackboneTrainer(config, MVCustomPipeline(**make_components(**COMPONENTS)))

    return make


@pytest.fixture(scope="module")
def straight(settings, tmp_path_factory, make_components):
    """The training that nothing happened to: its output folder."""
    folder = tmp_path_factory.mktemp("straight") / "out"
    reset_accelerate()
    config = BackboneTrainingConfig(**{**settings, "output_dir": str(folder)})
    BackboneTrainer(config, MVCustomPipeline(**make_components(**COMPONENTS))).train()
    return folder


def weights_of(output):
    files = {
        "result": output / "motion_adapter" / "diffusion_pytorch_model.safetensors",
        "checkpoint": output / "checkpoints" / f"checkpoint-{STEPS}" / "state.safetensors",
    }
    return {f"{kind}:{name}": tensor for kind, file in files.items() for name, tensor in load_file(file).items()}


def assert_same_end(ours, theirs):
    a, b = weights_of(ours), weights_of(theirs)
    assert a.keys() == b.keys()
    for part in ("result:", "checkpoint:weights/", "checkpoint:optimizer/", "checkpoint:ema/"):
        assert any(name.startswith(part) for name in a)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    losses = [[(row["step"], row["loss"], row["image"]) for row in read_records(folder)] for folder in (ours, theirs)]
    assert losses[0] == losses[1]
    assert [step for step, _, _ in losses[0]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(("place", "count", "resumes_at"), [("update", 4, 2), ("tensors", 2, 2)])
def test_killed_and_resumed(
    settings, straight, make_backbone_trainer, make_components, tmp_path, place, count, resumes_at
):
    out = tmp_path / "out"
    # Killed with workers, resumed without: they are not to matter.
    victim = multiprocessing.get_context("fork").Process(
        target=train_and_die,
        args=({**settings, "output_dir": str(out), "num_workers": 1}, make_components(**COMPONENTS), place, count),
    )
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert not (out / "motion_adapter").exists()
    trainer = make_backbone_trainer(out, resume_from_checkpoint="latest")
    assert trainer._resumed.step == resumes_at
    trainer.train()
    assert_same_end(out, straight)
    assert not list((out / "checkpoints").glob(".writing*"))


def test_interrupted_and_resumed(straight, make_backbone_trainer, tmp_path):
    """Ctrl-C: the step is finished, a checkpoint written, signals are handled as before, and workers do not die of it."""
    out = tmp_path / "out"
    trainer = make_backbone_trainer(out, num_workers=1)
    update, before = trainer._update, signal.getsignal(signal.SIGINT)

    def interrupting():
        if trainer.step == 2:
            workers = trainer.loader._iterator._workers
            assert len(workers) == 1
            for process in (os.getpid(), *(worker.pid for worker in workers)):
                os.kill(process, signal.SIGINT)
        return update()

    trainer._update = interrupting
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer.checkpoints.latest().name == "checkpoint-3"
    make_backbone_trainer(out, resume_from_checkpoint="latest").train()
    assert_same_end(out, straight)


def test_two_processes_are_one_with_twice_the_batch(settings, make_backbone_trainer, make_components, tmp_path):
    shared = {"max_train_steps": 4, "gradient_accumulation_steps": 2, "snr_gamma": 5.0, "noise_offset": 0.1}
    together = {
        **settings,
        **shared,
        "gradient_checkpointing": True,
        "train_batch_size": 2,
        "output_dir": str(tmp_path / "two"),
    }
    reset_accelerate()
    debug_launcher(train, (together, make_components(**COMPONENTS)), num_processes=2)
    make_backbone_trainer(tmp_path / "one", **shared, train_batch_size=4).train()
    two, one = read_records(tmp_path / "two"), read_records(tmp_path / "one")
    assert len(two) == len(one) == 4
    assert any(row["image"] > 0 for row in one)
    for row, twin in zip(two, one):
        for name in ("loss", "image", "gradient_norm"):
            assert row[name] == pytest.approx(twin[name], rel=1e-5), (row["step"], name)
    ours, theirs = (
        load_file(tmp_path / name / "motion_adapter" / "diffusion_pytorch_model.safetensors")
        for name in ("two", "one")
    )
    # Adam's first steps are signs of gradients: where one is all but 0, another order of summation may turn it.
    close = [torch.isclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5).float().mean().item() for name in ours]
    assert min(close) > 0.98
