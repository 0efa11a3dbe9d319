"""Forms of laws: curves that the logarithm of a metric may follow, each with its analytic Jacobian.

Everything is in natural logarithms and free of units: u = log(x / x_ref), values = log(y / y_ref). Parameters are
logarithms where they must be positive.

Legend: K rows, n points, p parameters. theta (K, p), inputs (K or 1, n, 1) -> values (K, n), Jacobian (K, n, p).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.arrays import Floats

ValuesAndJacobian = tuple[Floats, Floats]
STEEPEST = 500.0  # exp of more overflows
SETTLED = 1e-12  # Newton steps in a logit below this have converged


def sigmoid(z: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.minimum(np.maximum(z, -STEEPEST), STEEPEST)))
    return result


def softplus(z: Floats) -> Floats:
    result: Floats = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    return result


def soft_step(z: Floats) -> tuple[Floats, Floats]:
    """softplus(z) and sigmoid(z) from one exponential, which dominates their cost."""
    small = np.exp(-np.abs(z))
    rest = 1 / (1 + small)
    return np.maximum(z, 0) + np.log1p(small), np.where(z >= 0, rest, small * rest)


def _columns(theta: Floats) -> list[Floats]:
    """The parameters as p columns (K, 1)."""
    return [theta[:, index : index + 1] for index in range(theta.shape[1])]


def line(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """z = b + s u."""
    u = inputs[..., 0]
    b, s = _columns(theta)
    value = b + s * u
    return value, np.stack([np.ones_like(value), np.broadcast_to(u, value.shape)], axis=2)


def power(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """y = B x^-c (M1). theta: log B, log c."""
    u = inputs[..., 0]
    b, c = _columns(theta)
    c = np.exp(c)
    value = b - c * u
    return value, np.stack([np.ones_like(value), -c * u], axis=2)


def power_offset(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """y = E + B x^-c (M2). theta: log E, log B, log c."""
    u = inputs[..., 0]
    a, b, c = _columns(theta)
    a, c = np.exp(a), np.exp(c)
    fall = np.exp(b - c * u)
    y = a + fall
    return np.log(y), np.stack([a / y, fall / y, -fall * c * u / y], axis=2)


def saturating_data(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """y = B (1/x + g)^c (M3). theta: log B, log c, log g."""
    u = inputs[..., 0]
    b, c, g = _columns(theta)
    c = np.exp(c)
    total = np.logaddexp(-u, g)
    value = b + c * total
    return value, np.stack([np.ones_like(value), c * total, c * np.exp(g - total)], axis=2)


def two_plateaus(theta: Floats, inputs: Floats, highest: float = np.inf) -> ValuesAndJacobian:
    """(y - E) / (E0 - y)^alpha = B x^-c (M4): from E0 before learning down to E; E0 is at most `highest`.

    theta: log E, log(E0 - E), log B, log c, log alpha, where B is of the normalised equation
    s / (1 - s)^alpha = B x^-c with s = (y - E) / (E0 - E).
    """
    u = inputs[..., 0]
    a, span, b, c, alpha = _columns(theta)
    a, span, c, alpha = np.exp(a), np.exp(span), np.exp(c), np.exp(alpha)
    capped = a + span > highest
    span = np.where(capped, np.maximum(highest - a, 0.0), span)
    right = b - c * u
    t = np.where(right < 0, right, right / alpha)  # logit of s
    for _ in range(8):  # log s - alpha log(1 - s) = right by Newton; the left side is smooth and rising
        above, share = soft_step(t)
        gap = ((alpha - 1) * above + t - right) / (1 - share + alpha * share)  # softplus(-t) = softplus(t) - t
        t = t - np.minimum(np.maximum(gap, -20), 20)
        if np.abs(gap).max() < SETTLED:
            break
    above, share = soft_step(t)
    rest = sigmoid(-t)
    slope = rest + alpha * share
    y = a + span * share
    by_t = span * share * rest / y
    jacobian = [
        np.where(capped, rest, 1.0) * a / y,
        np.where(capped, 0.0, span * share / y),
        by_t / slope,
        -by_t * c * u / slope,
        -by_t * alpha * above / slope,
    ]
    return np.log(y), np.stack(np.broadcast_arrays(*jacobian), axis=2)


def soft_start(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """y = E + B (1 + (x/d)^(1/f))^(-c f): a power law that begins at E + B. theta: log E, log B, log c, log d, log f.

    A broken neural scaling law (Caballero et al. 2022) with one break and no slope before it.
    """
    u = inputs[..., 0]
    a, b, c, d, f = _columns(theta)
    a, c, f = np.exp(a), np.exp(c), np.exp(f)
    z = (u - d) / f
    rise, above = soft_step(z)
    fall = np.exp(b - c * f * rise)
    y = a + fall
    jacobian = [
        a / y,
        fall / y,
        -fall * c * f * rise / y,
        fall * c * above / y,
        -fall * c * f * (rise - above * z) / y,
    ]
    return np.log(y), np.stack(jacobian, axis=2)


def broken(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """y = E + B x^-c0 (1 + (x/d)^(1/f))^(-c1 f): BNSL with one break; c1 may be negative.

    theta: log E, log B, log c0, log d, log f, c1.
    """
    u = inputs[..., 0]
    a, b, c0, d, f, c1 = _columns(theta)
    a, c0, f = np.exp(a), np.exp(c0), np.exp(f)
    z = (u - d) / f
    rise, above = soft_step(z)
    fall = np.exp(b - c0 * u - c1 * f * rise)
    y = a + fall
    jacobian = [
        a / y,
        fall / y,
        -fall * c0 * u / y,
        fall * c1 * above / y,
        -fall * c1 * f * (rise - above * z) / y,
        -fall * f * rise / y,
    ]
    return np.log(y), np.stack(jacobian, axis=2)


def ceiling(theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    """z = C - B x^-c: rises towards C. theta: C, log B, log c. Linear in the metric, for metrics without bounds."""
    u = inputs[..., 0]
    top, b, c = _columns(theta)
    c = np.exp(c)
    gap = np.exp(b - c * u)
    return top - gap, np.stack([np.ones_like(gap), -gap, gap * c * u], axis=2)


# theta (K, p), inputs (K or 1, n, d) -> values (K, n), Jacobian (K, n, p)
Model = Callable[[Floats, Floats], tuple[Floats, Floats]]
