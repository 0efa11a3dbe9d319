"""Beliefs: priors on a law's parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats


@dataclass(frozen=True)
class Belief:
    """A prior for every law: log E over the best value, and the log of the exponent, each as (mean, sd).

    `strength` is the residual variance that the belief is weighed against; a small one leaves everything to the data.
    """

    plateau: tuple[float, float] = (-1.5, 1.0)
    exponent: tuple[float, float] = (-0.7, 0.3)
    strength: float = 1e-3


WEAK = Belief(plateau=(-1.5, 3.0), exponent=(-1.0, 1.5), strength=1e-6)


@dataclass(frozen=True)
class Prior:
    """Independent Gaussians: `strength` times the squared distance in deviations is added to the objective."""

    mean: Floats  # (K or 1, p)
    deviation: Floats  # (K or 1, p); infinite for no prior
    strength: Floats  # (K or 1, 1)

    @property
    def precision(self) -> Floats:
        return self.strength / np.square(self.deviation)
