"""The learning rate at a step, the momentum where it is cycled, and whether a run reached the end of its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.grid.cell import Training
from harness.grid.states import decay_from, last_step
from harness.recipe.schedules import Schedule, Shape, WarmupStableDecay


def learning_rate(
    step: int,
    total_steps: int,
    peak: float,
    *,
    warmup_fraction: float = 0.1,
    initial_fraction: float = 1 / 25,
    final_fraction: float = 1 / 25e4,
) -> float:
    """One-cycle cosine (Smith & Topin 2018): up from `initial_fraction · peak`, then down to `final_fraction · peak`.

    The numbers are torch's `OneCycleLR(cycle_momentum=False)`: its `pct_start` is `warmup_fraction`, `div_factor` is
    1 / `initial_fraction`, `final_div_factor` is `initial_fraction` / `final_fraction`. The peak falls on step
    `warmup_fraction · total_steps - 1`, which need not be whole; a run too short to warm up starts at the peak.

    Args:
        step: from 0 to `total_steps` - 1.

    Raises:
        ValueError: a step outside the run.
    """
    return _one_cycle(step, total_steps, warmup_fraction, initial_fraction * peak, peak, final_fraction * peak)


def cycled_momentum(step: int, total_steps: int, low: float, high: float, *, warmup_fraction: float = 0.1) -> float:
    """The momentum of torch's `OneCycleLR(cycle_momentum=True)`: `high` at the first and the last step, `low` at the
    peak of the learning rate. Its `base_momentum` and `max_momentum` are `low` and `high`.

    Raises:
        ValueError: a step outside the run.
    """
    return _one_cycle(step, total_steps, warmup_fraction, high, low, high)


def _one_cycle(step: int, total_steps: int, warmup_fraction: float, first: float, top: float, last: float) -> float:
    """Half a cosine from `first` to `top` at the end of the warm-up, and half a cosine to `last` at the last step."""
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside the run: it has steps 0 to {total_steps - 1}")
    peak, end = max(0.0, warmup_fraction * total_steps - 1), total_steps - 1
    if step < peak:
        return _cosine(first, top, step / peak)
    return _cosine(top, last, (step - peak) / (end - peak) if end > peak else 0.0)


def stable_then_decay(
    step: int, warmup_steps: int, decay_from: int | None, last: int, peak: float, start: float, shape: Shape
) -> float:
    """Linear warm-up from `start`, the peak, and a decay that would be zero at step `last` (Hägele et al. 2024, eq. 1).

    Args:
        step: counted from 0.
        warmup_steps: the peak is reached after so many.
        decay_from: the first step that may have less than the peak; None: there is no decay.
        last: the step at which the run ends, one after its last update.
    """
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    if decay_from is None or step < decay_from:
        return peak
    passed = (step - decay_from) / (last - decay_from)
    return peak * DECAYS[shape](passed)


@dataclass(frozen=True)
class RunSchedule:
    """The rates of a cell's steps.

    Attributes:
        planned: steps of the whole run, which the schedule is made for.
        last: the step at which the cell ends.
        decay_from: the step at which a branch's decay begins.
    """

    schedule: Schedule
    planned: int
    last: int
    decay_from: int | None = None

    def rate(self, step: int, peak: float) -> float:
        """The learning rate of the update that follows `step` others.

        Raises:
            ValueError: a step outside the cell's run.
        """
        schedule = self.schedule
        if not 0 <= step < self.last:
            raise ValueError(f"step {step} is outside the run: it has steps 0 to {self.last - 1}")
        if isinstance(schedule, WarmupStableDecay):
            warmup, start = round(schedule.warmup * self.planned), schedule.start_factor * peak
            return stable_then_decay(step, warmup, self.decay_from, self.last, peak, start, schedule.shape)
        return learning_rate(
            step, self.planned, peak, warmup_fraction=schedule.warmup, initial_fraction=schedule.start_factor,
            final_fraction=schedule.final_factor,
        )  # fmt: skip

    def momentum(self, step: int) -> float | None:
        """The momentum or first beta of that update; None where it stays as the optimiser has it."""
        schedule = self.schedule
        if isinstance(schedule, WarmupStableDecay) or not schedule.cycle_momentum:
            return None
        return cycled_momentum(step, self.planned, *schedule.momentum_range, warmup_fraction=schedule.warmup)

    def is_annealed(self, steps: int) -> bool:
        """Whether the last of `steps` updates had the rate at which the planned run ends.

        A run that stopped before has a higher loss than a run planned for its length. A cosine whose rate stays at its
        peak (`final_factor` 1) is at its end as soon as it is warm: such a run may stop anywhere.

        Raises:
            ValueError: there are no steps, or more than were planned.
        """
        schedule = self.schedule
        if not 0 < steps <= self.last:
            raise ValueError(f"{steps} steps of {self.last} are not a finished run")
        if isinstance(schedule, WarmupStableDecay):
            return self.decay_from is not None and steps == self.last
        if steps - 1 < schedule.warmup * self.planned - 1:
            return False
        end = replace(self, last=self.planned).rate(self.planned - 1, 1.0)
        return math.isclose(self.rate(steps - 1, 1.0), end)


def run_schedule(training: Training, planned: int) -> RunSchedule:
    """The rates of a cell, of a whole run of `planned` steps.

    Raises:
        ValueError: the run is too short to have a decay.
    """
    begin = decay_from(training, planned)
    return RunSchedule(training.settings.schedule, planned, last_step(training, planned), begin)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


DECAYS: dict[Shape, Callable[[float], float]] = {
    "sqrt": lambda passed: 1 - math.sqrt(passed),
    "linear": lambda passed: 1 - passed,
    "cosine": lambda passed: _cosine(1.0, 0.0, passed),
}
