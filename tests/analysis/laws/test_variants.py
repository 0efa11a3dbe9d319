"""Forms of two laws at once: analytic Jacobians, and a variant that is the baseline at another compute."""

import numpy as np
import pytest

from analysis.laws.catalogue import named_law
from analysis.laws.variants import COEFFICIENT, changing_gain, constant_gain, improves

RNG = np.random.default_rng(0)
INPUTS = np.stack([RNG.normal(size=(1, 7)), np.array([[0.0, 1, 0, 1, 1, 0, 1]])], axis=-1)


@pytest.mark.parametrize("name", COEFFICIENT)
@pytest.mark.parametrize(("form", "further"), [(constant_gain, 1), (changing_gain, 2)])
def test_jacobians_are_those_of_the_values(name, form, further):
    law = named_law(name)
    model, theta = form(law), 0.5 * RNG.normal(size=(3, len(law.parameters) + further))
    jacobian = model(theta, INPUTS)[1]
    for column, step in enumerate(1e-6 * np.eye(theta.shape[1])):
        difference = (model(theta + step, INPUTS)[0] - model(theta - step, INPUTS)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[..., column], difference, atol=1e-6)


@pytest.mark.parametrize("name", COEFFICIENT)
def test_a_variant_is_the_baseline_at_as_much_more_compute(name):
    law = named_law(name)
    own, gain = 0.5 * RNG.normal(size=(1, len(law.parameters))), 0.7
    values = constant_gain(law)(np.append(own, [[gain]], axis=1), INPUTS)[0]
    moved = INPUTS[..., :1] + gain * INPUTS[..., 1:]
    np.testing.assert_allclose(values, law.form(own, moved)[0])


def test_metrics_improve_downwards_in_logs_and_upwards_elsewhere():
    assert improves(named_law("power_law"), np.array([0.0, -0.1]))
    assert not improves(named_law("power_law"), np.array([0.0, 0.1]))
    assert improves(named_law("log_linear"), np.array([0.0, 0.1]))
    assert not improves(named_law("logit_linear"), np.array([0.0, -0.1]))
    assert improves(named_law("power_offset"), np.array([-1.0, 0.0, -1.0]))
    assert improves(named_law("saturating"), np.array([1.0, 0.0, -1.0]))
