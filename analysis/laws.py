"""The laws room: forms that a metric may follow as compute grows. So far the paper's own, a straight line in log10."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.correct import Floats


@dataclass(frozen=True)
class LogLinear:
    """recall = intercept + slope * log10(compute), the trend drawn in the paper's Figures 5 and 8."""

    intercept: float  # recall at a compute of 1
    slope: float  # recall per decade of compute

    def predict(self, compute: npt.ArrayLike) -> Floats:
        """Recall at the given compute, in the unit the law was fitted in."""
        result: Floats = self.intercept + self.slope * np.log10(np.asarray(compute, dtype=np.float64))
        return result


def least_squares(log_compute: Floats, recall: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted least squares of recall on log10(compute), once per row of weights.

    Args:
        log_compute: (n,) log10 of compute per run.
        recall: (n,) recall per run.
        weights: (K, n), for example how often each run was drawn.

    Returns:
        Intercepts (K,) and slopes (K,); NaN where the weighted runs have a single compute.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    centre = share @ log_compute  # (K,)
    deviation = log_compute - centre[:, None]  # (K, n)
    spread = np.sum(share * deviation**2, axis=1)
    identified = spread > 1e-12 * np.maximum(centre**2, 1)  # less is the rounding of one repeated compute
    slope = np.sum(share * deviation * recall, axis=1) / np.where(identified, spread, np.nan)
    return share @ recall - slope * centre, slope
