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
OVER = 1.02  # a share may exceed its bound by this factor through rounding
PER_CENT_BOUND = 100.0


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

    @property
    def farthest(self) -> float:
        """The largest distance that the metric's range allows: infinite for a loss without a top."""
        return self.bound if self.kind == "share" else self.top

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

    def convert(self, z: Floats, source: str, target: str) -> Floats:
        """Values of one space in another; a logit's distance from the bound without loss of digits."""
        if source == target:
            return z
        if (source, target) == ("logit", "log"):
            return np.asarray(math.log(self.bound) - np.logaddexp(0.0, z))
        return self.to_space(self.from_space(z, source), target)

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
            return "loss: falls, positive" + (f", at most {self.top:g}" if math.isfinite(self.top) else "")
        if self.kind == "share":
            return f"share: rises, bounded by {self.bound:g}" + (" (per cent)" if self.bound == PER_CENT_BOUND else "")
        return f"score: {'falls' if self.falling else 'rises'}, unbounded"

    def describe_space(self, space: str) -> str:
        """What the numbers of a law's space are."""
        if space == "log":
            return "the logarithm of its distance from the bound" if self.kind == "share" else "its logarithm"
        return "its logit" if space == "logit" else "it is"


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
