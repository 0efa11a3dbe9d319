"""Bad steps are found on the device, said with what is needed to look into them, and dealt with as the recipe says."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.distributed.optimiser import build_optimiser, update
from harness.distributed.ranks import Ranks
from harness.train.divergence import RECORDS, WARM, Diverged, DivergenceMonitor, Policy

ALONE = Ranks(0, 1, torch.device("cpu"))
SKIP = Policy(nonfinite="skip", spike="skip", skip_limit=3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def backward(model: nn.Module, scale: float = 1.0) -> torch.Tensor:
    model.zero_grad()
    loss: torch.Tensor = model(torch.ones(2, 3)).square().mean() * scale
    loss.backward()
    return loss.detach()


def optimiser_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "fused adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    return build_optimiser(model, name, peak=0.01, betas=(0.9, 0.95), weight_decay=0.1)  # type: ignore[arg-type]


def tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [value for state in optimiser.state.values() for value in state.values()]
    return [*model.state_dict().values(), *moments]


@pytest.mark.parametrize("name", ["fused adamw", "adamw", "lion"])
@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_skipped_update_leaves_weights_moments_and_counts_as_they_were(name: str, scale: float) -> None:
    model = network()
    optimiser, monitor = optimiser_of(name, model), DivergenceMonitor(SKIP, ALONE, model)
    for step in range(3):
        update(optimiser, monitor.check(backward(model), step))
    before = copy.deepcopy(tensors(model, optimiser))
    update(optimiser, monitor.check(backward(model, scale), 3))
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(model, optimiser), strict=True))
    assert monitor.skipped == 1
    update(optimiser, monitor.check(backward(model), 4))
    assert not torch.equal(before[0], tensors(model, optimiser)[0])
    assert [(bad.step, bad.kind, bad.action) for bad in monitor.collect()] == [(3, "not finite", "skip")]
    assert monitor.collect() == []


def test_norms_are_those_that_torch_clips_by() -> None:
    model = network()
    monitor = DivergenceMonitor(Policy(spike_factor=1.5), ALONE, model)
    for step in range(WARM):
        monitor.check(backward(model), step)
    monitor.check(backward(model, 2.0), WARM)
    (bad,) = monitor.collect()
    assert bad.norm == pytest.approx(float(nn.utils.clip_grad_norm_(model.parameters(), 1e9)), rel=1e-6)
    wanted = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert dict(zip(monitor.names, bad.norms, strict=True)) == pytest.approx(wanted, rel=1e-6)


def test_a_jump_of_the_loss_is_a_spike_only_once_there_is_a_mean_to_jump_from() -> None:
    model = network()
    monitor = DivergenceMonitor(Policy(spike="skip", spike_factor=3.0), ALONE, model)
    assert not monitor.check(backward(model), 0)
    assert not monitor.check(backward(model, 5.0), 1)  # early on, losses may do anything
    for step in range(2, 200):
        assert not monitor.check(backward(model), step)
    assert not monitor.check(backward(model, 2.8), 200)
    assert monitor.check(backward(model, 4.0), 201)
    assert not monitor.check(backward(model), 202)
    assert [(bad.step, bad.kind) for bad in monitor.collect()] == [(201, "spike")]


def test_the_row_names_suspects_and_the_worst_gradients_and_is_strict_json() -> None:
    model = network()
    monitor = DivergenceMonitor(Policy(), ALONE, model)
    loss = backward(model)
    bias = dict(model.named_parameters())["2.bias"]
    assert bias.grad is not None
    bias.grad.fill_(math.nan)
    monitor.check(loss, 7)
    (bad,) = monitor.collect()
    assert bad.suspects == [0]
    row = json.loads(json.dumps(bad.row(monitor.names, {0: ["a", "b"]}), allow_nan=False))
    assert (row["step"], row["why"], row["action"], row["gradient_norm"]) == (7, "not finite", "stop", "nan")
    assert next(iter(row["worst_gradients"].items())) == ("2.bias", "nan")
    assert row["crops"] == {"0": ["a", "b"]}


def test_stop_ends_the_run_and_a_report_does_not() -> None:
    model = network()
    monitor = DivergenceMonitor(Policy(nonfinite="stop", spike="report"), ALONE, model)
    for step in range(WARM):
        monitor.check(backward(model), step)
    monitor.check(backward(model, 50.0), WARM)
    monitor.raise_if_fatal(monitor.collect(), lambda: "step 0 is saved")
    monitor.check(backward(model, math.nan), WARM + 1)
    with pytest.raises(
        Diverged, match=rf"step {WARM + 1} is bad \(not finite\): loss nan .*step 0 is saved.*nonfinite"
    ):
        monitor.raise_if_fatal(monitor.collect(), lambda: "step 0 is saved")


def test_more_skips_than_the_limit_end_the_run_even_over_a_restart() -> None:
    model = network()
    monitor = DivergenceMonitor(SKIP, ALONE, model)
    for step in range(2):
        monitor.check(backward(model, math.nan), step)
    monitor.raise_if_fatal(monitor.collect(), str)
    again = DivergenceMonitor(SKIP, ALONE, model)
    again.state.copy_(monitor.state)
    for step in range(2, 4):
        again.check(backward(model, math.nan), step)
    with pytest.raises(Diverged, match=r"4 updates were skipped, more than train\.skip_limit, 3"):
        again.raise_if_fatal(again.collect(), str)


def test_more_bad_steps_than_records_are_counted_and_the_first_described() -> None:
    model = network()
    monitor = DivergenceMonitor(Policy(nonfinite="skip", skip_limit=1000), ALONE, model)
    for step in range(RECORDS + 5):
        monitor.check(backward(model, math.nan), step)
    assert [bad.step for bad in monitor.collect()] == list(range(RECORDS))
    assert monitor.skipped == RECORDS + 5


def test_broken_steps_are_left_out_of_the_window() -> None:
    model = network()
    monitor = DivergenceMonitor(SKIP, ALONE, model)
    losses = [float(backward(model)), float(backward(model, 2.0))]
    for step, scale in enumerate([1.0, math.nan, 2.0]):
        monitor.check(backward(model, scale), step)
    total, _, steps = monitor.window.tolist()
    assert (total, steps) == (pytest.approx(sum(losses)), 2)


class Waits(TorchDispatchMode):
    """Notes operations that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split("::")[1] in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"):
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def test_judging_and_a_fused_update_never_ask_the_device() -> None:
    model = network()
    optimiser, monitor = optimiser_of("fused adamw", model), DivergenceMonitor(SKIP, ALONE, model)
    loss = backward(model)
    with Waits() as waits:
        update(optimiser, monitor.check(loss, 0))
        assert waits.found == []
        monitor.collect()
        assert waits.found  # so the instrument sees what it is for
