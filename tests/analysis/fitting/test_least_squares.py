"""The batched least-squares solver against SciPy."""

import numpy as np
from scipy.optimize import least_squares

from analysis.fitting.least_squares import Problem, gain, solve
from analysis.fitting.variance_components import Levels, same
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


def test_the_gain_of_a_line_is_generalised_least_squares():
    """How a fit moves with its targets: (X' V^-1 X)^-1 X' V^-1, here with values that share levels in pairs."""
    u, levels = np.linspace(0, 1, 6), Levels(tuple("aabbcc"), 2.0)
    problem = Problem(forms.line, u[None, :, None], u[None] ** 2, np.ones((1, 6)), whitener=levels.whitener)
    inverse = np.linalg.inv(np.eye(6) + 2 * same(levels.names))
    design = np.column_stack([np.ones(6), u])
    expected = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse)
    theta = solve(problem, np.zeros((1, 2))).theta[0]
    np.testing.assert_allclose(gain(problem, theta), expected, atol=1e-9)
    np.testing.assert_allclose(theta, expected @ u**2, atol=1e-6)
