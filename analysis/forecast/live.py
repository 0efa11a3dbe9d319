"""Where a run will end: the distribution of its final loss from its own curve so far, and from finished siblings.

A curve under a schedule is not extrapolated as if its tail went on. Progress is counted in learning rate: u is the
share of the area under the schedule that is covered, and annealing lowers the loss by a share of its own, as in the law
of Tissue et al. (2024, "Scaling law with learning rate annealing"). In logarithms,

    log y(s) = level + log(e + (1 - e) ((u + k) / (1 + k))^-c) + log(1 - g a(s)),

with plateau e, exponent c, a flat beginning of length k, and the gain g of annealing, whose part a is made either at
once when the rate falls or with the area of the fall. (e, c, k) and (g, a) are on a grid with a prior; level and noise
are integrated out in closed form. So the answer is a mixture of Student's t distributions, found without a search.
Finished siblings at the same share of the run say by how much the loss still falls, which weighs the places of the grid
once more. docs/forecasts.md says how the constants were chosen.

Legend: n readings of the loss, P places of the grid of shapes, Q places of the grid of annealing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.forecast.rates import Rates

PLATEAUS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.87, 0.95])
EXPONENTS = np.geomspace(0.03, 2.0, 14)
FLAT = np.array([0.0, 0.1, 0.4, 1.5])  # lengths of the beginning, in multiples of what was seen
GAINS = np.array([0.0, 0.01, 0.02, 0.035, 0.055, 0.08, 0.11, 0.15, 0.2, 0.28])
PLATEAU_PRIOR = (2.0, 0.05)  # the density of e is (e + 0.05)^2
EXPONENT_PRIOR = (float(np.log(0.6)), 0.8)  # mean and deviation of log c
GAIN_SCALE = 0.07  # of the exponential prior of g
TAIL = 3.0  # weights of readings, which count evenly in log u, grow as u**TAIL
INDEPENDENT = 10  # readings of one curve count as at most so many: what a law misses, it misses in neighbours too
NOISE = (2.0, 0.003)  # prior of the noise of log y: degrees of freedom, deviation
STRAY = 0.2  # how far laws of this form are off, as a share of the fall that they still predict
LIKENESS = (3.0, 0.25, 0.004)  # prior of siblings' falls: freedom, deviation as a share of the mean, and at least
NEAR = 0.85  # a sibling's loss at a share s is the mean of its readings from NEAR * s to s
FEWEST = 4  # readings after the warm-up
EARLIEST = 0.05  # share of the area under the schedule that must be covered
MOST_READINGS = 64  # more are thinned, evenly in log u
NEGLIGIBLE = 1e-7  # weight of a place of the grid
HALVINGS = 60
CLOSE = 1e-10  # of a quantile to the last guess, in spreads of the distribution
TINY = 1e-300


@dataclass(frozen=True)
class Curve:
    """Readings of a run's loss in order: shares of the run in (0, 1], and positive losses, both (n,)."""

    share: Floats
    loss: Floats

    def until(self, share: float) -> Curve:
        """The readings up to a share of the run."""
        seen = self.share <= share * (1 + 1e-9)
        return Curve(self.share[seen], self.loss[seen])

    def since(self, share: float) -> Curve:
        """The readings after a share of the run."""
        later = self.share > share
        return Curve(self.share[later], self.loss[later])


