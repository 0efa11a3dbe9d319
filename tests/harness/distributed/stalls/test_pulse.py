"""What a process says of where it is in its work."""

from harness.distributed.stalls import pulse
from harness.distributed.stalls.pulse import DATA, SAVE, START, STEP, Pulse


def test_the_first_of_each_phase_does_not_count_as_slow(monkeypatch) -> None:
    clock = iter([0.0, 100.0, 101.0, 103.0, 110.0])
    monkeypatch.setattr(pulse.time, "monotonic", lambda: next(clock))
    work = Pulse()
    work.mark(STEP, 0)  # at 0
    assert not work.is_usual
    work.mark(DATA)  # the first step took 100 s
    work.mark(STEP, 1)
    work.mark(DATA)  # the second took 2 s
    assert work.slowest == 2.0
    work.mark(SAVE)  # waiting for data took 7 s
    assert work.slowest == 7.0


def test_a_new_piece_of_work_knows_nothing_of_the_last() -> None:
    work = Pulse()
    for step in range(2):
        work.mark(DATA, step)
        work.mark(STEP)
    work.slowest, work.since = 50.0, work.since - 3600
    work.begin()
    assert (work.phase, work.step, work.slowest) == (START, 0, 0.0)
    assert work.age < 60
    work.mark(STEP, 0)
    assert not work.is_usual, "its first step may compile"
