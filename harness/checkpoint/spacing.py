"""How often to save: the spacing of checkpoints that loses least to saves and to repeated steps.

After a failure, half a spacing is repeated on average. With saves of d seconds and a mean time M between failures, the
best spacing is about sqrt(2 d M) (Young 1974); `best_spacing` is Daly's estimate of higher order (2006, eq. 37).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.storage.health.sessions import HOUR, FailureRate

PRIOR_NODE_HOURS = 4000.0
"""Of one failure, before any was seen: published clusters of 8-GPU nodes have one in 3,700 (Kokolis et al. 2024, RSC-1:
6.5 in 1,000 node days), 6,300 (Llama 3: 419 in 54 days of 2,048 nodes) and 10,300 (RSC-2: 2.34)."""
SHORTEST, LONGEST = 120.0, 3600.0  # seconds between saves
FIRST = 300.0  # until a save has told how long it takes
UNSEEN = FailureRate(0, 0.0)  # of a study that has not run yet


def best_spacing(save_seconds: float, between_failures: float) -> float:
    """Seconds of work between two saves that make the expected time to the end shortest.

    Args:
        save_seconds: that training waits for a save.
        between_failures: the mean time between failures of the job, in seconds.
    """
    if save_seconds >= 2 * between_failures:
        return between_failures
    share = save_seconds / (2 * between_failures)
    return math.sqrt(2 * save_seconds * between_failures) * (1 + math.sqrt(share) / 3 + share / 9) - save_seconds


def between_failures(rate: FailureRate, nodes: int) -> float:
    """The mean time between failures of a job on so many nodes, in seconds: what was seen, and one failure more in the
    time in which that is usual."""
    return HOUR * (PRIOR_NODE_HOURS + rate.node_hours) / ((1 + rate.failures) * nodes)


def expected_seconds(work: float, spacing: float, save: float, between: float, restart: float = 0.0) -> float:
    """Expected time to do work with saves so far apart, failures being a Poisson process (Daly 2006, eq. 20).

    All are in seconds; `restart` is from a failure until the steps go on.
    """
    return between * math.exp(restart / between) * math.expm1((spacing + save) / between) * work / spacing


@dataclass
class Spacing:
    """The time between two saves of a run: fixed, or from what saves and failures cost.

    Attributes:
        fixed: seconds; None: by `best_spacing`, within bounds.
        rate: of failures, so far.
        nodes: of this job.
    """

    fixed: float | None
    rate: FailureRate
    nodes: int
    _blocked: float = 0.0
    _saves: int = 0

    def saved(self, blocked: float) -> None:
        """Training waited so many seconds for a save."""
        self._blocked, self._saves = self._blocked + blocked, self._saves + 1

    @property
    def seconds(self) -> float:
        """Until the next save is due."""
        if self.fixed is not None:
            return self.fixed
        if not self._saves:
            return FIRST
        best = best_spacing(self._blocked / self._saves, between_failures(self.rate, self.nodes))
        return min(max(best, SHORTEST), LONGEST)
