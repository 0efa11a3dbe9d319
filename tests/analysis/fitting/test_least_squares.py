"""The batched least-squares solver against SciPy."""

import numpy as np
from scipy.optimize import least_squares

from analysis.fitting.least_squares import Problem, solve
from analysis.laws import forms


def test_every_row_of_a_batch_is_scipy_s_weighted_least_squares():
    rng, u = np.random.default_rng(0), np.linspace(-3, 3, 20)
    z = forms.power_offset(np.array([[-1.0, 0.2, -0.5]]), u[None, :, None])[0][0] + 0.05 * rng.normal(size=20)
    weights = rng.uniform(0.2, 3, size=(5, 20))
    start = np.array([-0.7, 0.0, -1.0])
    found = solve(Problem(forms.power_offset, u[None, :, None], z[None], weights), np.repeat(start[None], 5, axis=0))
    for row, weight in zip(found.theta, weights, strict=True):

        def residual(theta, weight=weight):
            return np.sqrt(weight) * (forms.power_offset(theta[None], u[None, :, None])[0][0] - z)

        np.testing.assert_allclose(row, least_squares(residual, start, xtol=1e-12, ftol=1e-12).x, atol=1e-4)
    assert (found.promise < 1e-6).all()
