"""The checklist: influence of single points, and trends that a single factor carries."""

import numpy as np
import pytest

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
