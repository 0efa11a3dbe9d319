"""Best model size over a model's life: it is trained once, and run on every crop that it will ever embed.

A model of size n that sees D crops in training and M crops in embedding costs C = t(n) D + e(n) M, where t and e are
the costs of one crop. Under y = E + A n^-alpha + B D^-beta, with t proportional to n and e / t = r, the best n and D
obey

    alpha A n^-alpha = beta B D^-beta (1 + r M / D),

which is Hoffmann et al. (2022) without embedding, and Sardana et al. (2024) for r = 1/3. The more is embedded, the
smaller is the best model for a wanted y, down to the size that reaches it with unlimited data. Costs that are no power
of n are interpolated between models, so the optimum is found numerically.

Legend: K draws of the law, m amounts of crops embedded, s trial sizes, k models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats

TRIALS, SECTIONS, HALVINGS = 129, 34, 44  # sizes tried, golden sections about the best, halvings of a metric's range
FARTHEST = 40.0  # of the logit of the share of the gap to E that size leaves
GOLDEN = (np.sqrt(5) - 1) / 2
DECADES = 12.0  # above E and below the law's own terms that a metric is sought in, for a budget


@dataclass(frozen=True)
class Joint:
    """Draws of y = E + A n^-alpha + B D^-beta, each parameter (K,). y is what falls: a loss, or 1 - r of a share."""

    E: Floats
    A: Floats
    B: Floats
    alpha: Floats
    beta: Floats

    @classmethod
    def of(cls, values: Mapping[str, Floats]) -> Joint:
        """From a joint law's parameters by name (`fitting.parameters.natural`)."""
        return cls(*(np.atleast_1d(values[name]) for name in ("E", "A", "B", "alpha", "beta")))

    def __len__(self) -> int:
        return len(self.E)

    def at(self, size: Floats, crops: Floats) -> Floats:
        """y (K, ...) at sizes and crops (K, ...)."""
        E, A, B, alpha, beta = (_beside(part, size) for part in (self.E, self.A, self.B, self.alpha, self.beta))
        return np.asarray(E + A * size**-alpha + B * crops**-beta)

    def crops(self, size: Floats, y: Floats) -> Floats:
        """Training crops with which sizes (K, ...) reach y (K, ...); infinite where no number does."""
        E, A, B, alpha, beta = (_beside(part, size) for part in (self.E, self.A, self.B, self.alpha, self.beta))
        with np.errstate(all="ignore"):
            rest = y - E - A * size**-alpha
            return np.where(rest > 0, (B / np.maximum(rest, 0.0)) ** (1 / beta), np.inf)


@dataclass(frozen=True)
class Costs:
    """Cost of a crop in training and in embedding, at the sizes of some models; in one unit, such as FLOPs.

    Between models the logarithms are interpolated, and continued with the slope of the last two. Of a single model,
    costs are proportional to size.
    """

    size: Floats  # (k,) positive, rising
    train: Floats  # (k,)
    embed: Floats  # (k,)

    def __post_init__(self) -> None:
        """Check sizes and costs.

        Raises:
            ValueError: lengths differ, a number is not positive, sizes do not rise, or costs fall with size.
        """
        if not len(self.size) == len(self.train) == len(self.embed) > 0:
            raise ValueError("sizes and costs must be of the same models, at least one")
        numbers = np.concatenate([self.size, self.train, self.embed])
        if not (np.isfinite(numbers).all() and (numbers > 0).all() and (np.diff(self.size) > 0).all()):
            raise ValueError("sizes must rise, and sizes and costs must be positive and finite")
        if (np.diff(self.train) < 0).any() or (np.diff(self.embed) < 0).any():
            raise ValueError("a crop costs less at a larger size, so no size is best")

    def at(self, size: Floats) -> tuple[Floats, Floats]:
        """Costs of a crop in training and embedding, of any sizes."""
        train, embed = (_along(np.log(self.size), np.log(cost), np.log(size)) for cost in (self.train, self.embed))
        with np.errstate(over="ignore"):
            return np.exp(train), np.exp(embed)


@dataclass(frozen=True)
class Optimum:
    """The cheapest way to a metric over a life; each (K, m), infinite where no size reaches the metric."""

    size: Floats
    crops: Floats  # seen in training
    train: Floats  # cost
    embed: Floats
    y: Floats

    @property
    def total(self) -> Floats:
        """Cost of training and embedding."""
        return np.asarray(self.train + self.embed)


