"""The learning rate at a step, and whether a run reached its end."""

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
    Betas do not cycle with it: Lion's stay as given.

    Args:
        step: from 0 to `total_steps` - 1.

    Raises:
        ValueError: a step outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside the run: it has steps 0 to {total_steps - 1}")
    top, last = max(0.0, warmup_fraction * total_steps - 1), total_steps - 1
    if step < top:
        return _cosine(initial_fraction * peak, peak, step / top)
    return _cosine(peak, final_fraction * peak, (step - top) / (last - top) if last > top else 0.0)


def scheduled_rate(step: int, total_steps: int, peak: float, schedule: Schedule) -> float:
    """`learning_rate` under a recipe's schedule."""
    return learning_rate(
        step, total_steps, peak, warmup_fraction=schedule.warmup, initial_fraction=schedule.start_factor,
        final_fraction=schedule.final_factor,
    )  # fmt: skip


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
