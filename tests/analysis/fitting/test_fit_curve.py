"""The fit of one curve, and its text. Covers `fit_curve` and `text`."""

import numpy as np
import pytest

from analysis.fitting.estimate import Points
from analysis.fitting.fit_curve import fit_points
from analysis.fitting.text import number
from analysis.laws.metric import Metric


def curve(x: np.ndarray, seed: int) -> Points:
    noise = np.exp(0.01 * np.random.default_rng(seed).normal(size=len(x)))
    return Points(x[:, None], 3 * (x / 1e16) ** -0.1 * noise)


def test_one_curve_gets_predictions_parameters_scores_and_a_checklist() -> None:
    points, held_out = curve(np.geomspace(1e16, 1e19, 20), 0), curve(np.geomspace(2e19, 1e20, 5), 1)
    fitted = fit_points(points, Metric("loss"), "power_law", targets=np.array([[1e21]]), held_out=held_out)
    (prediction,) = fitted.predictions
    assert prediction.low < 3 * 1e5**-0.1 < prediction.high
    assert {parameter.name: round(parameter.value, 2) for parameter in fitted.parameters}["c"] == 0.1
    assert fitted.held_out is not None
    assert fitted.held_out.n == 5
    assert fitted.held_out.rmse_log < 0.03
    assert {"n", "convergence", "rolling origin", "two factors"} <= {check.check for check in fitted.checks}


def test_a_band_contains_the_law_and_widens_with_distance() -> None:
    fitted = fit_points(curve(np.geomspace(1e16, 1e19, 20), 0), Metric("loss"), "power_law")
    centre, low, high = fitted.band(np.array([[1e19], [1e22]]))
    assert ((low < centre) & (centre < high)).all()
    assert np.log(high / low)[1] > np.log(high / low)[0]
    assert fitted.predictions == ()


@pytest.mark.parametrize(("value", "text"), [(1234.56, "1235"), (0.00012345, "0.0001234"), (None, "∞")])
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text