@dataclass(frozen=True)
class FinalLoss:
    """The distribution of the log of a run's final loss: a mixture of Student's t distributions of one freedom."""

    weights: Floats  # (m,), their sum is 1
    centres: Floats  # (m,)
    scales: Floats  # (m,)
    freedom: float
    siblings: int  # that had a part in it

    def above(self, loss: float) -> float:
        """The probability that the run ends above a loss."""
        return 1.0 - self._below(float(np.log(loss)))

    def quantile(self, probability: float) -> float:
        """The loss that the run ends below with this probability.

        Found by Newton's method, which halves the bracket wherever a step would leave it.
        """
        low, high = self.centres.min() - 60 * self.scales.max(), self.centres.max() + 60 * self.scales.max()
        mean = float(self.weights @ self.centres)
        spread = float(self.weights @ ((self.centres - mean) ** 2 + self.scales**2)) ** 0.5
        guess = mean + spread * NormalDist().inv_cdf(probability)
        for _ in range(HALVINGS):
            miss = self._below(guess) - probability
            low, high = (guess, high) if miss < 0 else (low, guess)
            step = guess - miss / max(self._density(guess), TINY)
            after = step if low < step < high else (low + high) / 2
            if abs(after - guess) <= CLOSE * spread:
                break
            guess = after
        return float(np.exp(guess))

    def interval(self, confidence: float = 0.9) -> tuple[float, float]:
        """The ends of the middle of the distribution."""
        return self.quantile((1 - confidence) / 2), self.quantile((1 + confidence) / 2)

    def _below(self, log_loss: float) -> float:
        from scipy.special import stdtr

        return float(self.weights @ stdtr(self.freedom, (log_loss - self.centres) / self.scales))

    def _density(self, log_loss: float) -> float:
        half = (self.freedom + 1) / 2
        factor = math.exp(math.lgamma(half) - math.lgamma(self.freedom / 2)) / math.sqrt(self.freedom * math.pi)
        z = (log_loss - self.centres) / self.scales
        return factor * float((self.weights / self.scales) @ (1 + z * z / self.freedom) ** -half)


def final_loss(curve: Curve, rates: Rates, siblings: Sequence[Curve] = ()) -> FinalLoss:
    """Forecast the last reading of a run.

    Args:
        curve: its readings so far.
        rates: its schedule; that of no decay where nothing is known of it.
        siblings: complete curves of runs with the same schedule.

    Raises:
        ValueError: not enough to tell; the message says what would be.
    """
    own = _thinned(_usable(curve, rates), rates)
    shapes, shape_prior = _shapes(rates, own)  # (P, n + 1), (P,)
    annealing, annealing_prior = _annealing(rates, own)  # (Q, n + 1), (Q,)
    level, squares, n = _residuals(np.log(own.loss), _weights(rates, own), shapes, annealing)  # (P, Q) each
    freedom = n - 1 + NOISE[0]
    variance = (NOISE[0] * NOISE[1] ** 2 + squares) / freedom
    fall = (shapes[:, -1] - shapes[:, -2])[:, None] + annealing[:, -1] - annealing[:, -2]
    odds = shape_prior[:, None] + annealing_prior - freedom / 2 * np.log(variance)
    stray = (STRAY * fall) ** 2
    if falls := _falls(siblings, float(own.share[-1])):
        mean, scale, likeness = _alike(np.array(falls))
        odds = odds - (likeness + 1) / 2 * np.log1p(((fall - mean) / scale) ** 2 / likeness)
        stray = np.minimum(stray, scale**2)
    end = level + shapes[:, -1:] + annealing[:, -1]
    return _mixture(odds, end, np.sqrt(variance * (1 + 1 / n) + stray), freedom, len(falls))


def _usable(curve: Curve, rates: Rates) -> Curve:
    """The readings after the warm-up.

    Raises:
        ValueError: too few, or of too short a part of the run.
    """
    own = curve.since(rates.warm * (1 - 1e-9)) if rates.warm < 1 else curve
    covered = float(rates.area(own.share[-1:])[0]) if len(own.share) else 0.0
    if len(own.share) < FEWEST or covered < EARLIEST:
        raise ValueError(
            f"not enough to tell: {len(own.share)} validations after the warm-up, {covered:.0%} of the area under the "
            f"schedule; {FEWEST} validations and {EARLIEST:.0%} would be"
        )
    return own


def _mixture(odds: Floats, centres: Floats, scales: Floats, freedom: float, siblings: int) -> FinalLoss:
    weights = np.exp(odds - odds.max()).ravel()
    weights /= weights.sum()
    kept = weights > NEGLIGIBLE
    share = weights[kept] / weights[kept].sum()
    return FinalLoss(share, centres.ravel()[kept], scales.ravel()[kept], freedom, siblings)


