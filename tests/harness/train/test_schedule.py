"""Covers `schedule`: when a run's learning rate has reached its end. tests/harness/distributed compares the rates."""

import pytest

from harness.recipe.schema import Schedule
from harness.train.schedule import is_annealed, scheduled_rate

CONSTANT = Schedule(warmup=0.1, final_factor=1.0)


def test_a_decaying_run_is_annealed_at_its_last_step_only() -> None:
    """One-cycle over 100 steps: at step 54 the rate is half of its peak, at step 98 still above its end."""
    assert scheduled_rate(54, 100, 1.0, Schedule(final_factor=0.0)) == pytest.approx(0.5)
    for schedule in (Schedule(), Schedule(final_factor=0.0), Schedule(final_factor=0.5)):
        assert is_annealed(100, 100, schedule)
        assert not any(is_annealed(steps, 100, schedule) for steps in (1, 10, 55, 99))


def test_a_long_decay_is_not_annealed_before_its_last_step() -> None:
    assert not is_annealed(999_999, 1_000_000, Schedule())


def test_a_constant_rate_is_at_its_end_once_it_is_warm() -> None:
    assert [is_annealed(steps, 100, CONSTANT) for steps in (1, 9, 10, 50, 100)] == [False, False, True, True, True]
    assert is_annealed(1, 100, Schedule(warmup=0.0, final_factor=1.0))


def test_a_warm_up_that_passes_the_final_rate_is_not_annealed() -> None:
    """The first step's rate is 0.04 of the peak, and so is the last one's."""
    assert not is_annealed(1, 100, Schedule(start_factor=0.04, final_factor=0.04))


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_a_run_without_steps_or_beyond_its_plan_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"{steps} steps of 100"):
        is_annealed(steps, 100, Schedule())
