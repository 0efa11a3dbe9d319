"""Schedules as forecasts see them: areas by hand, and when a rate has come down."""

import numpy as np
import pytest

from analysis.forecast.rates import PLACES, Rates


def test_the_area_under_a_triangle() -> None:
    """Rate 1 - s: the area up to s is 1 - (1 - s)², the rate has fallen by s, and by area by s²."""
    rates = Rates(1 - np.linspace(0, 1, PLACES))
    share = np.array([0.0, 0.25, 0.5, 1.0])
    assert rates.area(share) == pytest.approx(1 - (1 - share) ** 2, abs=1e-6)
    assert rates.fallen(share) == pytest.approx(share)
    assert rates.area_fallen(share) == pytest.approx(share**2, abs=1e-6)
    assert rates.decays
    assert rates.warm == 0.0


def test_a_constant_rate_has_no_decay() -> None:
    rates = Rates.constant()
    share = np.array([0.1, 0.7])
    assert rates.area(share) == pytest.approx(share)
    assert rates.fallen(share) == pytest.approx(0)
    assert rates.area_fallen(share) == pytest.approx(0)
    assert not rates.decays


def test_warm_up_is_no_decay() -> None:
    share = np.linspace(0, 1, PLACES)
    rates = Rates(np.minimum(share / 0.2, 1.0))
    assert rates.warm == pytest.approx(0.2)
    assert rates.fallen(share) == pytest.approx(0)
