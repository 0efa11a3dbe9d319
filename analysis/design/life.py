"""Lifetime frontier of a fitted joint law: best sizes over a life with intervals, and which of some models is cheapest.

Intervals are quantiles over resampled runs, widened as those of the compute-optimal frontier are (`frontier`): by how
much wider the exponents' profile is than their resampled values.

Legend: K draws, m amounts of crops embedded, k models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats
from analysis.design.frontier import share_interval
from analysis.design.lifetime import Costs, Joint, Optimum, best_for, cheapest, turns
from analysis.fitting.estimate import Fitted, Points
from analysis.fitting.intervals import bootstrap
from analysis.fitting.parameters import natural

DRAWS = 200
LAW = "joint"


@dataclass(frozen=True)
class Band:
    """A value and its interval, each (m,); infinite where there is none."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Life:
    """The best way to a metric, or for a budget, at each amount of crops embedded (m,); costs in one unit."""

    embedded: Floats
    size: Band
    crops: Band  # seen in training
    train: Floats
    embed: Floats
    total: Band
    metric: Band
    reached: Floats  # share of resampled laws by which it is possible at all


@dataclass(frozen=True)
class ModelTurn:
    """From so many crops embedded on, a model is the cheapest over its life. The first one is so from 0 on."""

    model: str
    crops: float
    low: float  # interval; 0 for the first
    high: float  # infinite where the runs do not exclude that the model before it stays cheaper


@dataclass(frozen=True)
class LifeLaw:
    """A joint law of size and crops with its resampled draws."""

    best: Joint  # one draw: the fit
    draws: Joint
    wider: float  # factor of every interval, in logarithms
    confidence: float
    fitted: Fitted

    @classmethod
    def of(cls, fitted: Fitted, points: Points, *, confidence: float = 0.9, count: int = DRAWS) -> LifeLaw:
        """Resample the runs behind a law.

        Raises:
            ValueError: the law is not `joint`.
        """
        if fitted.law.name != LAW:
            raise ValueError(f"a lifetime frontier needs the law {LAW}, not {fitted.law.name}")
        values, drawn = (
            natural(LAW, theta, fitted.coordinates) for theta in (fitted.theta[None], bootstrap(fitted, points, count))
        )
        usable = np.all([np.isfinite(part) & (part > 0) for part in drawn.values()], axis=0)
        drawn = {name: part[usable] for name, part in drawn.items()}
        share = drawn["beta"] / (drawn["alpha"] + drawn["beta"])
        wider = share_interval(fitted, share, confidence)[2]
        return cls(Joint.of(values), Joint.of(drawn), wider, confidence, fitted)

    def frontier(
        self, costs: Costs, embedded: Floats, *, metric: float | None = None, budget: float | None = None
    ) -> Life:
        """The best size over a life with each amount of crops embedded (m,).

        Args:
            costs: of a crop; its sizes are in the unit of the law's first input.
            embedded: (m,) crops embedded, zero or more.
            metric: that is wanted, at least cost; or
            budget: of training and embedding together, in the unit of costs, for the best metric.

        Raises:
            ValueError: neither or both of metric and budget are given.
        """
        if (metric is None) == (budget is None):
            raise ValueError("a lifetime frontier is for a metric or for a budget: give one of them")
        best, drawn = (
            best_for(law, costs, embedded, budget) if budget is not None
            else cheapest(law, costs, embedded, self._distance(metric or 0.0)) for law in (self.best, self.draws)
        )  # fmt: skip
        return self._life(embedded, best, drawn)

    def turns(self, costs: Costs, names: Sequence[str], metric: float) -> list[ModelTurn]:
        """Which of the models (k) that the costs are of is the cheapest over a life, as more is embedded.

        The interval of a turn is of the place where its model and the one before it cost the same.
        """
        y = self._distance(metric)
        per_draw = self._train(self.draws, costs, y)  # (K, k)
        found = turns(self._train(self.best, costs, y)[0], costs.embed)
        result = list[ModelTurn]()
        for before, turn in zip([None, *found], found, strict=False):
            if before is None:
                result.append(ModelTurn(names[turn.model], 0.0, 0.0, 0.0))
                continue
            with np.errstate(invalid="ignore"):
                dearer = per_draw[:, turn.model] - per_draw[:, before.model]
            met = np.maximum(dearer, 0.0) / (costs.embed[before.model] - costs.embed[turn.model])
            band = self._band(np.array([turn.crops]), np.nan_to_num(met, nan=np.inf)[:, None])
            result.append(ModelTurn(names[turn.model], turn.crops, float(band.low[0]), float(band.high[0])))
        return result

    def _train(self, law: Joint, costs: Costs, y: float) -> Floats:
        """Cost (K, k) of training each model until it reaches y."""
        sizes = np.broadcast_to(costs.size, (len(law), len(costs.size)))
        return np.asarray(costs.train * law.crops(sizes, np.full(sizes.shape, y)))

    def _distance(self, metric: float) -> float:
        return float(self.fitted.coordinates.metric.distance(np.array(metric)))

    def _life(self, embedded: Floats, best: Optimum, drawn: Optimum) -> Life:
        bands: Mapping[str, Band] = {
            name: self._band(getattr(best, name)[0], getattr(drawn, name)) for name in ("size", "crops", "total", "y")
        }
        y, metric = bands["y"], self.fitted.coordinates.metric
        ends = [metric.bound - part if metric.kind == "share" else part for part in (y.value, y.low, y.high)]
        return Life(
            embedded, bands["size"], bands["crops"], best.train[0], best.embed[0], bands["total"],
            Band(ends[0], np.minimum(*ends[1:]), np.maximum(*ends[1:])), np.isfinite(drawn.size).mean(axis=0),
        )  # fmt: skip

    def _band(self, value: Floats, drawn: Floats) -> Band:
        """The interval (m,) of draws (K, m), which may be infinite, about the value (m,), widened in logarithms."""
        tail = (1 - self.confidence) / 2
        ends = np.quantile(drawn, [tail, 1 - tail], axis=0, method="nearest")
        with np.errstate(all="ignore"):
            low, high = (np.where(np.isfinite(end), value * (end / value) ** self.wider, end) for end in ends)
        return Band(value, np.minimum(low, value), np.maximum(high, value))
