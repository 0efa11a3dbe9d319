"""The metric's room: what kind of number is fitted, and the coordinates that make a fit free of units.

A loss falls and is positive: its logarithm is fitted. A share (recall, accuracy) rises and is bounded by 1: the
logarithm of 1 - r is fitted. A score is anything else and is fitted as it is.

Legend: n points, d inputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.correct import Floats

Kind = Literal["loss", "share", "score"]
KINDS: tuple[Kind, ...] = ("loss", "share", "score")
LOSSES = re.compile(r"loss|err|perplex|ppl|nll|bpb|bpc|entropy|(?<![a-z])(ce|mse|mae|rmse|fid|wer|cer)(?![a-z])", re.I)
SHARES = re.compile(
    r"acc|recall|precision|f1|auc|auroc|auprc|(?<![a-z])m?ap(?![a-z])|top.?[15]|hit|success|retriev|exact", re.I
)


@dataclass(frozen=True)
class Metric:
    """A metric's kind and the value that is its bound: 1, or 100 where it is given in per cent (shares alone)."""

    kind: Kind
    bound: float = 1.0
    falling: bool = False  # scores alone: whether less is better

    def distance(self, y: Floats) -> Floats:
        """What shrinks as the metric improves: the loss, or what a share lacks of its bound."""
        return self.bound - y if self.kind == "share" else y

    def to_space(self, y: Floats, space: str) -> Floats:
        """The metric in the space that a law is fitted in."""
        if space == "log":
            result: Floats = np.log(self.distance(y))
        elif space == "logit":
            result = np.log(y / (self.bound - y))
        else:
            result = -y if self._upside_down else y
        return result

    def from_space(self, z: Floats, space: str) -> Floats:
        """Back from a law's space to the metric."""
        if space == "log":
            gone: Floats = np.exp(np.clip(z, -700, 700))
            return self.bound - gone if self.kind == "share" else gone
        if space == "logit":
            return self.bound / (1 + np.exp(-np.clip(z, -700, 700)))
        return -z if self._upside_down else z

    @property
    def _upside_down(self) -> bool:
        """Whether the linear space holds the negative, so that better is more there."""
        return self.falling or self.kind == "loss"

    @property
    def describe(self) -> str:
        if self.kind == "loss":
            return "loss: falls, positive; fitted as its logarithm"
        if self.kind == "share":
            return f"share: rises, bounded by {self.bound:g}; fitted as the logarithm of what it lacks"
        return f"score: {'falls' if self.falling else 'rises'}, unbounded; fitted as it is"


def guess_metric(name: str, x: Floats, y: Floats, groups: list[int]) -> Metric:
    """The kind of a column, from its name, its range, and which way it goes within groups of rows.

    Args:
        name: the column's.
        x: (n,) first input, y: (n,) metric, both finite.
        groups: the group of each row.
    """
    rising = _trend(x, y, np.asarray(groups)) > 0
    named_share, named_loss = bool(SHARES.search(name)), bool(LOSSES.search(name))
    positive, highest = bool((y > 0).all()), float(y.max())
    if named_loss and not named_share and (y >= 0).all():
        return Metric("loss")
    if (y >= 0).all() and highest <= 1 and (named_share or rising):
        return Metric("share")
    if (y >= 0).all() and highest <= 100 and named_share:
        return Metric("share", bound=100.0)
    if positive and not rising:
        return Metric("loss")
    return Metric("score", falling=not rising)


def _trend(x: Floats, y: Floats, groups: np.ndarray) -> float:
    """Mean rank correlation of y with x over groups."""
    found = []
    for group in np.unique(groups):
        inside = groups == group
        ranks = [np.argsort(np.argsort(values[inside])) for values in (x, y)]
        if inside.sum() > 2 and all(np.ptp(values[inside]) > 0 for values in (x, y)):
            found.append(float(np.corrcoef(ranks[0], ranks[1])[0, 1]))
    return float(np.mean(found)) if found else 0.0


@dataclass(frozen=True)
class Coordinates:
    """Where a fit stands: logs of inputs over `x_ref`, values measured from `z_ref` in units of `z_scale`."""

    metric: Metric
    space: str
    x_ref: Floats  # (d,)
    z_ref: float
    z_scale: float

    @classmethod
    def of(cls, metric: Metric, space: str, x: Floats, y: Floats, shared: tuple[int, ...] = ()) -> Coordinates:
        """Coordinates of points x (n, d), y (n,): means of log x; best value or mean of y.

        `shared` names inputs that count the same thing and so have one reference.
        """
        reference = np.exp(np.log(x).mean(axis=0))
        for column in shared:
            reference[column] = reference[shared[-1]]
        z = metric.to_space(y, space)
        if space == "log":
            return cls(metric, space, reference, float(z.min()), 1.0)
        if space == "logit":
            return cls(metric, space, reference, float(z.mean()), 1.0)
        return cls(metric, space, reference, float(z.mean()), float(z.std()) or 1.0)

    def inputs(self, x: Floats) -> Floats:
        """(..., d) logs over the references."""
        result: Floats = np.log(x / self.x_ref)
        return result

    def values(self, y: Floats) -> Floats:
        return (self.metric.to_space(y, self.space) - self.z_ref) / self.z_scale

    def metric_of(self, z: Floats) -> Floats:
        return self.metric.from_space(self.z_ref + self.z_scale * z, self.space)
