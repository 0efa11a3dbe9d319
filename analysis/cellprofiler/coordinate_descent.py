"""Coordinate descent on a Gram matrix, compiled (Friedman et al. 2010). Import it lazily: numba is slow to import.

Order, warm starts and stopping rule are those of scikit-learn's `enet_coordinate_descent_gram`.

Legend: D features, A penalties of a path.
"""

import numpy as np
from numba import njit

from analysis.arrays import Floats

TOLERANCE = 1e-4  # duality gap relative to |y|²; largest change of a sweep relative to the largest weight
ITERATIONS = 1000


@njit(cache=True, nogil=True)
def gap(correlation: Floats, product: Floats, weights: Floats, square: float, first: float, second: float) -> float:
    """The duality gap of an elastic net from products only."""
    dual, absolute, own, fitted, with_target = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(len(weights)):
        dual = max(dual, abs(correlation[j] - product[j] - second * weights[j]))
        absolute += abs(weights[j])
        own += weights[j] * weights[j]
        fitted += weights[j] * product[j]
        with_target += weights[j] * correlation[j]
    residual = square + fitted - 2.0 * with_target
    scale = first / dual if dual > first else 1.0
    value = 0.5 * residual * (1.0 + scale * scale) if dual > first else residual
    return value + first * absolute - scale * (square - with_target) + 0.5 * second * (1.0 + scale * scale) * own


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def descend(gram: Floats, correlation: Floats, square: float, firsts: Floats, seconds: Floats) -> Floats:
    """Minimise |y - X w|² / 2 + first |w|₁ + second |w|² / 2 for each pair of penalties in turn; weights (A, D)."""
    width = len(correlation)
    path = np.zeros((len(firsts), width))
    weights = np.zeros(width)
    product = np.zeros(width)  # gram @ weights
    for step in range(len(firsts)):
        first, second = firsts[step], seconds[step]
        if 0.0 <= gap(correlation, product, weights, square, first, second) <= TOLERANCE * square:
            path[step] = weights
            continue
        for _ in range(ITERATIONS):
            largest, change = 0.0, 0.0
            for j in range(width):
                diagonal = gram[j, j]
                if diagonal == 0.0:
                    continue
                old = weights[j]
                pull = correlation[j] - product[j] + diagonal * old
                size = abs(pull) - first
                new = 0.0
                if size > 0.0:
                    new = (size if pull > 0.0 else -size) / (diagonal + second)
                if new != old:
                    weights[j] = new
                    moved = new - old
                    for k in range(width):
                        product[k] += moved * gram[j, k]
                    change = max(change, abs(moved))
                largest = max(largest, abs(new))
            still = largest == 0.0 or change / largest <= TOLERANCE
            if still and gap(correlation, product, weights, square, first, second) <= TOLERANCE * square:
                break
        path[step] = weights
    return path
