"""How often to show the same data, and how to split compute where unique data are limited.

Both are read off a law of model size, unique data and data seen, and of its resampled fits, in which each law counts by
its share of the average. Nothing is read far beyond what was run: epochs up to twice the most of any run, and sizes and
compute up to ten times.

Legend: K draws, m places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.arrays import Floats
from analysis.fitting.estimate import Average, Points
from analysis.fitting.intervals import bootstrap

NEAR = 0.01  # relative distance of the metric within which two values are as good
STEPS = 120  # of epochs, and of sizes
LONGEST, LARGEST = 2.0, 10.0  # times what was run: epochs; size and compute
DRAWS = 200
SLIGHT = 1e-3  # a law with a smaller share of the average is left out
LEAST_EPOCHS = 1.1  # of a run that has repeated its data
SHOWN = 4  # amounts of unique data
INPUTS = 3  # of a law that tells repeats


@dataclass(frozen=True)
class BestEpochs:
    """The epochs of so much unique data at which a model of one size is best.

    Attributes:
        size: of the model.
        unique: data.
        best: epochs; `longest` if more were always better.
        low: end of its interval.
        high: the other end; infinite if it is not below `longest`.
        enough: the fewest epochs at which the metric is within 1% of its best.
        y: the metric at the best.
        once: the metric after one epoch.
        longest: the most epochs that were considered.
        hurts: share of the resampled laws in which the metric at `longest` is more than 1% worse than at its best.
    """

    size: float
    unique: float
    best: float
    low: float
    high: float
    enough: float
    y: float
    once: float
    longest: float
    hurts: float


@dataclass(frozen=True)
class LimitedSplit:
    """The best size for a compute where unique data are limited; infinite ends are beyond what was considered."""

    compute: float
    unique: float
    size: float
    size_low: float
    size_high: float
    epochs: float
    y: float


@dataclass(frozen=True)
class _Draws:
    """Resampled laws at places, in the law's space, and the weight of each."""

    values: Floats  # (K, m)
    weights: Floats  # (K,)

    @classmethod
    def of(cls, law: Average, points: Points, places: Floats) -> _Draws:
        found = [(member, share) for member, share in zip(law.members, law.shares, strict=True) if share > SLIGHT]
        values = [
            member.log_or_linear(places, bootstrap(member, points, DRAWS, seed))
            for seed, (member, _) in enumerate(found)
        ]
        together, weights = np.concatenate(values), np.repeat([share for _, share in found], DRAWS)
        finite = np.isfinite(together).all(axis=1)
        return cls(together[finite], weights[finite] / weights[finite].sum())

    def ends(self, chosen: Floats, confidence: float) -> tuple[float, float]:
        """Weighted quantiles of one number of each draw (K,)."""
        order = np.argsort(chosen)
        tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
        places = np.searchsorted(np.cumsum(self.weights[order]), tails)
        low, high = chosen[order][np.minimum(places, len(order) - 1)]
        return float(low), float(high)


def best_epochs(
    law: Average, points: Points, places: Sequence[tuple[float, float]], *, confidence: float = 0.9
) -> list[BestEpochs]:
    """The best number of epochs for models of some sizes on so much unique data.

    Args:
        law: of model size, unique data and data seen.
        points: the runs that it was fitted to.
        places: (size, unique data) of each.
        confidence: of every interval.

    Raises:
        ValueError: the law has other inputs.
    """
    _require_repeats(law)
    return [_best_epochs(law, points, size, unique, confidence) for size, unique in places]


def _best_epochs(law: Average, points: Points, size: float, unique: float, confidence: float) -> BestEpochs:
    longest = _longest(points, size, unique)
    epochs = np.geomspace(1.0, longest, STEPS)
    places = np.column_stack([np.full(STEPS, size), np.full(STEPS, unique), unique * epochs])
    curve, draws = law.log_or_linear(places), _Draws.of(law, points, places)
    best = int(np.argmin(curve))
    turns = np.argmin(draws.values, axis=1)
    low, high = draws.ends(epochs[turns], confidence)
    rise = draws.values[:, -1] - draws.values.min(axis=1)
    near = np.log1p(NEAR)
    y = law.predict(places[[best, 0]])
    return BestEpochs(
        size=size, unique=unique, best=float(epochs[best]), low=low, high=high if high < longest else float("inf"),
        enough=float(epochs[int(np.argmax(curve <= curve[best] + near))]), y=float(y[0]), once=float(y[1]),
        longest=longest, hurts=float(draws.weights[rise > near].sum()),
    )  # fmt: skip