def _thinned(curve: Curve, rates: Rates) -> Curve:
    """At most `MOST_READINGS` readings, among them the last: means over cells that are even in log u."""
    if len(curve.share) <= MOST_READINGS:
        return curve
    u = np.log(np.maximum(rates.area(curve.share), 1e-9))
    places = np.linspace(u[0], u[-1], MOST_READINGS + 1)
    cell = np.clip(np.searchsorted(places, u, side="left"), 1, MOST_READINGS)
    cells = np.unique(cell)
    shares = np.array([curve.share[cell == one].max() for one in cells])
    losses = np.array([np.exp(np.log(curve.loss[cell == one]).mean()) for one in cells])
    return Curve(shares, losses)


def _weights(rates: Rates, curve: Curve) -> Floats:
    """The weights of readings (n,); their sum is how many independent ones they count as."""
    u = np.maximum(rates.area(curve.share), 1e-9)
    weights = u**TAIL * np.gradient(np.log(u))
    return np.asarray(weights / weights.sum() * min(len(u), INDEPENDENT))


def _shapes(rates: Rates, curve: Curve) -> tuple[Floats, Floats]:
    """The log loss without annealing, relative to its end, at the readings and at the end; and the log prior."""
    u = np.append(np.maximum(rates.area(curve.share), 1e-9), 1.0)
    plateau, exponent, flat = (
        one.ravel()[:, None] for one in np.meshgrid(PLATEAUS, EXPONENTS, FLAT * u[-2], indexing="ij")
    )
    falling = ((u + flat) / (1 + flat)) ** -exponent  # (P, n + 1)
    mean, deviation = EXPONENT_PRIOR
    prior = PLATEAU_PRIOR[0] * np.log(plateau + PLATEAU_PRIOR[1])
    prior = prior - 0.5 * ((np.log(exponent) - mean) / deviation) ** 2
    return np.log(plateau + (1 - plateau) * falling), prior[:, 0]


def _annealing(rates: Rates, curve: Curve) -> tuple[Floats, Floats]:
    """What annealing adds to the log loss at the readings and the end, and the log prior; nothing without a decay."""
    share = np.append(curve.share, 1.0)
    if not rates.decays:
        return np.zeros((1, len(share))), np.zeros(1)
    parts = np.stack([rates.fallen(share), rates.area_fallen(share)])  # (2, n + 1)
    gains = GAINS[:, None, None] * parts  # (gains, 2, n + 1)
    prior = np.repeat(-GAINS / GAIN_SCALE, len(parts))
    return np.log1p(-gains).reshape(-1, len(share)), prior


def _residuals(z: Floats, weights: Floats, shapes: Floats, annealing: Floats) -> tuple[Floats, Floats, float]:
    """The level of each pair of places (P, Q), the weighted sum of squares about it (P, Q), and the sum of weights."""
    n = float(weights.sum())
    first, second = z - shapes[:, :-1], annealing[:, :-1]  # residual: first - second
    level = (first @ weights)[:, None] / n - (second @ weights) / n
    cross = (first * weights) @ second.T
    squares = (first**2 @ weights)[:, None] - 2 * cross + second**2 @ weights
    return level, np.maximum(squares - n * level**2, 0.0), n


def _falls(siblings: Sequence[Curve], share: float) -> list[float]:
    """By how much the log loss of each sibling changed from a share of the run to its end."""
    falls = []
    for curve in siblings:
        near = (curve.share >= NEAR * share) & (curve.share <= share * (1 + 1e-9))
        if not near.any() and not curve.share[0] <= share <= curve.share[-1]:
            continue
        now = np.log(curve.loss[near]).mean() if near.any() else np.interp(share, curve.share, np.log(curve.loss))
        falls.append(float(np.log(curve.loss[-1]) - now))
    return falls


def _alike(falls: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Centre, scale and degrees of freedom of what one more run's fall may be."""
    count, mean = len(falls), float(falls.mean())
    freedom, relative, least = LIKENESS
    prior = (relative * abs(mean)) ** 2 + least**2
    pooled = (freedom * prior + float(((falls - mean) ** 2).sum())) / (freedom + count - 1)
    return mean, float(np.sqrt(pooled * (1 + 1 / count))), freedom + count - 1
