"""Covers `schedule`: when a run's learning rate has reached its end. tests/harness/distributed compares the rates."""

import pytest

from harness.recipe.schedules import OneCycleCosine, Shape, WarmupStableDecay
from harness.train.schedule import RunSchedule

CONSTANT = OneCycleCosine(warmup=0.1, final_factor=1.0)


def of_100(schedule: OneCycleCosine) -> RunSchedule:
    """The rates of a whole run of 100 steps."""
    return RunSchedule(schedule, 100, 100)


def test_a_decaying_run_is_annealed_at_its_last_step_only() -> None:
    """One-cycle over 100 steps: at step 54 the rate is half of its peak, at step 98 still above its end."""
    assert of_100(OneCycleCosine(final_factor=0.0)).rate(54, 1.0) == pytest.approx(0.5)
    for schedule in (OneCycleCosine(), OneCycleCosine(final_factor=0.0), OneCycleCosine(final_factor=0.5)):
        assert of_100(schedule).is_annealed(100)
        assert not any(of_100(schedule).is_annealed(steps) for steps in (1, 10, 55, 99))


def test_a_long_decay_is_not_annealed_before_its_last_step() -> None:
    assert not RunSchedule(OneCycleCosine(), 1_000_000, 1_000_000).is_annealed(999_999)


def test_a_constant_rate_is_at_its_end_once_it_is_warm() -> None:
    assert [of_100(CONSTANT).is_annealed(steps) for steps in (1, 9, 10, 50, 100)] == [False, False, True, True, True]
    assert of_100(OneCycleCosine(warmup=0.0, final_factor=1.0)).is_annealed(1)


def test_a_warm_up_that_passes_the_final_rate_is_not_annealed() -> None:
    """The first step's rate is 0.04 of the peak, and so is the last one's."""
    assert not of_100(OneCycleCosine(start_factor=0.04, final_factor=0.04)).is_annealed(1)


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_a_run_without_steps_or_beyond_its_plan_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"{steps} steps of 100"):
        of_100(OneCycleCosine()).is_annealed(steps)


STABLE = WarmupStableDecay(name="warmup_stable_decay", warmup=0.1, start_factor=0.2, decay=0.5)


@pytest.mark.parametrize(
    ("shape", "decay"),
    [("sqrt", [1.0, 0.5, 0.2929]), ("linear", [1.0, 0.75, 0.5]), ("cosine", [1.0, 0.8536, 0.5])],
)
def test_a_stable_rate_warms_up_stays_and_decays(shape: Shape, decay: list[float]) -> None:
    """Of 100 steps 10 warm up from 0.2; the run to 0.8 decays from step 40 to 80, here at 40, 50 and 60."""
    schedule = RunSchedule(STABLE.model_copy(update={"shape": shape}), 100, 80, 40)
    assert [schedule.rate(step, 2.0) for step in (0, 5, 10, 39)] == pytest.approx([0.4, 1.2, 2.0, 2.0])
    assert [schedule.rate(step, 1.0) for step in (40, 50, 60)] == pytest.approx(decay, abs=5e-5)
    assert 0 < schedule.rate(79, 1.0) < 0.05
    assert schedule.momentum(50) is None
    assert [schedule.is_annealed(steps) for steps in (40, 79, 80)] == [False, False, True]
    with pytest.raises(ValueError, match="step 80 is outside the run"):
        schedule.rate(80, 1.0)


def test_a_trunk_has_the_rates_of_every_branch_before_its_decay() -> None:
    trunk, branch = RunSchedule(STABLE, 100, 40), RunSchedule(STABLE, 100, 80, 40)
    assert [trunk.rate(step, 1.0) for step in range(40)] == [branch.rate(step, 1.0) for step in range(40)]
    assert not trunk.is_annealed(40)


def test_a_stopped_cosine_has_the_rates_of_the_whole_run() -> None:
    whole, part = of_100(OneCycleCosine()), RunSchedule(OneCycleCosine(), 100, 30)
    assert [part.rate(step, 1.0) for step in range(30)] == [whole.rate(step, 1.0) for step in range(30)]
    assert not part.is_annealed(30)
