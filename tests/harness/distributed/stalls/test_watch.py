"""One process that stands still: said, taken back, ended; and what counts as standing still."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.distributed.preemption import RunControl, StopFlag
from harness.distributed.ranks import Ranks
from harness.distributed.stalls.pulse import DATA, PULSE, SAVE, STEP, Ending
from harness.distributed.stalls.watch import Limits, watched
from harness.storage.fencing import Unfenced
from harness.storage.health.stall import STACKS, STALL, Stall, read_stall, write_stall

ALONE = Ranks(0, 1, torch.device("cpu"))
QUICK = Limits(beat=0.02, usual=0.1)


def work() -> None:
    """Some steps, as of a process that has made them before."""
    for step in range(3):
        PULSE.mark(DATA, step)
        PULSE.mark(STEP)
    PULSE.slowest = 0.0


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not true():
        time.sleep(0.01)
    return true()


def test_a_step_that_stands_still_is_said_and_taken_back(tmp_path: Path, capfd) -> None:
    with watched(tmp_path, ALONE, RunControl(StopFlag(), Unfenced()), None, QUICK):
        work()
        assert eventually(lambda: (tmp_path / STALL).exists())
        found = read_stall(tmp_path)
        assert found is not None
        assert found.in_words.startswith("stalled for 0:00: phase step of step 2 has stood still for 0 s: this process")
        assert "test_watch.py" in (tmp_path / STACKS / "rank-0.txt").read_text()
        PULSE.mark(DATA, 3)
        assert eventually(lambda: not (tmp_path / STALL).exists())
    assert "step 3: goes on" in capfd.readouterr().err


@pytest.mark.parametrize("stopped", [False, True], ids=["limit", "signal"])
def test_a_process_ends_at_the_limit_or_when_a_signal_waits(tmp_path: Path, *, stopped: bool) -> None:
    ends, flag = list[Ending](), StopFlag()
    flag.reason = "SIGTERM" if stopped else None
    limits = QUICK if stopped else Limits(beat=0.02, usual=0.1, end=0.2)
    with watched(tmp_path, ALONE, RunControl(flag, Unfenced(), ends.append), None, limits):
        work()
        assert eventually(lambda: bool(ends))
    assert ends[0].is_speaker
    assert ends[0].told_to_stop == stopped
    assert ("told to stop, but phase step of step 2" in ends[0].text) == stopped
    assert ends[0].text.endswith("the last checkpoint stays")


def test_a_rank_that_wakes_when_its_job_is_ended_says_nothing(tmp_path: Path, capfd) -> None:
    """Rank 0 named this one and waits to be requeued: to this one, it is rank 0 that does not answer."""
    ends = list[Ending]()
    limits = Limits(beat=0.02, usual=0.1, end=0.2)
    with watched(tmp_path, ALONE, RunControl(StopFlag(), Unfenced(), ends.append), None, limits):
        write_stall(tmp_path, Stall("rank 1 is not answering", 0.0, is_ended=True), 2)
        work()
        assert eventually(lambda: bool(ends))
    assert not ends[0].is_speaker
    assert capfd.readouterr().err == ""
    assert read_stall(tmp_path) == Stall("rank 1 is not answering", 0.0, is_ended=True)


@pytest.mark.parametrize(
    ("error", "stopped", "limit", "ended"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True, None, [True]),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), False, 60.0, [False]),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), False, None, []),
        (ValueError("no images"), True, 60.0, []),
    ],
    ids=["stopped", "limit", "only-said", "own-error"],
)
def test_a_connection_that_is_lost_after_a_stall_was_told_ends_the_rank_for_the_stall(
    tmp_path: Path, error: Exception, limit: float | None, ended: list[bool], *, stopped: bool
) -> None:
    """Another rank ended for it a moment before."""
    ends, flag = list[Ending](), StopFlag()

    def lose() -> None:
        with watched(tmp_path, ALONE, RunControl(flag, Unfenced(), ends.append), None, replace(QUICK, end=limit)):
            work()
            assert eventually(lambda: (tmp_path / STALL).exists())
            PULSE.since += 3600  # so that the thread does not end it
            flag.reason = "SIGTERM" if stopped else None
            raise error

    with pytest.raises(type(error)):
        lose()
    assert [ending.told_to_stop for ending in ends] == ended


def test_the_next_piece_of_work_of_a_process_begins_anew(tmp_path: Path) -> None:
    """A local sweep runs cell after cell in one process, and between two trainings lie embedding and evaluation."""
    work()
    PULSE.since -= 3600
    ends = list[Ending]()
    with watched(tmp_path, ALONE, RunControl(StopFlag(), Unfenced(), ends.append), None, Limits(beat=0.02, end=60.0)):
        time.sleep(0.2)
    assert ends == []
    assert not (tmp_path / STACKS).exists()


def test_a_save_is_not_ended_for_the_signal_that_asked_for_it(tmp_path: Path) -> None:
    """Also one that takes so long that it is said."""
    ends, flag = list[Ending](), StopFlag()
    flag.reason = "SIGUSR2"
    limits = Limits(beat=0.02, long=0.2)
    with watched(tmp_path, ALONE, RunControl(flag, Unfenced(), ends.append), None, limits):
        work()
        PULSE.mark(SAVE)
        assert eventually(lambda: (tmp_path / STALL).exists())
        time.sleep(0.2)
    assert ends == []


def test_what_was_never_done_before_and_what_is_long_have_longer_limits() -> None:
    limits = Limits()
    PULSE.begin()
    assert limits.tell() == limits.first
    work()
    assert limits.tell() == limits.usual
    PULSE.slowest = 20.0
    assert limits.tell() == 80.0
    PULSE.mark(SAVE)
    assert limits.tell() == limits.long
