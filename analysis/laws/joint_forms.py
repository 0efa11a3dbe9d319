"""Forms of joint laws: a metric as a function of model size and data.

Unit-free: inputs are logs of N and D over references, values are log(y / y_ref).

Legend: K rows, n points. theta (K, p), inputs (K or 1, n, d) -> values (K, n), Jacobian (K, n, p).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.arrays import Floats

if TYPE_CHECKING:
    from analysis.laws.beliefs import Belief

PARAMETERS = ("E", "A", "B", "alpha", "beta")


def additive(theta: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """y = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, approach 3). inputs: log N, log D.

    theta: log E, log A, log B, log alpha, log beta.
    """
    return additive_parts(theta, inputs[..., 0], inputs[..., 1])[:2]


def tied(theta: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """The additive law with one exponent for model size and data. theta: log E, log A, log B, log alpha."""
    value, jacobian = additive(theta[:, [0, 1, 2, 3, 3]], inputs)
    return value, np.concatenate([jacobian[..., :3], jacobian[..., 3:].sum(axis=2, keepdims=True)], axis=2)


def additive_parts(theta: Floats, size: Floats, data: Floats) -> tuple[Floats, Floats, Floats]:
    """The additive law at log N and log D (K or 1, n): values, Jacobian, and the derivative by log D (K, n)."""
    log_e, log_a, log_b, log_alpha, log_beta = (theta[:, index : index + 1] for index in range(5))
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    floor, by_size, by_data = np.exp(log_e), np.exp(log_a - alpha * size), np.exp(log_b - beta * data)
    y = floor + by_size + by_data
    jacobian = np.empty((*y.shape, 5))
    jacobian[..., 0] = floor / y
    jacobian[..., 1] = by_size / y
    jacobian[..., 2] = by_data / y
    jacobian[..., 3] = -jacobian[..., 1] * alpha * size
    jacobian[..., 4] = -jacobian[..., 2] * beta * data
    return np.log(y), jacobian, -jacobian[..., 2] * beta


def starts(u: Floats, z: Floats) -> Floats:
    """32 starts: floors, exponents and shares of the rest for model size and data."""
    low, middle = float(z.min()), float(np.median(z))
    rows = []
    for floor in (0.95, 0.8, 0.5, 0.1):
        rest = max(np.exp(middle) - floor * np.exp(low), 1e-3)
        for alpha, beta in ((0.3, 0.3), (0.5, 0.5), (0.2, 0.5), (0.5, 0.2)):
            for share in (0.3, 0.7):
                log_e = low + np.log(floor)
                rows.append([log_e, np.log(share * rest), np.log((1 - share) * rest), np.log(alpha), np.log(beta)])
    return np.array(rows)


def tied_starts(u: Floats, z: Floats) -> Floats:
    """Those of the additive law's starts whose exponents are equal."""
    plain = starts(u, z)
    return plain[plain[:, 3] == plain[:, 4], :4]


def tied_believed(belief: Belief) -> tuple[list[float], list[float]]:
    mean, deviation = believed(belief)
    return mean[:4], deviation[:4]


def believed(belief: Belief) -> tuple[list[float], list[float]]:
    """Weak Gaussians; exponents around a third, as published joint laws have them."""
    return [belief.plateau[0], 0.0, 0.0, -1.0, -1.0], [3.0, 9.0, 9.0, 1.5, 1.5]
