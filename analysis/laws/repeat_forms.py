"""Forms of laws for data seen many times: repeats that lose value, and repeats that hurt.

Inputs are log N, log U and log D: model size, unique data and data seen, the last two over one reference. R = D / U - 1
is the number of repeats. Values are log(y / y_ref).

Legend: K rows, n points. theta (K, p), inputs (K or 1, n, 3) -> values (K, n), Jacobian (K, n, p).
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from analysis.arrays import Floats
from analysis.laws import joint_forms
from analysis.laws.forms import sigmoid

if TYPE_CHECKING:
    from analysis.laws.beliefs import Belief

FADING = (*joint_forms.PARAMETERS, "R")
OVERFITTING = (*joint_forms.PARAMETERS, "P", "kappa", "delta", "H")
WORTHS = (3.0, 15.0)  # starts of the repeats after which a further one is worth 1/e
HEIGHTS, STEEP, HALVES = (-3.0, 0.0), (1.0, 2.0), (20.0, 200.0)  # starts of log P, delta and H
GROWTH = 0.7  # start of kappa
EVERY = 3  # of the additive law's starts one in this many, for each of those


def repeated(theta: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """The additive law in effective data: repeats are worth less each time (Muennighoff et al. 2023, equation 5, data).

    D' = U + U R* (1 - exp(-R / R*)), where R* is the number of repeats after which a further one is worth 1/e of a new
    example. theta: the additive law's, then log R*.
    """
    size, unique, seen = _split(inputs)
    worth = np.exp(theta[:, 5:6])
    repeats = np.expm1(seen - unique)
    faded = np.exp(-repeats / worth)
    factor = 1 + worth * (1 - faded)  # D' / U
    value, jacobian, by_data = joint_forms.additive_parts(theta[:, :5], size, unique + np.log(factor))
    by_worth = worth * (1 - faded - repeats / worth * faded) / factor
    return value, np.concatenate([jacobian, (by_data * by_worth)[..., None]], axis=2)


def overfitting(theta: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """The additive law of all data seen, and what is lost by seeing them again: P (N/U)^kappa / (1 + (R / H)^-delta).

    The loss by repeats grows with parameters per unique example, as an additive penalty does (Lovelace et al. 2026),
    and ends where the data are memorised: half of it has come after H repeats. theta: the additive law's, then log P,
    log kappa, log delta, log H.
    """
    size, unique, seen = _split(inputs)
    value, jacobian, _ = joint_forms.additive_parts(theta[:, :5], size, seen)
    height, kappa, delta, half = (theta[:, 5:6], *(np.exp(theta[:, i : i + 1]) for i in (6, 7)), theta[:, 8:9])
    repeats = np.expm1(seen - unique)
    again = repeats > 0
    steps = np.where(again, np.log(np.where(again, repeats, 1.0)), 0.0) - half  # log (R / H)
    part = np.where(again, sigmoid(delta * steps), 0.0)
    lost = np.exp(height + kappa * (size - unique)) * part
    turn = lost * (1 - part) * delta
    by_penalty = np.stack([lost, lost * kappa * (size - unique), turn * steps, -turn], axis=-1)
    base = np.exp(value)
    total = base + lost
    return np.log(total), np.concatenate([jacobian * (base / total)[..., None], by_penalty / total[..., None]], axis=2)


def _split(inputs: Floats) -> tuple[Floats, Floats, Floats]:
    """log N, log U and log D; a partial pass has seen what it has seen, and no repeats."""
    size, unique, seen = inputs[..., 0], inputs[..., 1], inputs[..., 2]
    return size, np.minimum(unique, seen), seen


def repeated_starts(u: Floats, z: Floats) -> Floats:
    """The additive law's starts with repeats worth little and much."""
    return _crossed(joint_forms.starts(u, z), [[np.log(worth)] for worth in WORTHS])


def overfitting_starts(u: Floats, z: Floats) -> Floats:
    """Some of the additive law's starts with small and large losses, slow and sudden, soon and late."""
    losses = [
        [height, np.log(GROWTH), np.log(steep), np.log(half)] for height, steep, half in product(HEIGHTS, STEEP, HALVES)
    ]
    return _crossed(joint_forms.starts(u, z)[::EVERY], losses)


def _crossed(starts: Floats, others: list[list[float]]) -> Floats:
    return np.concatenate([np.column_stack([starts, np.tile(other, (len(starts), 1))]) for other in others])


def repeated_believed(belief: Belief) -> tuple[list[float], list[float]]:
    """The additive law's Gaussians; R* of 10, within a factor of 50 (Muennighoff et al.: 15)."""
    mean, deviation = joint_forms.believed(belief)
    return [*mean, np.log(10.0)], [*deviation, 2.0]


def overfitting_believed(belief: Belief) -> tuple[list[float], list[float]]:
    """The additive law's Gaussians; a penalty of any size, about in proportion to N / U, at 50 repeats or so."""
    mean, deviation = joint_forms.believed(belief)
    return [*mean, -2.0, 0.0, 0.3, 4.0], [*deviation, 4.0, 0.7, 0.7, 2.0]
