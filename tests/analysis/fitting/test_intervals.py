"""Intervals: resampling, rolling origins, and the calibrated confidences."""

import numpy as np
import pytest

from analysis.fitting import averages
from analysis.fitting.estimate import Points, fit_law
from analysis.fitting.intervals import bootstrap, factor, interval, resample_weights, rolling_origin, scale_at
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

LOSS = Metric("loss")


def curve(n=30, noise=0.01, seed=0):
    x = np.geomspace(1e12, 1e17, n)
    return Points(x[:, None], (0.2 + 3000 * x**-0.3) * np.exp(noise * np.random.default_rng(seed).normal(size=n)))


def test_complete_runs_are_drawn_where_runs_are_named():
    points = Points(np.arange(1.0, 13)[:, None], np.ones(12), runs=tuple("aaaabbbbcccc"))
    weights = resample_weights(points, np.zeros(12), 50, np.random.default_rng(0))
    assert (weights.reshape(50, 3, 4) == weights.reshape(50, 3, 4)[:, :, :1]).all()
    assert (weights.sum(axis=1) == 12).all()


def test_checkpoints_that_correlate_are_drawn_in_blocks():
    """Neighbours of a drawn checkpoint are then drawn with it more often than by chance."""
    points, wave = Points(np.arange(1.0, 61)[:, None], np.ones(60)), np.sin(np.arange(60) / 5)
    together = []
    for residual in (wave, np.random.default_rng(0).permutation(wave)):
        weights = resample_weights(points, residual, 400, np.random.default_rng(1))
        assert (weights.sum(axis=1) == 60).all()
        together.append(np.mean((weights[:, 1:] > 0) == (weights[:, :-1] > 0)))
    assert together[0] > together[1] + 0.1


def test_the_bootstrap_of_a_line_is_as_wide_as_in_theory():
    x, found = np.geomspace(1e12, 1e16, 60), []
    for seed in range(10):
        noise = 0.05 * np.random.default_rng(seed).normal(size=60)
        points = Points(x[:, None], np.exp(-0.2 * np.log(x) + noise))
        found.append(bootstrap(fit_law(named_law("power_law"), points, LOSS), points, 500)[:, 1].std())
    assert np.mean(found) == pytest.approx(0.05 / np.sqrt(np.sum((np.log(x) - np.log(x).mean()) ** 2)), rel=0.1)


def test_rolling_origin_predicts_the_last_points_from_the_first_only():
    steady, broken = curve(), curve()
    broken = Points(broken.x, np.where(np.arange(30) > 24, broken.y * 1.5, broken.y))
    assert rolling_origin(steady, LOSS, "power_offset").error < 0.05
    assert rolling_origin(broken, LOSS, "power_offset").error > 0.15
    assert rolling_origin(curve(4), LOSS, "power_offset").origins == 0


def test_intervals_grow_with_distance_and_confidence_and_contain_the_law():
    points = curve()
    law, rolling = averages.fit(points, LOSS), rolling_origin(points, LOSS, "auto")
    places = np.array([[1e17], [1e19], [1e22]])
    widths = {}
    for confidence in (0.5, 0.9):
        low, high = interval(law, places, scale_at(law, points, places, rolling, confidence=confidence))
        assert (low < law.predict(places)).all()
        assert (law.predict(places) < high).all()
        widths[confidence] = np.log(high / low)
    assert (np.diff(widths[0.9]) > 0).all()
    assert (widths[0.9] > widths[0.5]).all()


def test_only_a_calibrated_confidence_is_accepted():
    assert factor(0.8) < factor(0.85) < factor(0.9)
    with pytest.raises(ValueError, match=r"confidence 0\.3 is not calibrated; between 0\.5 and 0\.99 is"):
        factor(0.3)
