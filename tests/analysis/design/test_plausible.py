"""Plausible laws: closed forms of their deviations, what neighbouring runs leave open, and what settles it."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.design.plausible import Plausible
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric

LOSS, SHARE, SCORE = Metric("loss"), Metric("share"), Metric("score")
TARGET = 1e20


def runs(x, noise=0.003, floor=0.3, exponent=0.3, seed=0):
    x = np.asarray(x, dtype=float)
    y = (floor + (x / 1e14) ** -exponent) * np.exp(noise * np.random.default_rng(seed).normal(size=len(x)))
    return Points(x[:, None], y)


NEAR, SPREAD = np.geomspace(1e14, 3e14, 8), np.geomspace(1e14, 1e18, 8)


def test_a_run_reduces_the_deviation_by_its_gain():
    laws = Plausible.of(runs(NEAR), LOSS, np.geomspace(1e14, 1e18, 9), TARGET)
    for place, gain in enumerate(laws.gains()):
        assert laws.deviation - laws.after(place).deviation == pytest.approx(gain, rel=1e-6)
        assert gain >= 0


def test_the_order_in_which_runs_are_seen_does_not_matter():
    laws = Plausible.of(runs(NEAR), LOSS, np.geomspace(1e15, 1e18, 4), TARGET)
    assert laws.after(0).after(3).deviation == pytest.approx(laws.after(3).after(0).deviation, rel=1e-6)


def test_after_a_run_it_is_as_if_it_had_been_among_the_points():
    """The same laws with one point more: a run on the law, at the first place, changes no weight much."""
    points, far = runs(SPREAD, noise=0.01), 1e18
    laws = Plausible.of(points, LOSS, np.array([far]), TARGET)
    more = runs(np.append(SPREAD, far), noise=0.01)
    found = Plausible.of(more, LOSS, np.array([far]), TARGET)
    assert laws.after(0).deviation == pytest.approx(found.deviation, rel=0.25)


def test_neighbouring_runs_leave_plateau_and_exponent_open_and_runs_over_the_range_do_not():
    near, spread = (Plausible.of(runs(x), LOSS, np.array([1e18]), TARGET) for x in (NEAR, SPREAD))
    assert near.unsettled.plateau is not None
    assert spread.unsettled.plateau is not None
    assert np.ptp(near.unsettled.plateau) > 0.3
    assert np.ptp(spread.unsettled.plateau) < 0.5
    assert np.divide(*near.unsettled.exponent[::-1]) > 2 * np.divide(*spread.unsettled.exponent[::-1])
    assert near.deviation > 2 * spread.deviation


def test_from_neighbouring_runs_a_far_run_tells_more_than_a_near_one():
    gains = Plausible.of(runs(NEAR), LOSS, np.array([3e14, 1e16, 1e18]), TARGET).gains()
    assert gains[0] < gains[1] < gains[2]


@pytest.mark.parametrize(
    ("metric", "change"), [(LOSS, lambda y: 7 * y), (SCORE, lambda y: 5 - 7 * y)], ids=["loss", "score"]
)
def test_units_do_not_matter(metric, change):
    points = runs(SPREAD)
    same = Points(points.x * 1e6, change(points.y))
    laws = Plausible.of(Points(points.x, -points.y if metric is SCORE else points.y), metric, np.array([1e18]), TARGET)
    scaled = Plausible.of(same, metric, np.array([1e24]), TARGET * 1e6)
    ratio = 7 if metric is SCORE else 1  # a loss is in logarithms
    assert scaled.deviation == pytest.approx(ratio * laws.deviation, rel=1e-3)


def test_a_share_is_its_distance_from_the_bound():
    points = runs(SPREAD, floor=0.1)
    points = Points(points.x, points.y / 1.2)
    as_loss = Plausible.of(points, LOSS, np.array([1e18]), TARGET)
    as_share = Plausible.of(Points(points.x, 1 - points.y), SHARE, np.array([1e18]), TARGET)
    assert as_share.deviation == pytest.approx(as_loss.deviation, rel=1e-9)


def test_three_points_are_enough_for_a_deviation():
    laws = Plausible.of(runs([1e14, 1e15, 1e16]), LOSS, np.array([1e18]), TARGET)
    assert 0 < laws.after(0).deviation < laws.deviation < 10


def test_studies_vary_as_the_laws_do():
    """Of one law: the mean is its curve, the deviation of a run that of its parameters and the noise."""
    laws = Plausible.of(runs(SPREAD, noise=0.01), LOSS, np.array([1e17]), TARGET)
    one = replace(
        laws, curves=laws.curves[:1], slopes=laws.slopes[:1], target=laws.target[:1], covariance=laws.covariance[:1],
        weights=np.ones(1),
    )  # fmt: skip
    shown, truth = one.studies(4000)
    slope = one.slopes[0, 0]
    assert shown.mean(axis=0) == pytest.approx(one.curves[0, :1], abs=5 * shown.std() / np.sqrt(4000))
    assert shown.std() == pytest.approx(np.sqrt(slope @ one.covariance[0] @ slope + one.noise), rel=0.05)
    assert truth.std() == pytest.approx(one.deviation, rel=0.05)
