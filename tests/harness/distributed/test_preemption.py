"""A stop signal sets a flag, and the loop stops before the next item.

Covers `preemption` and `agreement` with one rank; `tests/distributed/test_agreement.py` runs them with several.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch

from harness.distributed.agreement import Agreement
from harness.distributed.preemption import Preempted, RunControl, StopFlag, controlled, in_lockstep, stop_on_signals
from harness.distributed.ranks import Ranks
from harness.storage.fencing import Unfenced

RANKS = Ranks(0, 1, torch.device("cpu"))


def test_the_first_signal_sets_the_flag_and_handlers_are_restored() -> None:
    numbers = (signal.SIGUSR2, signal.SIGTERM)
    previous = [signal.getsignal(number) for number in numbers]
    with stop_on_signals() as stop:
        assert not stop
        for number in numbers:
            os.kill(os.getpid(), number)
        assert stop
        assert str(stop) == "SIGUSR2"
    assert [signal.getsignal(number) for number in numbers] == previous


def test_a_set_flag_stops_the_loop_before_the_next_item() -> None:
    stop = StopFlag()
    items = in_lockstep(range(5), RANKS, stop)
    assert [next(items), next(items)] == [0, 1]
    stop.set(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM"):
        next(items)


def test_all_items_are_yielded_without_a_signal() -> None:
    assert list(in_lockstep(range(3), RANKS, StopFlag())) == [0, 1, 2]


def test_ranks_agree_once_for_each_item() -> None:
    """On whether any item is left, and whether to stop; of 256 ranks each such message is a round trip."""
    asked = list[tuple[bool, ...]]()

    class Counting(Ranks):
        def any_of(self, *flags: bool) -> tuple[bool, ...]:
            asked.append(flags)
            return super().any_of(*flags)

    assert list(in_lockstep(range(3), Counting(0, 1, torch.device("cpu")), StopFlag())) == [0, 1, 2]
    assert asked == [(True, False)] * 3 + [(False, False)]


def test_the_callers_control_is_used_and_no_handler_is_installed() -> None:
    control, handler = RunControl(StopFlag(), Unfenced()), signal.getsignal(signal.SIGTERM)
    with controlled(control) as used:
        assert used is control
        assert signal.getsignal(signal.SIGTERM) == handler


def test_one_rank_sees_its_flags_at_once() -> None:
    assert Agreement(RANKS)(True, False) == (True, False)
