"""Forms of two laws at once: a baseline's, and a variant's that is the same law of more or less compute.

The variant's law is the baseline's at m times the compute: log m is its gain. With a gain that changes, its exponent is
also multiplied by a factor.

Legend: K rows, n points, p parameters of the law. theta (K, p + 1 or p + 2), inputs (K or 1, n, 2) of log compute and
1 for the variant's points, else 0 -> values (K, n), Jacobian (K, n, p + 1 or p + 2).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from analysis.arrays import Floats
from analysis.laws.catalogue import Law
from analysis.laws.forms import Model, ValuesAndJacobian

# columns of theta: the coefficient, and the exponent's logarithm or the slope itself
COEFFICIENT = {"power_offset": 1, "saturating": 1, "power_law": 0, "log_linear": 0, "logit_linear": 0}
EXPONENT = {"power_offset": 2, "saturating": 2}
SLOPE = {"power_law": 1, "log_linear": 1, "logit_linear": 1}


def slope_of(law: Law, theta: Floats) -> Floats:
    """By what log compute is multiplied in a law with parameters (K, p): (K, 1)."""
    if law.name in EXPONENT:
        column = EXPONENT[law.name]
        result: Floats = -np.exp(theta[:, column : column + 1])
        return result
    column = SLOPE[law.name]
    return theta[:, column : column + 1]


def improves(law: Law, theta: Floats) -> bool:
    """Whether the metric improves with compute under parameters (p,): it falls in logs and rises in other spaces."""
    rows = theta[None]
    by_compute = slope_of(law, rows) * law.form(rows, np.zeros((1, 1, 1)))[1][..., COEFFICIENT[law.name]]
    return bool(by_compute[0, 0] < 0) == (law.space == "log")


def constant_gain(law: Law) -> Model:
    """Two laws with a shared exponent. theta: the law's, then log m."""
    return partial(_constant, law)


def changing_gain(law: Law) -> Model:
    """Two laws with an exponent each. theta: the law's, log m at log compute 0, log of the exponents' ratio."""
    return partial(_changing, law)


def _constant(law: Law, theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    values, jacobian = _changing(law, np.pad(theta, ((0, 0), (0, 1))), inputs)
    return values, jacobian[..., :-1]


def _changing(law: Law, theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    u, is_variant = inputs[..., 0], inputs[..., 1]
    own, gain, ratio = theta[:, :-2], theta[:, -2:-1], theta[:, -1:]
    stretch = np.exp(is_variant * ratio)
    effective = (u + is_variant * gain) * stretch  # (K, n)
    values, jacobian = law.form(own, effective[..., None])
    by_compute = slope_of(law, own) * jacobian[..., COEFFICIENT[law.name]]
    by_gain, by_ratio = by_compute * is_variant * stretch, by_compute * is_variant * effective
    return values, np.concatenate([jacobian, by_gain[..., None], by_ratio[..., None]], axis=2)
