"""Metrics: what kind of number is fitted, and the coordinates that make a fit unit-free.

A loss falls and is positive: its logarithm is fitted. A share (recall, accuracy) rises and is bounded by 1: the
logarithm of 1 - r is fitted. A score is anything else and is fitted as it is.

Legend: n points, d inputs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.arrays import Floats

Kind = Literal["loss", "share", "score"]
KINDS: tuple[Kind, ...] = ("loss", "share", "score")
LOSSES = re.compile(r"loss|err|perplex|ppl|nll|bpb|bpc|entropy|(?<![a-z])(ce|mse|mae|rmse|fid|wer|cer)(?![a-z])", re.I)
SHARES = re.compile(
    r"acc|recall|precision|f1|auc|auroc|auprc|(?<![a-z])m?ap(?![a-z])|top.?[15]|hit|success|retriev|exact|bleu|rouge|"
    r"meteor|chrf|(?<![a-z])iou|dice|pass.?@|win.?rate",
    re.I,
)
ERROR_RATES = re.compile(r"^(?!.*(squar|absol|mse|mae)).*err", re.I)
PER_CENT = re.compile(r"%|per.?cent|(?<![a-z])pct(?![a-z])", re.I)
CLEARLY_FALLING = -0.5  # rank correlation below which a share's name is not trusted: 1 - accuracy
OVER = 1.02  # a share may exceed 1 by this factor through rounding; beyond, it is in per cent


@dataclass(frozen=True)
class Metric:
    """A metric's kind and the value that is its bound: 1, or 100 where it is given in per cent (shares only).

    Predictions and intervals never leave the metric's range: a share's [0, bound], a loss's [0, top].
    """

    kind: Kind
    bound: float = 1.0
    top: float = math.inf  # losses only: 1 or 100 for an error rate
    falling: bool = False  # scores only: whether less is better

    def distance(self, y: Floats) -> Floats:
        """A number that shrinks as the metric improves: the loss, or a share's distance from its bound."""
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
            distance: Floats = np.exp(np.clip(z, -700, 700))
            return self.bound - distance if self.kind == "share" else distance
        if space == "logit":
            return self.bound / (1 + np.exp(-np.clip(z, -700, 700)))
        return -z if self._upside_down else z

    def within(self, y: Floats) -> Floats:
        """Values clipped to the metric's range."""
        if self.kind == "score":
            return y
        result: Floats = np.clip(y, 0.0, self.bound if self.kind == "share" else self.top)
        return result

    @property
    def _upside_down(self) -> bool:
        """Whether the linear space holds the negative, so that better is more there."""
        return self.falling or self.kind == "loss"

    @property
    def describe(self) -> str:
        if self.kind == "loss":
            range_ = f", at most {self.top:g}" if math.isfinite(self.top) else ""
            return f"loss: falls, positive{range_}; fitted as its logarithm"
        if self.kind == "share":
            return f"share: rises, bounded by {self.bound:g}; fitted as the logarithm of its distance from the bound"
        return f"score: {'falls' if self.falling else 'rises'}, unbounded; fitted as it is"


def guess_metric(name: str, x: Floats, y: Floats, groups: list[int], everywhere: Floats | None = None) -> Metric:
    """The kind of a column, from its name, its range, and its trend within groups of rows.

    Where the name could be either (`top1_error`), or gives no hint, the trend decides.

    Args:
        name: the column's.
        x: (n,) compute, or the product of the inputs; y: (n,) metric, both finite.
        groups: the group of each row.
        everywhere: the metric on more rows than those that are fitted, only for its range.
    """
    trend = _trend(x, y, np.asarray(groups))
    named_share, named_loss = bool(SHARES.search(name)), bool(LOSSES.search(name))
    if (named_share and named_loss) or (named_share and trend < CLEARLY_FALLING):
        named_share, named_loss = trend > 0, trend <= 0
    values = y if everywhere is None else everywhere
    lowest, highest = float(values.min()), float(values.max())
    bound = 100.0 if highest > OVER or PER_CENT.search(name) else 1.0
    if named_loss and not named_share and lowest >= 0:
        is_rate = SHARES.search(name) or (ERROR_RATES.search(name) and (highest <= 1 or PER_CENT.search(name)))
        return Metric("loss", top=bound if is_rate and highest <= bound else math.inf)
    if lowest >= 0 and ((named_share and highest <= 100) or (trend > 0 and highest <= 1)):
        return Metric("share", bound=bound)
    if lowest > 0 and trend <= 0:
        return Metric("loss")
    return Metric("score", falling=trend <= 0)


def _trend(x: Floats, y: Floats, groups: np.ndarray) -> float:
    """Mean rank correlation of y with x over groups."""
    correlations = []
    for group in np.unique(groups):
        inside = groups == group
        ranks = [np.argsort(np.argsort(values[inside])) for values in (x, y)]
        if inside.sum() > 2 and all(np.ptp(values[inside]) > 0 for values in (x, y)):
            correlations.append(float(np.corrcoef(ranks[0], ranks[1])[0, 1]))
    return float(np.mean(correlations)) if correlations else 0.0


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of a fit: logs of inputs over `x_ref`, values measured from `z_ref` in units of `z_scale`."""

    metric: Metric
    space: str
    x_ref: Floats  # (d,)
    z_ref: float
    z_scale: float

    @classmethod
    def of(cls, metric: Metric, space: str, x: Floats, y: Floats, shared: tuple[int, ...] = ()) -> Coordinates:
        """Coordinates of points x (n, d), y (n,): means of log x; best value or mean of y.

        `shared` names inputs that count the same quantity and so have one reference.
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
