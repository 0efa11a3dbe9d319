"""Intervals: resampling, rolling origins, and the calibrated confidences."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting import averages
from analysis.fitting.annealing import bends_down
from analysis.fitting.estimate import Points, fit_law
from analysis.fitting.intervals import (
    bootstrap,
    factor,
    interval,
    kind_of,
    resample_weights,
    rolling_origin,
    scale_at,
)
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


def under(schedule: np.ndarray, seed: int = 0) -> Points:
    """Checkpoints of one run by the law of Tissue et al. (2024): L0 + A S1^-0.3 - C S2.

    S1 sums the learning rate; S2 sums its decay so far with a memory of 1000 steps.
    """
    steps = np.arange(1, len(schedule) + 1)
    rate = 2e-4 * schedule * np.minimum(1, steps / 400)
    decay, area, momentum = np.maximum(-np.diff(rate, prepend=rate[0]), 0), np.zeros(len(rate)), 0.0
    for place, drop in enumerate(decay):
        momentum = 0.999 * momentum + drop
        area[place] = momentum
    loss = 2.3 + 0.4 * np.cumsum(rate) ** -0.3 - 0.8 * np.cumsum(area)
    kept = np.linspace(1000, len(rate), 60).astype(int)
    noise = np.exp(2e-4 * np.random.default_rng(seed).normal(size=60))
    return Points(kept[:, None].astype(float), loss[kept - 1] * noise)


STEPS = np.linspace(0, 1, 20_000)
CONSTANT, COSINE = np.ones(20_000), 0.5 * (1 + np.cos(np.pi * STEPS))


def test_a_curve_under_a_decaying_rate_is_recognised_and_one_under_a_constant_rate_is_not() -> None:
    for seed in range(10):
        assert bends_down(under(COSINE, seed).subset(np.arange(42)), LOSS)
        assert not bends_down(under(CONSTANT, seed), LOSS)
        assert not bends_down(curve(60, seed=seed), LOSS)


@pytest.mark.slow
def test_real_learning_curves_that_were_annealed_are_not_taken_for_decaying_ones(real_data) -> None:
    table = pd.read_csv(real_data / "scaling_laws" / "benchmark.vision.csv")
    table = table[table["Training"] == 1]
    for _, rows in table.groupby(["Task", "Model"]):
        assert not bends_down(Points(rows[["Seen Examples"]].to_numpy(), rows["Loss"].to_numpy()), LOSS)


def test_intervals_of_a_recognised_or_told_curve_are_wider() -> None:
    points, place = under(COSINE).subset(np.arange(42)), np.array([[2e4]])
    steady = under(CONSTANT).subset(np.arange(50))
    law = averages.fit(steady, LOSS, "learning_curve", rough=True)
    rolling = rolling_origin(steady, LOSS, "learning_curve")
    told = rolling_origin(replace(steady, decaying=True), LOSS, "learning_curve")
    assert rolling_origin(points, LOSS, "learning_curve").kind == told.kind == "decaying"
    assert rolling.kind == "learning_curve"
    narrow, wide = (scale_at(law, steady, place, one, count=50).half_width[0] for one in (rolling, told))
    assert wide > 1.2 * narrow


@pytest.mark.parametrize(
    ("x", "metric", "name", "kind"),
    [
        (np.ones((4, 2)), LOSS, "joint", "joint"),
        (np.ones((4, 1)), Metric("share"), "auto", "share"),
        (np.ones((4, 1)), Metric("score"), "auto", "loss"),
        (np.ones((4, 1)), LOSS, "m4", "loss"),
    ],
    ids=["joint", "share", "score", "loss"],
)
def test_each_kind_of_fit_has_its_calibration(x, metric, name, kind) -> None:
    assert kind_of(Points(x, np.ones(4)), metric, name) == kind
    assert factor(0.9, kind) > factor(0.8, kind)


def test_few_points_and_far_places_widen_intervals() -> None:
    """With equal noise, five points are less certain than thirty, and a place two decades away than one."""
    widths = []
    for n in (5, 30):
        found = []
        for seed in range(12):
            points = curve(n, noise=0.02, seed=seed)
            law, rolling = averages.fit(points, LOSS, "power_law"), rolling_origin(points, LOSS, "power_law")
            found.append(scale_at(law, points, np.array([[1e18], [1e20]]), rolling).half_width)
        widths.append(np.mean(found, axis=0))
    assert (widths[0] > 1.3 * widths[1]).all()
    assert (np.diff(widths, axis=1) > 0).all()
