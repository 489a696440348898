"""The loop of the toy model's stages: interrupted and resumed it ends, bit for bit, where it ends in one go."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy.training import training_run
from diffusers_mvcustom.toy.training.training_run import TrainingRun

STEPS = 7


def new_run(folder, *, width=6, **options):
    torch.manual_seed(0)
    modules = {"first": nn.Sequential(nn.Conv2d(2, width, 3), nn.SiLU()), "second": nn.Conv2d(width, 1, 1)}
    settings = {"learning_rate": 1e-2, "max_steps": STEPS, "batch_size": 2, "ema_decay": 0.9, "warm_up": 2}
    return TrainingRun(folder, modules, **{**settings, "save_every": 3, "autocast": torch.float32, **options})


def random_loss(run, on_step=lambda step: None):
    """A loss of random inputs, as the stages' are; `on_step` is called first."""

    def loss(step, numbers):
        on_step(step)
        assert numbers == [2 * step, 2 * step + 1]
        prediction = run.modules["second"](run.modules["first"](torch.randn(2, 2, 5, 5)))
        return {"loss": (prediction - torch.rand(1)).square().mean()}

    return loss


def outcome(run):
    """Weights, averaged weights and the optimizer's moments."""
    moments = [state[name] for state in run.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq", "step")]
    averaged = [] if run.ema is None else run.ema.shadow_params
    return [tensor.detach().clone() for tensor in (*run.weights.values(), *averaged, *moments)]


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.fixture
def whole(tmp_path):
    """An uninterrupted run's outcome."""
    run = new_run(tmp_path / "whole")
    start = outcome(run)
    run.train(random_loss(run))
    assert run.step == STEPS
    assert not equal(outcome(run)[: len(start)], start)
    return outcome(run)


def press_ctrl_c_at(wanted):
    return lambda step: os.kill(os.getpid(), signal.SIGINT) if step == wanted else None


@pytest.mark.parametrize("at", [0, 3, 4])
def test_interrupted_and_resumed_is_as_in_one_go(tmp_path, whole, at):
    run = new_run(tmp_path / "halves")
    with pytest.raises(KeyboardInterrupt):
        run.train(random_loss(run, press_ctrl_c_at(at)))
    assert run.step == at + 1  # the step is finished first
    torch.manual_seed(99)
    again = new_run(tmp_path / "halves")
    assert again.step == at + 1
    again.train(random_loss(again))
    assert equal(outcome(again), whole)


def test_killed_between_checkpoints_it_repeats_the_lost_steps(tmp_path, whole):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 5:
            raise Killed

    run = new_run(tmp_path / "killed")
    with pytest.raises(Killed):
        run.train(random_loss(run, kill))
    again = new_run(tmp_path / "killed")
    assert again.step == 3  # the newest checkpoint
    again.train(random_loss(again))
    assert equal(outcome(again), whole)


def test_until_stops_early_and_the_schedule_does_not_change(tmp_path, whole):
    run = new_run(tmp_path / "part")
    run.train(random_loss(run), until=4)
    assert run.step == 4
    again = new_run(tmp_path / "part")
    again.train(random_loss(again))
    assert equal(outcome(again), whole)


def test_a_finished_run_does_nothing_more(tmp_path, whole):
    run = new_run(tmp_path / "whole")
    run.train(random_loss(run, lambda step: pytest.fail("it went on")))
    assert equal(outcome(run), whole)


def test_weights_of_several_layouts_resume(tmp_path):
    """Convolutions of several channels lie in memory channels last, and so do their moments."""
    run = new_run(tmp_path / "run")
    run.train(random_loss(run))
    weight = new_run(tmp_path / "run").weights["first.0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, run.weights["first.0.weight"])


def test_averaged_weights_are_the_mean_that_follows(tmp_path):
    run = new_run(tmp_path / "run")
    run.train(random_loss(run))
    trained, averaged = outcome(run)[: len(run.weights)], [weight.clone() for weight in run.ema.shadow_params]
    run.use_averaged_weights()
    assert equal([weight.detach() for weight in run.weights.values()], averaged)
    assert not equal(averaged, trained)
    assert not any(module.training for module in run.modules.values())
    without = new_run(tmp_path / "without", ema_decay=None)
    without.train(random_loss(without))
    before = outcome(without)
    without.use_averaged_weights()
    assert equal(outcome(without), before)


def test_two_checkpoints_are_kept_and_the_record_has_every_tenth_step(tmp_path):
    run = new_run(tmp_path / "run", max_steps=20, save_every=4)
    run.train(random_loss(run))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["checkpoint-16", "checkpoint-20"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert all(line["loss"] > 0 for line in lines)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    run = new_run(tmp_path / "run")
    before = outcome(run)[: len(run.weights)]

    def loss(step, numbers):
        return {"loss": random_loss(run)(step, numbers)["loss"] * float("inf")}

    with pytest.raises(MVCustomError, match="step 1: the loss is not finite"):
        run.train(loss)
    assert equal(outcome(run)[: len(run.weights)], before)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run = new_run(tmp_path / "run")
    run.train(random_loss(run), until=1)
    with pytest.raises(MVCustomError, match="its checkpoint is of another model; take another folder"):
        new_run(tmp_path / "run", width=7)


def test_it_ends_after_its_seconds_with_the_learning_rate_down(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training_run.time, "monotonic", lambda: now[0])
    run = new_run(tmp_path, max_steps=1000, max_seconds=20.0, decay_from=0.5)
    rates = []

    def a_second_passes(step):
        now[0] += 1.0
        rates.append(run.optimizer.param_groups[0]["lr"])

    run.train(random_loss(run, a_second_passes))
    assert run.step == 20
    assert run.checkpoints.latest() is not None
    assert new_run(tmp_path, max_steps=1000).step == 20
    assert rates[5] == pytest.approx(1e-2)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    assert rates[10:] == sorted(rates[10:], reverse=True)
