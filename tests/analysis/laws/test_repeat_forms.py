"""Laws of repeated data at values worked out by hand."""

import numpy as np
import pytest

from analysis.laws import joint_forms, repeat_forms

ADDITIVE = [-1.0, 0.1, 0.2, -1.0, -1.2]  # log E, log A, log B, log alpha, log beta


def places(size, unique, seen):
    return np.log(np.stack(np.broadcast_arrays(size, unique, seen), axis=-1).astype(float))[None]


def value(form, theta, inputs):
    return np.exp(form(np.array([theta]), inputs)[0][0])


def test_repeats_of_full_worth_count_as_new_data():
    seen = np.exp(np.linspace(0, 3, 5))
    plain = np.exp(joint_forms.additive(np.array([ADDITIVE]), places(1, seen, seen)[..., [0, 2]])[0][0])
    lasting = value(repeat_forms.repeated, [*ADDITIVE, 20.0], places(1, 1, seen))
    np.testing.assert_allclose(lasting, plain, atol=1e-6)


def test_what_repeats_lose_is_half_there_after_h_and_ends_at_p():
    """P = 0.4, kappa = 0.7, H = 30 at four parameters per example: 0.4 * 4^0.7 in all, half of it at R = 30."""
    theta = [*ADDITIVE, np.log(0.4), np.log(0.7), np.log(2.0), np.log(30.0)]
    epochs = np.array([1.0, 31.0, 91.0, 1e7])
    inputs = places(4.0, 1.0, epochs)
    base = np.exp(joint_forms.additive(np.array([ADDITIVE]), inputs[..., [0, 2]])[0][0])
    lost = value(repeat_forms.overfitting, theta, inputs) - base
    whole = 0.4 * 4**0.7
    np.testing.assert_allclose(lost, [0, whole / 2, whole * 0.9, whole], rtol=1e-6, atol=1e-12)  # 3^2 / (1 + 3^2)


@pytest.mark.parametrize("form", [repeat_forms.repeated, repeat_forms.overfitting], ids=["repeated", "overfitting"])
def test_a_partial_pass_is_new_data(form):
    """Of 100 unique examples, 20 seen are 20 unique ones seen once."""
    theta = [*ADDITIVE, *([1.0] if form is repeat_forms.repeated else [0.3, 0.1, 0.2, 1.0])]
    np.testing.assert_array_equal(value(form, theta, places(2, 100, 20)), value(form, theta, places(2, 20, 20)))


def test_derivatives_are_finite_without_repeats():
    theta = np.array([[*ADDITIVE, 0.3, 0.1, 0.2, 1.0]])
    jacobian = repeat_forms.overfitting(theta, places(2, 100, 100))[1]
    np.testing.assert_array_equal(jacobian[..., 5:], 0.0)
    assert np.isfinite(jacobian).all()
