"""Laws: correct derivatives, known laws recovered, predictions independent of units.

Covers `catalogue`, `forms`, `joint_forms` and `beliefs`.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitting import averages
from analysis.fitting.estimate import Points, fit_law
from analysis.laws import forms
from analysis.laws.catalogue import LAWS, named_law
from analysis.laws.metric import Metric

LOSS = Metric("loss")
FORMS = [(law.form, len(law.parameters), law.inputs) for law in LAWS.values()]


def curve(n=40, seed=0, noise=0.0, exponent=0.3):
    """y = 0.2 + 3000 x^-exponent over five decades."""
    x = np.geomspace(1e12, 1e17, n)
    y = (0.2 + 3000 * x**-exponent) * np.exp(noise * np.random.default_rng(seed).normal(size=n))
    return Points(x[:, None], y)


@pytest.mark.parametrize(("form", "parameters", "inputs"), FORMS, ids=list(LAWS))
def test_jacobians_are_the_derivatives(form, parameters, inputs):
    rng = np.random.default_rng(1)
    theta, u = rng.normal(scale=0.5, size=(4, parameters)), np.sort(rng.normal(size=(1, 9, inputs)), axis=2)
    numerical = [(form(theta + 1e-6 * e, u)[0] - form(theta - 1e-6 * e, u)[0]) / 2e-6 for e in np.eye(parameters)]
    np.testing.assert_allclose(form(theta, u)[1], np.stack(numerical, axis=2), atol=1e-7)


@pytest.mark.parametrize("name", ["power_offset", "bnsl", "soft_start", "saturating"])
def test_a_power_law_with_offset_is_recovered_by_every_form_that_contains_it(name):
    fitted = fit_law(named_law(name), curve(), LOSS)
    assert fitted.certificate.residual < (0.02 if name == "saturating" else 2e-4)
    np.testing.assert_allclose(fitted.predict(np.array([[1e19]])), 0.2 + 3000 * 1e19**-0.3, rtol=0.02)


def test_m4_solves_its_own_equation():
    theta = np.array([[-1.0, 0.5, 0.3, -0.5, 0.4]])
    u = np.linspace(-4, 6, 21)[None, :, None]
    low, span, b, c, alpha = np.exp(-1.0), np.exp(0.5), 0.3, np.exp(-0.5), np.exp(0.4)
    share = (np.exp(forms.two_plateaus(theta, u)[0][0]) - low) / span
    np.testing.assert_allclose(np.log(share) - alpha * np.log1p(-share), b - c * u[0, :, 0], atol=1e-8)


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1e-3, 1e3), st.integers(0, 10**6), st.sampled_from(["auto", "power_law", "m3"]))
def test_no_unit_of_x_or_y_changes_a_prediction(x_unit, y_unit, seed, law):
    points = curve(14, seed, noise=0.02)
    rescaled = Points(points.x * x_unit, points.y * y_unit)
    plain = averages.fit(points, LOSS, law).predict(np.array([[1e19]]))
    other = averages.fit(rescaled, LOSS, law).predict(np.array([[1e19 * x_unit]])) / y_unit
    np.testing.assert_allclose(other, plain, rtol=2e-3 if law == "auto" else 1e-6)


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(14)), st.integers(0, 100))
def test_the_order_of_rows_does_not_matter(order, seed):
    points = curve(14, seed, noise=0.02)
    np.testing.assert_allclose(
        averages.fit(points.subset(np.array(order)), LOSS).predict(np.array([[1e19]])),
        averages.fit(points, LOSS).predict(np.array([[1e19]])),
        rtol=1e-6,
    )


def test_per_cent_is_the_same_as_a_share():
    x = np.geomspace(1e12, 1e17, 12)[:, None]
    recall = 0.9 - 0.5 * (x[:, 0] / 1e12) ** -0.2
    share = averages.fit(Points(x, recall), Metric("share")).predict(np.array([[1e18]]))
    hundred = averages.fit(Points(x, 100 * recall), Metric("share", 100.0)).predict(np.array([[1e18]]))
    np.testing.assert_allclose(hundred, 100 * share, rtol=1e-6)
    assert share == pytest.approx(0.9 - 0.5 * 1e6**-0.2, abs=0.01)


def test_clean_points_outweigh_the_belief_about_exponents():
    points = curve(20, exponent=0.12)  # far from the belief's median of a half
    assert averages.fit(points, LOSS).predict(np.array([[1e18]])) == pytest.approx([0.2 + 3000 * 1e18**-0.12], rel=0.01)


@pytest.mark.parametrize(
    ("points", "law", "message"),
    [
        (curve(2), "auto", "2 points at 2 distinct x; this needs at least 3"),
        (curve(5), "joint", "law joint takes 2 inputs, the table gives 1"),
        (curve(5), "zipf", "unknown law 'zipf'; known are auto, log_linear"),
    ],
)
def test_what_cannot_be_fitted_is_rejected(points, law, message):
    with pytest.raises(ValueError, match=message):
        averages.fit(points, LOSS, law)


def test_a_law_with_parameters_that_affect_no_point_is_still_solved() -> None:
    x = np.logspace(17, 21, 9)[:, None]
    y = 2.1 + 4000 * x[:, 0] ** -0.2
    fitted = averages.fit(Points(x, y), LOSS, "bnsl")
    np.testing.assert_allclose(fitted.predict(x), y, rtol=0.01)
