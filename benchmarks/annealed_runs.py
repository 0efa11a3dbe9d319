"""Simulated runs under schedules: losses by the law of Tissue et al. (2024), whose final value is known.

    L(s) = E + A S1(s)^-alpha - C S2(s)

S1 is the sum of learning rates so far, S2 the sum of what the rate had fallen by at each step, remembered with a
momentum of 0.999 a step. Studies have runs of similar laws; none of them is of a form that `analysis.forecast` fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats
from analysis.forecast.live import Curve
from analysis.forecast.rates import PLACES, Rates

SCHEDULES = ("constant", "cosine", "linear", "stable, then decay")
MOMENTUM, PEAK, READINGS = 0.999, 1.0, 20
WARM = {"stable, then decay": 0.02}


@dataclass(frozen=True)
class SimulatedStudy:
    """A run with its schedule, and finished siblings of similar laws."""

    curve: Curve
    rates: Rates
    siblings: tuple[Curve, ...]


@dataclass(frozen=True)
class _Law:
    floor: float
    exponent: float
    amplitude: float  # of the falling part at the end, relative to the floor
    gain: float  # by annealing at the end, relative to the loss

    def varied(self, rng: np.random.Generator) -> _Law:
        """The law of another run of the study."""
        factors = (0.8, 1.2), (0.9, 1.1), (0.8, 1.2), (0.7, 1.3)
        values = (self.floor, self.exponent, self.amplitude, self.gain)
        return _Law(*(value * rng.uniform(*ends) for value, ends in zip(values, factors, strict=True)))


def rates_of(schedule: str) -> Rates:
    """One of `SCHEDULES`, with a warm-up of a tenth of the run, or of a fiftieth before a stable rate."""
    share, warm = np.linspace(0, 1, PLACES), WARM.get(schedule, 0.1)
    passed = np.clip((share - warm) / (1 - warm), 0, 1)
    falling = {
        "constant": np.ones(PLACES),
        "cosine": (1 + np.cos(np.pi * passed)) / 2,
        "linear": 1 - passed,
        "stable, then decay": np.where(share < 0.8, 1.0, 1 - np.sqrt(np.clip((share - 0.8) / 0.2, 0, 1))),
    }[schedule]
    return Rates(np.minimum(1.0, 0.04 + 0.96 * share / warm) * falling)


def study(schedule: str, seed: int, siblings: int) -> SimulatedStudy:
    """A study of 2,000 to 100,000 steps a run, 20 validations and 0.05% to 1% noise."""
    rng, rates = np.random.default_rng(seed), rates_of(schedule)
    law = _Law(rng.uniform(0.3, 2.5), rng.uniform(0.3, 0.7), rng.uniform(0.05, 0.5), rng.uniform(0.02, 0.12))
    noise, steps = 10 ** rng.uniform(-3.3, -2), int(rng.integers(2_000, 100_000))
    curves = [_curve(law.varied(rng), rates, steps, noise, rng) for _ in range(siblings + 1)]
    return SimulatedStudy(curves[0], rates, tuple(curves[1:]))


def _curve(law: _Law, rates: Rates, steps: int, noise: float, rng: np.random.Generator) -> Curve:
    share = rates.share[1:]
    area, annealed = rates.area(share), _annealed(rates, steps)
    stable = law.floor * (1 + law.amplitude * np.maximum(area, 1 / steps) ** -law.exponent)
    gained = law.gain * stable[-1] * (annealed / annealed[-1] if annealed[-1] > 0 else annealed)
    readings = np.arange(1, READINGS + 1) / READINGS
    losses = np.interp(readings, share, stable - gained)
    return Curve(readings, losses * np.exp(noise * rng.normal(size=READINGS)))


def _annealed(rates: Rates, steps: int) -> Floats:
    """S2 at the places of the schedule after the first, up to a factor."""
    kept = MOMENTUM ** (steps / (PLACES - 1))
    drops = np.maximum(rates.rate[:-1] - rates.rate[1:], 0.0)
    momentum = np.zeros(len(drops))
    for place, drop in enumerate(drops):
        momentum[place] = kept * (momentum[place - 1] if place else 0.0) + drop
    return np.asarray(np.cumsum(momentum))
