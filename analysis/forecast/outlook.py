"""The outlook of a run that is training: where its loss will end, if it can reach the frontier, if it diverges.

The frontier is the lowest final loss of the study's finished runs of the same task at no more compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.forecast.live import Curve, final_loss
from analysis.forecast.rates import Rates

Verdict = Literal["open", "cannot reach the frontier", "diverging", "not enough to tell"]
CONFIDENCE = 0.9  # of the interval
CERTAIN = 0.99  # probability of ending above the frontier from which it is out of reach
WORSE = 0.05  # rise of the log loss above its lowest that a diverging run has at least
LOST = 0.5  # and of what it had gained, it has lost this share again
LATEST = 2  # validations in a row that must show it


@dataclass(frozen=True)
class Frontier:
    """The best finished run that a running one is compared with."""

    loss: float
    cell: str
    runs: int  # finished runs of the same task at no more compute


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of a run that is training. Numbers are None where they cannot be told.

    Attributes:
        share: of the run that is done, at the last validation.
        loss: at the last validation.
        final, low, high: median and 90% interval of the final loss.
        above: the probability that it ends above the frontier.
        siblings: finished runs with the same schedule that had a part in it.
        evidence: the verdict in words, with its numbers.
    """

    share: float
    loss: float
    final: float | None
    low: float | None
    high: float | None
    siblings: int
    frontier: Frontier | None
    above: float | None
    verdict: Verdict
    evidence: str


def outlook(curve: Curve, rates: Rates, siblings: Sequence[Curve] = (), frontier: Frontier | None = None) -> Outlook:
    """Judge a run by its readings so far, of which there is at least one.

    Args:
        curve: its validations.
        rates: its schedule.
        siblings: complete curves of runs with the same schedule.
        frontier: what it is compared with, if any run is finished.
    """
    share, loss = float(curve.share[-1]), float(curve.loss[-1])
    lost = _divergence(curve)
    try:
        end = final_loss(curve, rates, siblings)
    except ValueError as error:
        verdict: Verdict = "diverging" if lost else "not enough to tell"
        return Outlook(share, loss, None, None, None, 0, frontier, None, verdict, lost or str(error))
    low, high = end.interval(CONFIDENCE)
    above = end.above(frontier.loss) if frontier else None
    verdict = "diverging" if lost else "cannot reach the frontier" if above and above >= CERTAIN else "open"
    final = end.quantile(0.5)
    expected = f"at {share:.0%} of its schedule, it is to end at {final:.4g} [{low:.4g}, {high:.4g}]"
    return Outlook(
        share, loss, final, low, high, end.siblings, frontier, above, verdict,
        "; ".join(filter(None, [lost, expected, _compared(frontier, above)])),
    )  # fmt: skip


def _compared(frontier: Frontier | None, above: float | None) -> str:
    if frontier is None or above is None:
        return ""
    return (
        f"above the frontier, {frontier.loss:.4g} ({frontier.cell}, the best of {frontier.runs} finished at no more "
        f"compute), with a probability of {above:.4f}"
    )


def _divergence(curve: Curve) -> str:
    """How the last validations show that a run diverges; empty if they do not."""
    if len(curve.loss) <= LATEST:
        return ""
    before, latest = curve.loss[:-LATEST], curve.loss[-LATEST:]
    lowest = int(np.argmin(before))
    risen = float(np.log(latest.min() / before[lowest]))
    gained = float(np.log(before[: lowest + 1].max() / before[lowest]))
    if risen < max(WORSE, LOST * gained):
        return ""
    losses = ", ".join(f"{loss:.4g}" for loss in latest)
    return (
        f"the last {LATEST} validations have a loss of {losses}, after {before[lowest]:.4g} at "
        f"{curve.share[lowest]:.0%} of the schedule"
    )
