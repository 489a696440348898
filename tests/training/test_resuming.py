"""A training that is killed anywhere and resumed ends with the weights of one that was not."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from diffusers_mvcustom.training.records import read_records

DATA_PARALLEL = Path(__file__).parents[2] / "docs" / "accelerate" / "several_gpus.yaml"
STEPS = 5
# Cosine schedule, averaged weights, dropout, class images and captions: all that has a state or is drawn at random.
SETTINGS = {
    "max_train_steps": STEPS,
    "checkpointing_steps": 2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
    "use_ema": True,
    "ema_decay": 0.9,
    "lora_dropout": 0.2,
    "prior_probability": 0.3,
    "num_class_images": 2,
    "validation_steps": 2,
    "holdout": 2,
    "checkpoints_total_limit": 2,
}

_DRIVER = """
import os, signal, sys
import torch

torch.set_num_threads(1)
from diffusers_mvcustom import MVCustomPipeline
from diffusers_mvcustom.toy import random_components
from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig, checkpoints

settings, place, count = eval(sys.argv[1]), sys.argv[2], int(sys.argv[3])
trainer = SubjectTrainer(SubjectTrainingConfig(**settings), MVCustomPipeline(**random_components("tiny")))
calls = 0


def dying(function, after=None):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == count:
            if after is not None:
                after(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def half_a_file(tensors, file, **kwargs):
    whole(tensors, file, **kwargs)
    os.truncate(file, os.path.getsize(file) // 2)


whole = checkpoints.save_file
if place == "update":  # gradients are there, the weights are not changed yet
    set_up = trainer._set_up
    trainer._set_up = lambda: (set_up(), setattr(trainer.optimizer, "step", dying(trainer.optimizer.step)))
elif place == "tensors":  # within a checkpoint's file
    checkpoints.save_file = dying(whole, after=half_a_file)
elif place == "rename":  # a whole checkpoint that does not have its name yet
    checkpoints._flush = dying(checkpoints._flush)
elif place == "after":  # between checkpoint and the next step
    trainer._validate = dying(trainer._validate)
trainer.train()
"""


@pytest.fixture(scope="module")
def settings(small_settings, tmp_path_factory):
    """Settings whose class images and latents are there already: what the processes share is not under test here."""
    folder = tmp_path_factory.mktemp("resuming")
    return {**small_settings, **SETTINGS, "cache_dir": str(folder / "cache"), "class_data_dir": str(folder / "class")}


@pytest.fixture(scope="module", autouse=True)
def _class_images(settings):
    from PIL import Image

    folder = Path(settings["class_data_dir"])
    folder.mkdir()
    for n in range(3):
        Image.linear_gradient("L").resize((32, 32)).rotate(90 * n).convert("RGB").save(folder / f"{n}.png")


@pytest.fixture(scope="module")
def straight(settings, tmp_path_factory, make_components):
    """The training that nothing happened to: its output folder."""
    from accelerate.state import AcceleratorState

    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig

    folder = tmp_path_factory.mktemp("straight") / "out"
    config = SubjectTrainingConfig(**{**settings, "output_dir": str(folder)})
    SubjectTrainer(config, MVCustomPipeline(**make_components("tiny"))).train()
    AcceleratorState._reset_state(True)
    return folder


def assert_same_end(ours, theirs, weights_of):
    a, b = weights_of(ours / "subject"), weights_of(theirs / "subject")
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    a, b = (weights_of(folder / "checkpoints" / f"checkpoint-{STEPS}") for folder in (ours, theirs))
    assert a.keys() == b.keys()
    assert any(":optimizer/" in name for name in a)
    assert any(":ema/" in name for name in a)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    losses = [[(row["step"], row["loss"]) for row in read_records(folder)] for folder in (ours, theirs)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("place", "count", "resumes_at"),
    [
        ("tensors", 2, 2),
        ("rename", 5, 2),
        pytest.param("update", 4, 2, marks=pytest.mark.slow),
        pytest.param("update", 1, 0, marks=pytest.mark.slow),
        pytest.param("tensors", 1, 0, marks=pytest.mark.slow),
        pytest.param("after", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed(settings, straight, make_trainer, weights_of, tmp_path, place, count, resumes_at):
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", _DRIVER, repr({**settings, "output_dir": str(out)}), place, str(count)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (out / "subject").exists()
    trainer = make_trainer(**{**settings, "output_dir": str(out), "resume_from_checkpoint": "latest"})
    assert (trainer._resumed.step if trainer._resumed else 0) == resumes_at
    trainer.train()
    assert_same_end(out, straight, weights_of)
    assert not list((out / "checkpoints").glob(".writing*"))


def test_interrupted_and_resumed(settings, straight, make_trainer, weights_of, tmp_path):
    """Ctrl-C: the step is finished, a checkpoint written, and signals are handled as before."""
    changed = {**settings, "output_dir": str(tmp_path / "out")}
    trainer = make_trainer(**changed)
    update, before = trainer._update, signal.getsignal(signal.SIGINT)

    def interrupting():
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return update()

    trainer._update = interrupting
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer.checkpoints.latest().name == "checkpoint-3"
    make_trainer(**{**changed, "resume_from_checkpoint": "latest"}).train()
    assert_same_end(tmp_path / "out", straight, weights_of)


_PROCESSES = textwrap.dedent(
    """
    import sys

    import torch

    torch.set_num_threads(1)
    from diffusers_mvcustom import MVCustomPipeline
    from diffusers_mvcustom.toy import random_components
    from diffusers_mvcustom.training import SubjectTrainer, SubjectTrainingConfig

    trainer = SubjectTrainer(SubjectTrainingConfig(**eval(sys.argv[1])), MVCustomPipeline(**random_components("tiny")))
    assert trainer.accelerator.num_processes == 2, trainer.accelerator.state
    trainer.train()
    """
)


@pytest.mark.parametrize("accumulation", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes_are_one_with_twice_the_batch(settings, make_trainer, weights_of, tmp_path, accumulation):
    shared = {**settings, "lora_dropout": 0.0, "max_train_steps": 3, "gradient_accumulation_steps": accumulation}
    script = tmp_path / "train.py"
    script.write_text(_PROCESSES)
    together = {**shared, "train_batch_size": 1, "output_dir": str(tmp_path / "two")}
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        DATA_PARALLEL,
        script,
        repr(together),
    ]
    launched = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    make_trainer(**{**shared, "train_batch_size": 2, "output_dir": str(tmp_path / "one")}).train()
    two, one = read_records(tmp_path / "two"), read_records(tmp_path / "one")
    assert len(two) == len(one) == 3
    for row, twin in zip(two, one):
        for name in ("loss", "denoising", "rgb", "opacity", "background", "gradient_norm"):
            assert row[name] == pytest.approx(twin[name], rel=1e-5), (row["step"], name)
    ours, theirs = weights_of(tmp_path / "two" / "subject"), weights_of(tmp_path / "one" / "subject")
    assert ours.keys() == theirs.keys()
    # Adam's first steps are signs of gradients: where one is all but 0, another order of summation may turn it.
    close = [torch.isclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5).float().mean().item() for name in ours]
    assert min(close) > 0.98
