"""Choice of the next runs, checked against refits after the run."""

import numpy as np
import pytest

from analysis.design.next_runs import Candidate, _evenly, _rehearsed, droppable, next_runs, unsettled
from analysis.design.plausible import Plausible
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


def test_from_neighbouring_runs_the_range_comes_first_and_near_runs_narrow():
    """Six runs within half a decade know nothing of the plateau: the first choice is decades away from them."""
    points = study(n=6, top=3e12)
    runs = next_runs(fitted(points), points, candidates(), TARGET, budget=3e4, count=6)
    assert runs[0].purpose == "range"
    assert {run.purpose for run in runs if run.candidate.x < 1e13} <= {"narrowing"}
    assert max(run.candidate.x for run in runs) >= 1e16


def test_what_is_unsettled_is_told_of_the_same_laws():
    points = study()
    laws = Plausible.of(points, LOSS, np.array([1e17]), TARGET)
    assert unsettled(fitted(points), points, TARGET) == laws.unsettled


@pytest.mark.parametrize("name", ["log_linear", "logit_linear"])
def test_deviations_are_in_the_space_of_the_law(name):
    """A share near 0.5: one unit of log(1 - r) is 0.5 of r, and 2 of its logit."""
    x = np.geomspace(1e12, 1e14, 10)
    share = Points(x[:, None], 0.5 + 1e-9 * np.arange(10))
    law = averages.fit(share, Metric("share"), name)
    in_logs = Plausible.of(share, Metric("share"), np.array([1e15]), TARGET).deviation
    (run,) = next_runs(law, share, [Candidate("far", 1e15, 1.0)], TARGET, budget=1, count=1)
    assert run.before == pytest.approx(in_logs * {"log_linear": 0.5, "logit_linear": 2.0}[name], rel=1e-3)


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


def test_runs_at_even_steps_go_down_from_the_largest_within_the_budget():
    x = np.geomspace(1e12, 1e18, 13)  # two a decade
    hours = x / 1e12
    assert _evenly(x, hours, 1e9, 9, 1.0) == [12, 10, 8, 6, 4, 2, 0]
    assert _evenly(x, hours, 2e3, 9, 1.0) == [6, 4, 2, 0]  # 1e15 is the largest that 2,000 hours allow
    assert _evenly(x, hours, 1e9, 3, np.inf) == [12, 11, 10]


def test_the_choice_with_the_least_rehearsed_error_is_kept():
    """A far run and one beside the finished runs, at the same cost: refits say the same as the closed form."""
    points, x = study(n=8, top=1e13), np.array([1e13, 1e17])
    laws = Plausible.of(points, LOSS, x, TARGET)
    assert _rehearsed(fitted(points), points, x, TARGET, [[0], [1]], laws) == [1]
    assert _rehearsed(fitted(points), points, x, TARGET, [[0], [0], []], laws) == [0]
    assert _rehearsed(fitted(points), points, x, TARGET, [[], []], laws) == []
