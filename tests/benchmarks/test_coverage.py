"""Coverage of intervals over 500 simulated studies with a known law."""

import numpy as np
import pytest

from analysis.fitting.estimate import Points, fit_law
from analysis.fitting.parameters import profile
from analysis.fitting.trend import fit_log_linear
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

SIMULATIONS = 500
# The standard error of a share of 90% over 500 simulations is 1.3 points: four of them are allowed for.
LEAST, MOST = 0.85, 0.95


@pytest.mark.slow
def test_profile_intervals_of_plateau_and_exponent_cover_as_often_as_stated():
    rng, x = np.random.default_rng(0), np.geomspace(1e12, 1e18, 24)
    truth = 0.4 + 2000 * x**-0.28
    held = np.zeros(2)
    for _ in range(SIMULATIONS):
        points = Points(x[:, None], truth * np.exp(0.02 * rng.normal(size=24)))
        fitted = fit_law(named_law("power_offset"), points, Metric("loss"))
        for index, (column, value) in enumerate([(0, np.log(0.4) - fitted.coordinates.z_ref), (2, np.log(0.28))]):
            low, high = profile(fitted, column, 0.9)
            held[index] += low <= value <= high
    coverage = held / SIMULATIONS
    assert ((coverage >= LEAST) & (coverage <= MOST)).all(), coverage


@pytest.mark.slow
def test_intervals_of_the_recall_slope_cover_almost_as_often_as_stated():
    """36 runs, three seeds each. A bootstrap over runs is known to be a little too narrow."""
    held = 0
    for seed in range(SIMULATIONS):
        rng = np.random.default_rng(seed)
        compute = np.geomspace(1e12, 1e16, 12).repeat(3)
        recall = 0.1 + 0.02 * np.log10(compute) + 0.01 * rng.normal(size=36)
        slope = fit_log_linear("CORUM", "touvron", compute, recall, replicates=500, confidence=0.9, seed=seed).slope
        held += slope.low <= 0.02 <= slope.high
    assert 0.83 <= held / SIMULATIONS <= MOST
