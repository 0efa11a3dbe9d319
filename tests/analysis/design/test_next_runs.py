"""Choice of the next runs, checked against refits after the run."""

import numpy as np
import pytest

from analysis.design.next_runs import Candidate, droppable, next_runs
from analysis.fitting import averages
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric

LOSS = Metric("loss")
TARGET = 1e18


def study(n=10, noise=0.01, seed=0, top=1e14):
    x = np.geomspace(1e12, top, n)
    y = (0.3 + 3000 * x**-0.3) * np.exp(noise * np.random.default_rng(seed).normal(size=n))
    return Points(x[:, None], y)


def candidates(cost=1.0):
    return [Candidate(f"run {x:.0e}", float(x), float(cost * x / 1e12)) for x in np.geomspace(1e12, 1e17, 11)]


def fitted(points):
    return averages.fit(points, LOSS, "power_offset")


def test_at_equal_cost_the_farthest_run_narrows_a_far_target_most():
    points = study()
    even = [Candidate(one.name, one.x, 1.0) for one in candidates()]
    (choice,) = next_runs(fitted(points), points, even, TARGET, budget=1, count=1)
    assert choice.candidate.x == 1e17
    assert choice.after < 0.5 * choice.before


def test_choices_stay_within_the_budget_without_repeats():
    points = study()
    chosen = next_runs(fitted(points), points, candidates(), TARGET, budget=2000, count=20)
    names = [one.candidate.name for one in chosen]
    assert chosen
    assert sum(one.candidate.hours for one in chosen) <= 2000
    assert len(set(names)) == len(names)
    assert all(one.after < one.before for one in chosen)


def test_twice_the_budget_never_leaves_more_uncertainty_than_the_best_single_run():
    points = study()
    few = next_runs(fitted(points), points, candidates(), TARGET, budget=1000, count=9)
    more = next_runs(fitted(points), points, candidates(), TARGET, budget=1e6, count=9)
    assert more[-1].after <= few[-1].after


def test_the_predicted_gain_is_about_that_of_new_fits():
    """Root mean square errors at the target over thirty studies, before and after adding the run."""
    truth, predicted, before, after = np.log(0.3 + 3000 * TARGET**-0.3), [], [], []
    for seed in range(30):
        points = study(seed=seed)
        one = Candidate("far", 1e16, 1.0)
        (choice,) = next_runs(fitted(points), points, [one], TARGET, budget=1, count=1)
        value = (0.3 + 3000 * one.x**-0.3) * np.exp(0.01 * np.random.default_rng(seed + 50).normal())
        more = Points(np.vstack([points.x, [[one.x]]]), np.append(points.y, value))
        place = np.array([[TARGET]])
        predicted.append(choice.after / choice.before)
        before.append(fitted(points).log_or_linear(place)[0] - truth)
        after.append(fitted(more).log_or_linear(place)[0] - truth)
    found = np.sqrt(np.mean(np.square(after)) / np.mean(np.square(before)))
    assert np.median(predicted) == pytest.approx(found, abs=0.15)


def test_a_duplicate_of_a_planned_run_can_be_dropped_and_the_only_far_one_cannot():
    points = study()
    near = [Candidate(f"near {i}", 1e14, 50.0) for i in range(3)]
    far = Candidate("far", 1e17, 10.0)
    dropped = {one.candidate.name for one in droppable(fitted(points), points, [*near, far], TARGET)}
    assert "far" not in dropped
    assert "near 0" in dropped


def test_a_run_without_cost_is_rejected():
    points = study()
    with pytest.raises(ValueError, match="candidate free: compute 1e\\+15 and hours 0 must be positive"):
        next_runs(fitted(points), points, [Candidate("free", 1e15, 0.0)], TARGET, budget=1, count=1)
