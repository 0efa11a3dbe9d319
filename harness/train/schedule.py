"""The learning rate at a step, the momentum where it is cycled, and whether a run reached the end of its schedule."""

from __future__ import annotations

import math

from harness.recipe.schema import Schedule


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


def scheduled_rate(step: int, total_steps: int, peak: float, schedule: Schedule) -> float:
    """`learning_rate` under a recipe's schedule."""
    return learning_rate(
        step, total_steps, peak, warmup_fraction=schedule.warmup, initial_fraction=schedule.start_factor,
        final_fraction=schedule.final_factor,
    )  # fmt: skip


def scheduled_momentum(step: int, total_steps: int, schedule: Schedule) -> float | None:
    """`cycled_momentum` under a recipe's schedule; None where the momentum stays as the optimiser has it."""
    if not schedule.cycle_momentum:
        return None
    return cycled_momentum(step, total_steps, *schedule.momentum_range, warmup_fraction=schedule.warmup)


def is_annealed(steps: int, planned_steps: int, schedule: Schedule) -> bool:
    """Whether the last of `steps` updates had the rate at which the planned run ends.

    A run that stopped before has a higher loss than a run planned for its length. A rate that stays at its peak
    (`final_factor` 1) is at its end as soon as it is warm: such a run may stop anywhere.

    Raises:
        ValueError: there are no steps, or more than were planned.
    """
    if not 0 < steps <= planned_steps:
        raise ValueError(f"{steps} steps of {planned_steps} are not a finished run")
    if steps - 1 < schedule.warmup * planned_steps - 1:
        return False
    last, end = (scheduled_rate(step - 1, planned_steps, 1.0, schedule) for step in (steps, planned_steps))
    return math.isclose(last, end)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
