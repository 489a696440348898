"""Checkpoints are whole or not there."""

import resource

import pytest
import torch

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training.checkpoints import (
    Checkpoints,
    TrainingState,
    load_checkpoint,
    optimizer_state,
    restore_optimizer,
)


def state(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    weights = {"a.b": torch.randn(3, 4, generator=generator), "c": torch.randn(5, generator=generator).half()}
    return TrainingState(
        step, {"weights": weights, "optimizer": {"0.step": torch.tensor(3.0)}}, {"text": "x", "n": [1]}
    )


def test_what_is_saved_is_loaded(tmp_path):
    folder = Checkpoints(tmp_path).save(state(7))
    loaded = load_checkpoint(folder)
    assert folder.name == "checkpoint-7"
    assert (loaded.step, loaded.values) == (7, {"text": "x", "n": [1]})
    for part, tensors in state(7).tensors.items():
        assert loaded.tensors[part].keys() == tensors.keys()
        assert all(torch.equal(loaded.tensors[part][name], tensor) for name, tensor in tensors.items())


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    for step in (5, 100, 20):
        checkpoints.save(state(step))
    assert [step for step, _ in checkpoints.all()] == [20, 100]
    assert checkpoints.latest().name == "checkpoint-100"


def test_an_unfinished_one_does_not_count_and_is_cleared_away(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    (tmp_path / ".writing-2").mkdir()
    (tmp_path / ".writing-2" / "state.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoint-3").mkdir()  # not ours: it lacks the state
    assert checkpoints.latest().name == "checkpoint-1"
    assert checkpoints.resolve("latest") == tmp_path / "checkpoint-1"
    checkpoints.save(state(4))
    assert not (tmp_path / ".writing-2").exists()


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = TrainingState(2, {"weights": {"a": torch.zeros(1 << 20)}}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))  # no file may grow beyond 64 KiB
    try:
        with pytest.raises(
            MVCustomError, match=r"step 2: could not be written .* newest checkpoint is .*checkpoint-1"
        ):
            checkpoints.save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    load_checkpoint(checkpoints.latest())
    checkpoints.save(big)


def test_a_damaged_one_and_a_wrong_name_are_told(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.resolve("latest") is None
    folder = checkpoints.save(state(1))
    with pytest.raises(MVCustomError, match=r"checkpoint-9 is no complete checkpoint; there are \[.*checkpoint-1"):
        checkpoints.resolve("checkpoint-9")
    assert checkpoints.resolve("checkpoint-1") == checkpoints.resolve(str(folder)) == folder
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(MVCustomError, match="not a complete checkpoint"):
        load_checkpoint(folder)


class NestingAdamW(torch.optim.AdamW):
    """Nests its state's tensors, as bitsandbytes' optimisers do."""

    def state_dict(self):
        state = super().state_dict()
        nested = {
            index: {"step": entries["step"], "deep": {"er": {key: entries[key] for key in ("exp_avg", "exp_avg_sq")}}}
            for index, entries in state["state"].items()
        }
        return {**state, "state": nested}

    def load_state_dict(self, state_dict):
        flat = {i: {"step": entries["step"], **entries["deep"]["er"]} for i, entries in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": flat})


@pytest.mark.parametrize("kind", ["adamw", "nesting", "prodigy"])
def test_an_optimiser_goes_on_as_if_it_had_not_stopped(kind, tmp_path):
    def make():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "weight_decay": 0.0}]
        if kind == "adamw":
            return model, torch.optim.AdamW(groups, lr=0.01)
        if kind == "nesting":
            return model, NestingAdamW(groups, lr=0.01)
        prodigyopt = pytest.importorskip("prodigyopt")
        for group in groups:
            group["lr"] = 1.0
        return model, prodigyopt.Prodigy(groups)

    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = make()
    for seed in range(3):
        step(model, optimizer, seed)
    tensors, values = optimizer_state(optimizer)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    folder = Checkpoints(tmp_path).save(TrainingState(3, {"weights": weights, "optimizer": tensors}, {"o": values}))
    for seed in range(3, 6):
        step(model, optimizer, seed)
    resumed, other = make()
    stored = load_checkpoint(folder)
    resumed.load_state_dict(stored.tensors["weights"])
    restore_optimizer(other, stored.tensors["optimizer"], stored.values["o"])
    for seed in range(3, 6):
        step(resumed, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters()))
