"""Other forecasts of a run's final loss: a plain power law, the average of `analysis.fit`, and LC-PFN.

LC-PFN (Adriaensen et al. 2023; `pip install lcpfn`) asks for Python < 3.12 and torch <= 1.11, so it runs in an
environment of its own, named by `--lcpfn PYTHON`. Its weights are downloaded when it is first used. Its curves rise
within 0 to 1 and have 100 steps: it is given one minus the loss at each of the first steps.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import stdtr, stdtrit

from analysis.arrays import Floats
from analysis.fitting.estimate import Points
from analysis.fitting.fit_curve import Law
from analysis.fitting.intervals import CONFIDENCES
from analysis.forecast.live import Curve
from analysis.laws.metric import Metric

STEPS = 100
PROBABILITIES = [round(float(p), 3) for p in np.concatenate([[0.005], np.arange(1, 100) / 100, [0.995]])]
LCPFN = """
import json, sys, lcpfn, torch
model, given = lcpfn.LCPFN(), json.load(sys.stdin)
found = []
for curve in given["curves"]:
    x, y = (torch.tensor(curve[name]).unsqueeze(1) for name in ("x", "y"))
    end = torch.tensor([[float(given["steps"])]])
    found.append(model.predict_quantiles(x_train=x, y_train=y, x_test=end, qs=given["probabilities"])[0].tolist())
print(json.dumps(found))
"""
SECONDS = 1800


class End(Protocol):
    """The distribution of a final loss."""

    def above(self, loss: float) -> float: ...
    def quantile(self, probability: float) -> float: ...


@dataclass(frozen=True)
class PowerLawEnd:
    """Student's t about a line in logarithms."""

    centre: float
    scale: float
    freedom: int

    def above(self, loss: float) -> float:
        return 1 - float(stdtr(self.freedom, (np.log(loss) - self.centre) / self.scale))

    def quantile(self, probability: float) -> float:
        return float(np.exp(self.centre + self.scale * stdtrit(self.freedom, probability)))


@dataclass(frozen=True)
class QuantileEnd:
    """A distribution by quantiles (q,) of the loss at probabilities (q,), both rising."""

    probabilities: Floats
    losses: Floats

    def above(self, loss: float) -> float:
        return 1 - float(np.interp(loss, self.losses, self.probabilities, left=0.0, right=1.0))

    def quantile(self, probability: float) -> float:
        return float(np.interp(probability, self.probabilities, self.losses))


def power_law(curve: Curve) -> PowerLawEnd:
    """Least squares of the log loss on the log share, and the interval of a new reading at the end."""
    u, z = np.log(curve.share), np.log(curve.loss)
    slope, level = np.polyfit(u, z, 1)
    n, away = len(u), -u.mean()  # the log share of the end is 0
    deviation = np.sqrt(np.sum((z - level - slope * u) ** 2) / (n - 2))
    spread = np.sqrt(1 + 1 / n + away**2 / np.sum((u - u.mean()) ** 2))
    return PowerLawEnd(float(level), float(deviation * spread), n - 2)


def fitted_average(curve: Curve) -> QuantileEnd:
    """The average of laws that `analysis.fit` takes for learning curves, with its intervals at every confidence."""
    law = Law.of(Points(curve.share[:, None], curve.loss), Metric("loss"), "learning_curve")
    found = [law.predict(np.array([[1.0]]), confidence) for confidence in CONFIDENCES]
    lows, highs = [one.low for one in found[::-1]], [one.high for one in found]
    tails = [(1 - confidence) / 2 for confidence in CONFIDENCES[::-1]]
    probabilities = [*tails, 0.5, *(1 - tail for tail in tails[::-1])]
    return QuantileEnd(np.array(probabilities), np.array([*lows, found[0].y, *highs]))


def lcpfn(python: str, curves: Sequence[Curve]) -> list[End]:
    """LC-PFN's distribution of the end of each curve.

    Raises:
        RuntimeError: it cannot be run; the message says why.
    """
    given = {"curves": [_steps(curve) for curve in curves], "steps": STEPS, "probabilities": PROBABILITIES}
    try:
        done = subprocess.run(
            [python, "-c", LCPFN], input=json.dumps(given), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"lcpfn: {error}") from error
    if done.returncode:
        raise RuntimeError(f"lcpfn: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    rising = np.maximum.accumulate(np.array(json.loads(done.stdout.strip().splitlines()[-1])), axis=1)
    losses = np.maximum(1 - rising[:, ::-1], 1e-9)  # the highest accuracy is the lowest loss
    return [QuantileEnd(1 - np.array(PROBABILITIES)[::-1], row) for row in losses]


def _steps(curve: Curve) -> dict[str, list[float]]:
    """One minus the mean loss in each step that has readings."""
    step = np.clip(np.ceil(curve.share * STEPS - 1e-9), 1, STEPS)
    steps = np.unique(step)
    means = [float(np.clip(1 - curve.loss[step == one].mean(), 0, 1)) for one in steps]
    return {"x": [float(one) for one in steps], "y": means}
