"""The checklist: influence of single points, and trends that a single factor carries."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting import averages
from analysis.fitting.checklist import influence, two_factors
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric


def test_the_point_with_the_largest_influence_is_found_in_its_original_row() -> None:
    x = np.geomspace(1e20, 1e16, 12)[:, None]  # not in ascending order
    y = 3 * (x[:, 0] / 1e16) ** -0.1
    y[0] *= 1.2
    points = Points(x, y)
    law = averages.fit(points, Metric("loss"), "power_law")
    influential = influence(law, points, np.array([1e21]), half_width=0.1)
    assert (influential.row, influential.x) == (0, 1e20)
    rest = averages.fit(points.subset(np.arange(1, 12)), Metric("loss"), "power_law")
    shift = (rest.log_or_linear(np.array([[1e21]])) - law.log_or_linear(np.array([[1e21]])))[0]
    assert influential.shift == pytest.approx(shift, rel=1e-3)
    assert influential.share == pytest.approx(abs(shift) / 0.1, rel=1e-3)


def test_a_trend_carried_by_one_factor_names_it() -> None:
    cost, crops = (grid.ravel() for grid in np.meshgrid(np.geomspace(1, 1e3, 5), np.geomspace(1, 1e3, 5)))
    z = 0.05 * np.log10(cost) + 0.001 * np.random.default_rng(0).normal(size=25)
    factors = two_factors(("cost", "crops"), np.column_stack([cost, crops]), z)
    assert factors is not None
    assert factors.one_sided == "cost"
    assert factors.slopes[0] == pytest.approx(0.05, abs=0.002)
    assert factors.r2_two > factors.r2_one
    assert two_factors(("cost", "crops"), np.column_stack([cost, np.ones(25)]), z) is None


def test_the_difference_of_two_slopes_is_tested_as_in_the_textbook() -> None:
    """Regressed on the product and one factor, that factor's slope is the difference: its p as SciPy has it."""
    rng = np.random.default_rng(3)
    logs = rng.normal(size=(12, 2))
    z = logs @ [0.05, 0.03] + 0.03 * rng.normal(size=12)
    factors = two_factors(("cost", "crops"), 10**logs, z)
    design = np.column_stack([np.ones(12), logs.sum(axis=1)])
    left_z, left_cost = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (z, logs[:, 0]))
    slope = (left_cost @ left_z) / (left_cost @ left_cost)
    error = np.sqrt(np.sum((left_z - slope * left_cost) ** 2) / 9 / (left_cost @ left_cost))
    assert factors is not None
    assert factors.p_equal == pytest.approx(2 * stats.t.sf(abs(slope) / error, 9), rel=1e-6)
