"""The law of Muennighoff et al. (2023) with both of its factors, fitted as its authors fit: the peer of `repeats`.

Repeats lose value (their equation 5), and so do parameters beyond those that are optimal for the unique data (their
equation 6). One exponent serves size and data. Huber's loss with delta = 0.001 on the log of the loss, from several
starts.

Legend: n runs, columns N, U, D.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from analysis.arrays import Floats
from analysis.fitting.estimate import Points

DELTA = 1e-3
STARTS = ((-0.5, 0.5, 1.0), (1.0, 3.0), (1.0, 3.0))  # log E; log worth of repeats and of parameters
EXPONENT = -1.0  # start of its log
STEPS = 4000


def both_factors(train: Points) -> Callable[[Floats], Floats]:
    """Fit the law; returns log loss (m,) at places (m, 3)."""
    from scipy.optimize import minimize

    data = np.exp(np.log(train.x[:, 1:]).mean())
    reference = np.array([np.exp(np.log(train.x[:, 0]).mean()), data, data])
    places, z = np.log(train.x / reference), np.log(train.y)

    def objective(theta: Floats) -> float:
        with np.errstate(all="ignore"):
            gap = np.abs(_law(theta, places) - z)
            total = float(np.sum(np.where(gap < DELTA, gap**2 / 2, DELTA * (gap - DELTA / 2))))
        return total if np.isfinite(total) else 1e9

    begins = [np.array([floor, 0.0, 0.0, EXPONENT, repeats, excess]) for floor, repeats, excess in product(*STARTS)]
    options = {"maxiter": STEPS, "xatol": 1e-5, "fatol": 1e-9}
    ends = [minimize(objective, begin, method="Nelder-Mead", options=options) for begin in begins]
    best = min(ends, key=lambda end: float(end.fun)).x
    return lambda x: _law(best, np.log(x / reference))


def _law(theta: Floats, places: Floats) -> Floats:
    """log loss (n,) at log N, log U and log D over references (n, 3)."""
    floor, size_level, data_level, log_exponent, log_repeats, log_excess = theta
    exponent, (size, unique, seen) = np.exp(log_exponent), places.T
    enough = np.minimum(size, (size_level - data_level) / exponent + unique)  # optimal parameters for the unique data
    size = enough + _worth(size - enough, np.exp(log_excess))
    data = np.minimum(unique, seen) + _worth(np.maximum(seen - unique, 0.0), np.exp(log_repeats))
    total = np.exp(floor) + np.exp(size_level - exponent * size) + np.exp(data_level - exponent * data)
    return np.asarray(np.log(total))


def _worth(beyond: Floats, worth: float) -> Floats:
    """log of 1 + R* (1 - exp(-R / R*)), where log(1 + R) is given."""
    return np.asarray(np.log1p(worth * -np.expm1(-np.expm1(beyond) / worth)))
