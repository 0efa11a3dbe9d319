"""The verdicts on a run: open, out of reach, diverging, and not enough to tell, each with its numbers."""

from __future__ import annotations

import numpy as np

from analysis.forecast.live import Curve
from analysis.forecast.outlook import Frontier, outlook
from analysis.forecast.rates import Rates

SHARES = np.arange(1, 11) / 20
FALLING = 0.5 + 0.2 * SHARES**-0.5  # ends at 0.7


def seen(loss: np.ndarray, frontier: float | None = None):
    best = None if frontier is None else Frontier(frontier, "vit_b8-rxrx3-s0", 7)
    return outlook(Curve(SHARES[: len(loss)], loss), Rates.constant(), (), best)


def test_a_run_that_falls_to_the_frontier_is_open() -> None:
    found = seen(FALLING, 0.7)
    assert found.verdict == "open"
    assert found.above is not None
    assert 0.1 < found.above < 0.9
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.7 < found.high
    assert seen(FALLING).above is None


def test_a_run_far_above_the_frontier_cannot_reach_it_and_says_by_which_numbers() -> None:
    found = seen(FALLING, 0.4)
    assert found.verdict == "cannot reach the frontier"
    assert found.above is not None
    assert found.above >= 0.99
    assert "at 50% of its schedule" in found.evidence
    assert "0.4 (vit_b8-rxrx3-s0, the best of 7 finished at no more compute)" in found.evidence


def test_a_run_that_loses_what_it_had_gained_diverges() -> None:
    loss = FALLING.copy()
    loss[-2:] = [1.1, 1.2]
    found = seen(loss, 0.7)
    assert found.verdict == "diverging"
    assert f"a loss of 1.1, 1.2, after {loss[-3]:.4g} at 40% of the schedule" in found.evidence


def test_one_high_reading_and_noise_are_no_divergence() -> None:
    spike = FALLING.copy()
    spike[-1] = 2.0
    assert seen(spike).verdict == "open"
    noisy = 0.9 * np.exp(0.01 * np.random.default_rng(0).normal(size=10))
    assert seen(noisy).verdict == "open"


def test_a_run_that_has_just_begun_is_not_enough_to_tell() -> None:
    found = seen(FALLING[:2], 0.4)
    assert (found.verdict, found.final, found.above) == ("not enough to tell", None, None)
    assert "2 validations after the warm-up" in found.evidence