def cheapest(law: Joint, costs: Costs, embedded: Floats, y: Floats | float) -> Optimum:
    """The size of least total cost that reaches y, for each amount of crops embedded.

    Args:
        law: K draws of it.
        costs: of a crop.
        embedded: (m,) crops embedded over the life, zero or more.
        y: the metric that is wanted, a number or (K, m).
    """
    wanted = np.broadcast_to(np.asarray(y, dtype=np.float64), (len(law), len(embedded)))  # (K, m)
    E, A, B, alpha, beta = (part[:, None, None] for part in (law.E, law.A, law.B, law.alpha, law.beta))
    gap = wanted[..., None] - E  # (K, m, 1)
    reached = gap > 0
    amount = np.asarray(embedded, dtype=np.float64)[:, None]  # (m, 1)

    def split(logit: Floats) -> tuple[Floats, Floats]:
        """Size and crops (K, m, s) where size leaves a share of the gap, and data the rest: every way to reach y."""
        log_gap = np.log(np.where(reached, gap, 1.0))
        size = np.exp((np.log(A) - log_gap + np.logaddexp(0.0, -logit)) / alpha)
        return size, np.exp((np.log(B) - log_gap + np.logaddexp(0.0, logit)) / beta)

    def log_total(logit: Floats) -> Floats:
        size, crops = split(logit)
        train, embed = costs.at(size)
        return np.log(train * crops + embed * amount)

    with np.errstate(over="ignore", invalid="ignore"):
        best = _least(log_total, (*wanted.shape, 1))
        size, crops = split(best)
        train, embed = costs.at(size)
        of_training, of_embedding = train * crops, embed * amount
    parts = (size, crops, of_training, of_embedding, wanted[..., None])
    return Optimum(*(np.where(reached, part, np.inf)[..., 0] for part in parts))


def best_for(law: Joint, costs: Costs, embedded: Floats, budget: float) -> Optimum:
    """The best metric for a total cost, and its size, for each amount of crops embedded (m,).

    Better metrics cost more, so y is found by halving. Where the budget buys nothing, all is infinite.
    """
    reference = law.A * np.exp(-law.alpha * np.log(costs.size.min()))  # (K,) what the smallest model leaves
    low, high = (
        np.repeat((np.log(reference) + sign * DECADES * np.log(10))[:, None], len(embedded), axis=1) for sign in (-1, 1)
    )  # (K, m) logs of y - E
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        dear = cheapest(law, costs, embedded, law.E[:, None] + np.exp(middle)).total > budget
        low, high = np.where(dear, middle, low), np.where(dear, high, middle)
    found = cheapest(law, costs, embedded, law.E[:, None] + np.exp(high))
    bought = found.total <= budget * (1 + 1e-6)
    parts = (found.size, found.crops, found.train, found.embed, found.y)
    return Optimum(*(np.where(bought, part, np.inf) for part in parts))


@dataclass(frozen=True)
class Turn:
    """From so many crops embedded on, this model is the cheapest of some models over its life."""

    model: int  # index
    crops: float  # embedded


def turns(train: Floats, embed: Floats) -> list[Turn]:
    """Which model is the cheapest as more is embedded: the lower envelope of the lines train + embed M, exactly.

    Args:
        train: (k,) cost of training each model until it reaches the metric; infinite if it never does.
        embed: (k,) cost of embedding a crop.
    """
    able = [index for index in range(len(train)) if np.isfinite(train[index])]
    if not able:
        return []
    current = min(able, key=lambda index: (train[index], embed[index]))
    found = [Turn(current, 0.0)]
    while rest := [index for index in able if embed[index] < embed[current]]:
        meets = {index: (train[index] - train[current]) / (embed[current] - embed[index]) for index in rest}
        current = min(rest, key=lambda index: (meets[index], embed[index]))
        if meets[current] == found[-1].crops:  # of lines through one point the flattest counts
            found.pop()
        found.append(Turn(current, float(meets[current])))
    return found


def _beside(part: Floats, size: Floats) -> Floats:
    """A parameter (K,) with axes for (K, ...)."""
    return part.reshape(len(part), *[1] * (size.ndim - 1))


def _along(x: Floats, y: Floats, at: Floats) -> Floats:
    """Linear interpolation, continued with the slope of the last two; of one point, with slope 1."""
    if len(x) == 1:
        return np.asarray(y[0] + at - x[0])
    part = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    slopes = np.diff(y) / np.diff(x)
    return np.asarray(y[part] + slopes[part] * (at - x[part]))


def _least(objective: Callable[[Floats], Floats], shape: Sequence[int]) -> Floats:
    """Where the objective is least (K, m, 1): the best of many trials, then golden section about it.

    With costs that are powers of size the objective is convex in the share (a sum of exponentials of convex
    functions), so there is one minimum; kinks of interpolated costs are told apart by the trials.
    """
    trials = np.linspace(-FARTHEST, FARTHEST, TRIALS)
    values = objective(np.broadcast_to(trials, (*shape[:-1], TRIALS)))
    at = np.argmin(np.where(np.isnan(values), np.inf, values), axis=-1)
    step = trials[1] - trials[0]
    low, high = trials[at][..., None] - step, trials[at][..., None] + step
    for _ in range(SECTIONS):
        inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = objective(inner) < objective(outer)
        low, high = np.where(left, low, inner), np.where(left, outer, high)
    return np.asarray((low + high) / 2)