def _longest(points: Points, size: float, unique: float) -> float:
    """The most epochs that are considered at a place."""
    most = LONGEST * float((points.x[:, 2] / points.x[:, 1]).max())
    within = LARGEST * float((points.x[:, 0] * points.x[:, 2]).max()) / (size * unique)
    return max(min(most, within), LONGEST)


def shown_places(points: Points) -> list[tuple[float, float]]:
    """The largest size with amounts of unique data that were run: at most four, least and most among them."""
    amounts = np.unique(points.x[:, 1])
    kept = amounts[np.unique(np.linspace(0, len(amounts) - 1, SHOWN).round().astype(int))]
    return [(float(points.x[:, 0].max()), float(unique)) for unique in kept]


def limited_split(
    law: Average, points: Points, unique: float, compute: Sequence[float], *, per_unit: float = 6.0,
    confidence: float = 0.9,
) -> list[LimitedSplit]:  # fmt: skip
    """The best size at each compute C = k N D where all data seen are passes over so much unique data.

    Args:
        law: of model size, unique data and data seen.
        points: the runs that it was fitted to.
        unique: data there are.
        compute: budgets.
        per_unit: k.
        confidence: of every interval.

    Raises:
        ValueError: the law has other inputs.
    """
    _require_repeats(law)
    sizes = np.geomspace(points.x[:, 0].min() / LARGEST, points.x[:, 0].max() * LARGEST, STEPS)
    found = []
    for budget in compute:
        seen = budget / (per_unit * sizes)
        places = np.column_stack([sizes, np.full(STEPS, unique), seen])
        draws = _Draws.of(law, points, places)
        low, high = draws.ends(sizes[np.argmin(draws.values, axis=1)], confidence)
        best = int(np.argmin(law.log_or_linear(places)))
        found.append(
            LimitedSplit(
                float(budget), unique, float(sizes[best]), low if low > sizes[0] else 0.0,
                high if high < sizes[-1] else float("inf"), float(seen[best] / unique),
                float(law.predict(places[best : best + 1])[0]),
            )
        )  # fmt: skip
    return found


def _require_repeats(law: Average) -> None:
    inputs = law.members[0].law.inputs
    if inputs != INPUTS:
        raise ValueError(f"a law of size, unique data and data seen is needed; this one has {inputs} input(s)")


def in_words(found: BestEpochs, confidence: float = 0.9) -> str:
    """One sentence: whether further epochs hurt, and how many are enough."""
    enough = f"{found.enough:.3g} epochs are within {NEAR:.0%} of the best"
    if found.hurts >= confidence:
        high = f"{found.high:.3g}" if np.isfinite(found.high) else f"beyond {found.longest:.3g}"
        return f"best after {found.best:.3g} epochs [{found.low:.3g}, {high}], and more hurt; {enough}"
    if found.hurts > 1 - confidence:
        return f"whether more than {found.low:.3g} epochs hurt cannot be told; {enough}"
    return f"more epochs do not hurt, up to {found.longest:.3g}; {enough}"


def as_json(
    law: Average, points: Points, unique: float | None, compute: Sequence[float], *, per_unit: float = 6.0,
    confidence: float = 0.9,
) -> dict[str, Any]:  # fmt: skip
    """Best epochs at `shown_places`, and splits of compute where so much unique data are given, as data for JSON.

    Without a run that has repeated its data, no epochs.
    """
    repeated = float((points.x[:, 2] / points.x[:, 1]).max()) > LEAST_EPOCHS
    found = best_epochs(law, points, shown_places(points), confidence=confidence) if repeated else []
    splits = () if unique is None else limited_split(
        law, points, unique, compute, per_unit=per_unit, confidence=confidence
    )  # fmt: skip
    return {
        "epochs": [asdict(one) | {"in_words": in_words(one, confidence)} for one in found],
        "splits": [asdict(one) for one in splits],
    }
