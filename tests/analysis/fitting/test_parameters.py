"""Profile intervals of parameters against the textbook."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.estimate import Points, fit_law
from analysis.fitting.parameters import profile
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
