"""Covers `spacing`: against the exact optimum, and a simulated run that learns its failure rate as it goes."""

from __future__ import annotations

import math
import random

import pytest
from scipy.optimize import minimize_scalar

from harness.checkpoint.spacing import (
    FIRST,
    LONGEST,
    PRIOR_NODE_HOURS,
    SHORTEST,
    UNSEEN,
    Spacing,
    best_spacing,
    between_failures,
    expected_seconds,
)
from harness.storage.health.sessions import HOUR, FailureRate


def test_youngs_first_order_holds_where_failures_are_rare() -> None:
    """Young (1974): sqrt(2 d M); for d = 10 s and M = 24 h, 1,315 s."""
    assert best_spacing(10.0, 24 * HOUR) == pytest.approx(math.sqrt(2 * 10 * 24 * HOUR), rel=0.01)


@pytest.mark.parametrize("between", [600.0, HOUR, 24 * HOUR, 1000 * HOUR])
@pytest.mark.parametrize("save", [0.1, 5.0, 60.0, 300.0])
def test_the_spacing_is_within_a_percent_of_the_exact_optimum(save: float, between: float) -> None:
    def seconds(log_spacing: float) -> float:
        return expected_seconds(HOUR, math.exp(log_spacing), save, between)

    best = minimize_scalar(seconds, bounds=(math.log(0.01), math.log(1e7)), method="bounded")
    assert seconds(math.log(best_spacing(save, between))) <= 1.01 * best.fun


def test_the_expected_time_is_that_of_simulated_failures() -> None:
    draw = random.Random(0)
    times = [simulate(50_000.0, 20.0, 9000.0, 60.0, draw, fixed=800.0) for _ in range(400)]
    assert sum(times) / 400 == pytest.approx(expected_seconds(50_000.0, 800.0, 20.0, 9000.0, 60.0), rel=0.02)


def simulate(
    work: float, save: float, between: float, restart: float, draw: random.Random, *, fixed: float | None,
    nodes: int = 1,
) -> float:  # fmt: skip
    """Seconds until the work is saved. Each start knows the failures before it, as a run does from its sessions."""
    clock = done = 0.0
    failures = 0
    spacing = Spacing(fixed, UNSEEN, nodes)
    while done < work:
        fails = clock + draw.expovariate(1 / between)
        while done < work:
            piece = min(spacing.seconds, work - done)
            if clock + piece + save > fails:
                break
            clock, done = clock + piece + save, done + piece
            spacing.saved(save)
        else:
            return clock
        clock, failures = fails + restart, failures + 1
        while (again := draw.expovariate(1 / between)) < restart:  # fails while it starts
            clock, failures = clock + again, failures + 1
        spacing = Spacing(fixed, FailureRate(failures, clock * nodes / HOUR), nodes)
    return clock


@pytest.mark.parametrize(
    ("nodes", "node_hours", "save"),
    [(1, PRIOR_NODE_HOURS, 5.0), (32, PRIOR_NODE_HOURS, 5.0), (32, 400.0, 5.0), (32, 40_000.0, 5.0), (32, 100.0, 30.0)],
    ids=["one-node", "256-gpus", "ten-times-as-often", "a-tenth-as-often", "often-and-slow-saves"],
)
def test_a_run_that_learns_the_rate_is_within_5_percent_of_the_best_spacing(
    nodes: int, node_hours: float, save: float
) -> None:
    """Of 200 simulated weeks; the truth is up to 40 times away from what is assumed before a failure was seen."""
    between, work = node_hours * HOUR / nodes, 7 * 24 * HOUR
    draw = random.Random(1)
    mean = sum(simulate(work, save, between, 120.0, draw, fixed=None, nodes=nodes) for _ in range(200)) / 200
    best = expected_seconds(work, best_spacing(save, between), save, between, 120.0)
    assert mean <= 1.05 * best


def test_the_failure_rate_is_that_of_published_clusters_until_failures_are_seen() -> None:
    assert between_failures(UNSEEN, 32) == PRIOR_NODE_HOURS * HOUR / 32
    seen = FailureRate(9, 6_000.0)
    assert between_failures(seen, 1) == 1_000 * HOUR


def test_the_spacing_is_what_the_recipe_says_or_within_bounds() -> None:
    assert Spacing(7.0, UNSEEN, 1).seconds == 7.0
    auto = Spacing(None, UNSEEN, 32)
    assert auto.seconds == FIRST
    auto.saved(2.0)
    assert auto.seconds == pytest.approx(best_spacing(2.0, 125 * HOUR))
    assert auto.seconds == pytest.approx(1340.0, abs=10)
    rare, often = Spacing(None, UNSEEN, 1), Spacing(None, FailureRate(1_000_000, 1.0), 32)
    for spacing in (rare, often):
        spacing.saved(1.0)
    assert (rare.seconds, often.seconds) == (LONGEST, SHORTEST)
