"""A schedule of the learning rate as far as forecasts need it: the area covered, and how far the rate has come down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats

PLACES = 1001
SAME = 1e-6  # rates within this share of the peak are the peak
DECAYED = 0.9  # of the peak: a rate that ends above it has no decay that matters


@dataclass(frozen=True)
class Rates:
    """Learning rates over a whole run at evenly spaced shares of it from 0 to 1, (n,), relative to any peak."""

    rate: Floats

    @classmethod
    def constant(cls) -> Rates:
        """A rate that never changes, or a schedule of which nothing is known."""
        return cls(np.ones(PLACES))

    @property
    def share(self) -> Floats:
        """The shares of the run (n,)."""
        return np.linspace(0.0, 1.0, len(self.rate))

    def area(self, share: Floats) -> Floats:
        """The share of the area under the schedule that is covered at shares of the run (m,): (m,), 1 at the end."""
        return np.asarray(np.interp(share, self.share, _cumulative(self.rate)))

    def fallen(self, share: Floats) -> Floats:
        """By which share of its peak the rate has come down, at shares of the run (m,): (m,), 0 until the decay."""
        return np.asarray(np.interp(share, self.share, self._fallen))

    def area_fallen(self, share: Floats) -> Floats:
        """The same, but growing with the area between the peak and the rate; it ends at what `fallen` ends at."""
        return np.asarray(np.interp(share, self.share, _cumulative(self._fallen) * self._fallen[-1]))

    @property
    def _fallen(self) -> Floats:
        peak = np.maximum.accumulate(self.rate)
        return np.asarray(np.where(peak > 0, 1 - self.rate / np.where(peak > 0, peak, 1.0), 0.0))

    @property
    def warm(self) -> float:
        """The share of the run at which the peak is first reached."""
        return float(self.share[int(np.argmax(self.rate >= self.rate.max() * (1 - SAME)))])

    @property
    def decays(self) -> bool:
        """Whether the rate ends below its peak."""
        return bool(self.rate[-1] < DECAYED * self.rate.max())


def _cumulative(values: Floats) -> Floats:
    """The share of the area under values (n,) up to each of them (n,); zeros where there is no area."""
    covered = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2)])
    return np.asarray(covered / covered[-1] if covered[-1] > 0 else covered)
