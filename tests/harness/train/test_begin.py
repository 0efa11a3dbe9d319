"""Covers `begin`: a checkpoint whose parts have counted different steps is refused, and earlier runs' crops count."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.checkpoint.facts import Progress
from harness.distributed.engine import Engine
from harness.grid.stage_run import StageRun
from harness.train.begin import _check_steps, _crops_before
from harness.train.divergence import DivergenceMonitor


@dataclass
class Counted:
    """The counters of a monitor: updates made and skipped."""

    applied: float
    skipped: int


def check(step: int, applied: float, skipped: int, optimiser: float, before: int = 0) -> None:
    """Check a checkpoint in which monitor and optimiser have counted so many updates, `before` by an earlier run."""
    adam = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    for parameter in adam.param_groups[0]["params"]:
        adam.state[parameter] = {"step": torch.tensor(optimiser)}
    monitor = cast("DivergenceMonitor", Counted(applied, skipped))
    _check_steps(cast("Engine", SimpleNamespace(optimiser=adam)), monitor, Progress(step=step, updates=before))


@given(made=st.integers(0, 50), skipped=st.integers(0, 9), before=st.integers(0, 99), off=st.sampled_from((-1, 1)))
def test_counters_pass_where_they_agree_with_the_step_and_not_where_one_is_off(
    made: int, skipped: int, before: int, off: int
) -> None:
    step = made + skipped
    check(step, made, skipped, before + made, before)
    for counters in ((made + off, before + made), (made, before + made + off)):
        with pytest.raises(ValueError, match=f"progress.step is {step}, but "):
            check(step, counters[0], skipped, counters[1], before)


@pytest.mark.parametrize(
    ("step", "applied", "skipped", "optimiser", "who"),
    [
        (10, 9.0, 0, 10.0, "extra.guard has counted 9 updates and 0 skipped"),
        (10, 10.0, 0, 9.0, "optimiser has counted 9 updates and 0 skipped"),
        (10, -1.0, 11, -1.0, "has counted -1 updates and 11 skipped"),
    ],
    ids=["monitor", "optimiser", "skipped"],
)
def test_the_weights_of_another_step_are_refused(
    step: int, applied: float, skipped: int, optimiser: float, who: str
) -> None:
    with pytest.raises(ValueError, match=rf"progress.step is 10, but .*{who}"):
        check(step, applied, skipped, optimiser)


def crops_before(*, begins_run: bool, crops: int, steps: int, batch: int) -> int:
    start = SimpleNamespace(values={"crops": crops, "steps": steps})
    return _crops_before(
        cast("StageRun", SimpleNamespace(start=start, cell=SimpleNamespace(begins_run=begins_run))), batch
    )


def test_a_run_that_starts_from_weights_counts_their_crops_and_one_that_goes_on_counts_its_own() -> None:
    """100 steps of 8 crops, after 200 crops of a run before."""
    assert crops_before(begins_run=True, crops=1000, steps=100, batch=8) == 1000
    assert crops_before(begins_run=False, crops=1000, steps=100, batch=8) == 200
    assert _crops_before(cast("StageRun", SimpleNamespace(start=None)), 8) == 0
