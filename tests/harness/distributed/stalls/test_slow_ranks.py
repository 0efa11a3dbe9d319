"""Covers `slow_ranks` on one process: whose steps would be long by themselves, for how long before it is said."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.distributed.ranks import Ranks
from harness.distributed.stalls.slow_ranks import HostTimer, Patience, SlowRanks, node_name, slowness, time_forward
from harness.models.interface import Network

PAIR = Ranks(0, 2, torch.device("cpu"))


def test_a_rank_that_computes_twice_as_long_takes_twice_as_long_although_all_steps_last_equally_long() -> None:
    ratios = slowness(np.zeros(4), np.array([0.1, 0.1, 0.2, 0.1]), 2.0)
    np.testing.assert_allclose(ratios, [1, 1, 2, 1])


def test_a_rank_that_waits_for_data_for_half_of_a_step_takes_twice_as_long() -> None:
    ratios = slowness(np.array([0.0, 0.0, 0.5, 0.0]), np.full(4, 0.1), 1.0)
    np.testing.assert_allclose(ratios, [1, 1, 2, 1])


def test_of_two_ranks_the_fast_one_is_what_is_usual() -> None:
    np.testing.assert_allclose(slowness(np.zeros(2), np.array([0.1, 0.16]), 1.0), [1, 1.6])


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=2, max_size=8), st.floats(0, 100),
)  # fmt: skip
def test_slowness_is_finite_and_falls_for_no_rank_that_takes_longer(
    times: list[tuple[float, float]], step: float
) -> None:
    waits, computing = np.array(times).T
    ratios = slowness(waits, computing, step)
    assert np.isfinite(ratios).all()
    order = np.lexsort((waits, computing))
    both = [(a, b) for a, b in itertools.pairwise(order) if waits[a] <= waits[b]]
    assert all(ratios[a] <= ratios[b] * (1 + 1e-9) + 1e-9 for a, b in both)


def judged(rows: list[list[float]], patience: Patience) -> list[list[tuple[str, bool]]]:
    """What is said after each row of computing times, of two nodes with two ranks each."""
    watch = SlowRanks(Ranks(0, 1, torch.device("cpu")), None, patience=patience)
    watch._nodes, watch._streaks = ["a", "a", "b", "b"], [(0, 0.0)] * 4
    said = []
    for computing in rows:
        times = np.column_stack([np.zeros(4), computing, np.ones(4)])
        said.append([(slow.node, slow.is_over) for slow in watch._judge(times)])
    return said


def test_a_node_is_named_once_after_some_rows_in_a_row_and_taken_back() -> None:
    slow, fast = [1.0, 1.0, 1.0, 1.5], [1.0, 1.0, 1.0, 1.1]
    said = judged([slow, fast, slow, slow, slow, slow, fast], Patience(rows=3, seconds=0.0))
    assert said == [[], [], [], [], [("b", False)], [], [("b", True)]]
    assert judged([slow] * 9, Patience(rows=3, seconds=60.0)) == [[]] * 9


def test_all_slow_ranks_of_a_node_are_one_message() -> None:
    watch = SlowRanks(Ranks(0, 1, torch.device("cpu")), None, patience=Patience(rows=1, seconds=0.0))
    watch._nodes, watch._streaks = ["a", "a", "a", "b", "b"], [(0, 0.0)] * 5
    (slow,) = watch._judge(np.column_stack([np.zeros(5), [1.0, 1.0, 1.0, 1.5, 1.8], np.ones(5)]))
    assert slow.text == (
        "node b is slow: ranks 3, 4 would take 1.8 times as long for a step as the median rank (rank 4: computing 1.8 "
        "times as long, data 0.000 s a step, median 0.000 s)"
    )


class Slept(nn.Module):
    def forward(self, seconds: float) -> None:
        time.sleep(seconds)


class Stack(Network):
    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.ModuleList([Slept() for _ in range(3)])

    def forward(self, *seconds: float) -> None:
        for block, pause in zip(self.stack, seconds, strict=True):
            block(pause)


def test_blocks_are_timed_in_training_only_and_not_what_is_between_them() -> None:
    model = Stack()
    timer = time_forward(model, PAIR)
    assert isinstance(timer, HostTimer)
    model(0.01, 0.02, 0.01)
    with torch.no_grad():
        model(5.0e-3, 5.0e-3, 5.0e-3)
    time.sleep(0.05)
    model(0.0, 0.02, 0.0)
    assert 0.06 <= timer.read() < 0.1
    assert timer.read() == 0.0
    assert time_forward(Stack(), Ranks(0, 1, torch.device("cpu"))) is None


def test_a_model_that_is_compiled_as_a_whole_is_timed_as_one() -> None:
    """Else the clock would stand inside of its graph."""
    model = Stack()
    forward = model.stack[0].forward
    timer = time_forward(model, PAIR, is_whole=True)
    assert timer is not None
    model(0.0, 0.02, 0.0)
    assert timer.read() >= 0.02
    assert model.stack[0].forward == forward


def test_a_node_has_the_name_that_slurm_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-07")
    assert node_name() == "gpu-07"
