"""Profile intervals of parameters against the textbook."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.estimate import Points, fit_law
from analysis.fitting.parameters import _quadratic, _whitened, inflation, parameters, profile
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric


@pytest.mark.parametrize("noise", [1e-4, 0.01, 0.3])
def test_the_profile_of_a_line_s_slope_is_the_textbook_interval(noise):
    """Student's t for a slope, at every noise; checked by SciPy's linregress."""
    x = np.geomspace(1, 1e6, 24)
    y = 3 * x**-0.12 * np.exp(noise * np.random.default_rng(0).normal(size=24))
    fitted = fit_law(named_law("power_law"), Points(x[:, None], y), Metric("loss"))
    found = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.95, 22) * found.stderr
    np.testing.assert_allclose(profile(fitted, 1, 0.9), [found.slope - half, found.slope + half], rtol=1e-4)


def following(n: int, rho: float, seed: int) -> np.ndarray:
    """Noise (n,) of variance 1 whose neighbours correlate by rho."""
    fresh = np.random.default_rng(seed).normal(size=n)
    noise = fresh.copy()
    for place in range(1, n):
        noise[place] = rho * noise[place - 1] + np.sqrt(1 - rho**2) * fresh[place]
    return noise


def line(n: int, rho: float, seed: int) -> Points:
    x = np.geomspace(1, 1e6, n)
    return Points(x[:, None], 3 * x**-0.12 * np.exp(0.01 * following(n, rho, seed)))


def test_whitening_and_the_quadratic_form_are_those_of_the_correlation_matrix() -> None:
    matrix = 0.7 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    a = np.random.default_rng(0).normal(size=6)
    assert _quadratic(a, 0.7) == pytest.approx(a @ matrix @ a)
    white = _whitened(np.eye(6), 0.7)
    np.testing.assert_allclose(white.T @ white, np.linalg.inv(matrix), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "least", "most"), [(0.0, 0.84, 0.98), (0.9, 0.8, 1.0)])
def test_an_exponent_s_interval_covers_it_whether_or_not_residuals_follow_each_other(rho, least, most):
    """90% intervals; those of independent residuals cover 30% under a correlation of 0.9."""
    held, law = 0, named_law("power_law")
    for seed in range(120):
        points = line(40, rho, seed)
        fitted = {one.name: one for one in parameters(fit_law(law, points, Metric("loss")), points, 0.9, 20)}
        held += fitted["c"].low <= 0.12 <= fitted["c"].high
    assert least <= held / 120 <= most


def test_checkpoints_of_one_run_are_fewer_than_they_seem_and_those_of_many_runs_are_not():
    """Neighbours in x that belong to different runs do not follow each other."""
    x = np.repeat(np.geomspace(1, 1e6, 20), 2)
    noise = np.stack([following(20, 0.95, 0), following(20, 0.95, 1)], axis=1).ravel()
    y, runs = 3 * x**-0.12 * np.exp(0.01 * noise), ("a", "b") * 20
    law = named_law("power_law")
    named = Points(x[:, None], y, runs)
    assert inflation(fit_law(law, named, Metric("loss")), named, 1) > 3
    alone = line(40, 0.0, 3)
    assert inflation(fit_law(law, alone, Metric("loss")), alone, 1) < 1.5


@pytest.mark.parametrize("law", ["power_law", "power_offset", "log_linear"])
def test_parameters_of_points_on_a_law_have_intervals_of_some_width(law: str) -> None:
    x = np.geomspace(1, 1e6, 12)
    y = 0.2 + 0.03 * np.log10(x) if law == "log_linear" else (law == "power_offset") * 0.4 + 3 * x**-0.12
    points, metric = Points(x[:, None], y), Metric("share" if law == "log_linear" else "loss")
    for one in parameters(fit_law(named_law(law), points, metric), points):
        assert one.low < one.value < one.high
