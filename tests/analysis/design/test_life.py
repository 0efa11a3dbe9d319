"""Lifetime frontiers of fitted laws: the truth's optimum, coverage of its interval, and turns between models."""

import numpy as np
import pytest

from analysis.design.frontier import compute_optimal
from analysis.design.life import LifeLaw
from analysis.design.lifetime import Costs, Joint, cheapest
from analysis.fitting.estimate import Points, fit_law
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

TRUTH = Joint(*(np.array([part]) for part in (0.2, 1200.0, 600.0, 0.4, 0.4)))
COSTS = Costs(np.array([1e9, 1e10, 1e11]), np.array([1e9, 1e10, 1e11]), np.array([2e8, 4e9, 8e10]))
EMBEDDED = np.array([0.0, 1e8, 1e10])
WANTED = 0.35


def runs(noise=0.0, seed=0, kind="loss"):
    """Six sizes times six amounts of crops."""
    size, crops = (part.ravel() for part in np.meshgrid(np.geomspace(1e9, 1e11, 6), np.geomspace(1e7, 1e10, 6)))
    y = TRUTH.at(size[None], crops[None])[0] * np.exp(noise * np.random.default_rng(seed).normal(size=36))
    return Points(np.column_stack([size, crops]), 1 - y if kind == "share" else y)


def law(points, kind="loss", **options):
    return LifeLaw.of(fit_law(named_law("joint"), points, Metric(kind)), points, **options)


@pytest.mark.parametrize("kind", ["loss", "share"])
def test_exact_runs_give_the_truth_s_frontier(kind):
    found = law(runs(kind=kind), kind, count=20).frontier(
        COSTS, EMBEDDED, metric=1 - WANTED if kind == "share" else WANTED
    )
    truth = cheapest(TRUTH, COSTS, EMBEDDED, WANTED)
    assert found.size.value == pytest.approx(truth.size[0], rel=0.01)
    assert found.total.value == pytest.approx(truth.total[0], rel=0.01)
    assert found.train + found.embed == pytest.approx(found.total.value)
    assert found.metric.value == pytest.approx(np.full(3, 1 - WANTED if kind == "share" else WANTED))
    assert found.reached == pytest.approx(np.ones(3))


def test_the_interval_of_the_best_size_contains_the_truth():
    """90% intervals in ten studies: at least seven hold it, at each amount embedded."""
    truth = cheapest(TRUTH, COSTS, EMBEDDED, WANTED).size[0]
    held = np.zeros(3)
    for seed in range(10):
        size = law(runs(0.003, seed)).frontier(COSTS, EMBEDDED, metric=WANTED).size
        held += (size.low <= truth) & (truth <= size.high)
    assert (held >= 7).all()


def test_a_budget_without_embedding_is_the_compute_optimal_frontier():
    points, one = runs(0.003), Costs(np.array([1.0]), np.array([1.0]), np.array([1.0]))
    fitted = fit_law(named_law("joint"), points, Metric("loss"))
    life = LifeLaw.of(fitted, points).frontier(one, np.array([0.0]), budget=1e19)
    plain = compute_optimal(fitted, points, [1e19], per_unit=1.0)
    assert life.size.value == pytest.approx(plain.size, rel=1e-3)
    assert life.crops.value == pytest.approx(plain.data, rel=1e-3)
    assert life.metric.value == pytest.approx(plain.loss, rel=1e-4)
    assert life.size.low == pytest.approx(plain.size_low, rel=0.1)  # other numbers of draws
    assert life.size.high == pytest.approx(plain.size_high, rel=0.1)


def test_cheaper_models_take_over_as_more_is_embedded():
    turns = law(runs()).turns(COSTS, ["S", "B", "L"], WANTED)
    size = np.array([[1e9, 1e10, 1e11]])
    train = (COSTS.train * TRUTH.crops(size, np.full((1, 3), WANTED)))[0]
    crossing = (train[1] - train[2]) / (COSTS.embed[2] - COSTS.embed[1])
    assert np.isinf(train[0])  # S does not reach it with any data
    assert [(turn.model, turn.crops) for turn in turns] == [("L", 0.0), ("B", pytest.approx(crossing, rel=0.02))]
    assert all(turn.low <= turn.crops <= turn.high for turn in turns)


def test_a_frontier_is_for_a_metric_or_a_budget():
    life = law(runs(), count=20)
    with pytest.raises(ValueError, match="for a metric or for a budget: give one of them"):
        life.frontier(COSTS, EMBEDDED)
    with pytest.raises(ValueError, match="give one of them"):
        life.frontier(COSTS, EMBEDDED, metric=0.4, budget=1e19)


def test_other_laws_are_refused():
    points = runs()
    tied = fit_law(named_law("joint_tied"), points, Metric("loss"))
    with pytest.raises(ValueError, match="needs the law joint, not joint_tied"):
        LifeLaw.of(tied, points)


def test_a_metric_below_the_plateau_is_out_of_reach():
    life = law(runs(0.003)).frontier(COSTS, EMBEDDED, metric=0.1)
    assert np.isinf(life.size.value).all()
    assert (life.reached < 0.1).all()
