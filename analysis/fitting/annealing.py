"""Which runs a law may describe: those whose learning rate had reached its end when training stopped.

A run that stops before has a higher loss than one planned for its length (Hoffmann et al. 2022, appendix B), so it
does not belong to a law of finished runs. Tables say so in a column `annealed`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analysis.arrays import Mask
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric

if TYPE_CHECKING:
    import pandas as pd

COLUMN = "annealed"
TRUNK = "trunk"  # column: annealed branches with the same one share their beginning
RATE = re.compile(r"learning.?rate|lr", re.I)
DECAYED = 0.9  # of its peak: a learning rate below it has begun to decay
OCTAVES, BEND_POINTS, BENT = 2, 8, 3.0  # of x where a bend is sought, at least so many points, in standard errors
NO = {"false", "no", "0", "0.0"}
BLANK = {"", "nan", "none", "<na>"}


def unannealed(table: pd.DataFrame) -> Mask:
    """Rows (n,) of runs that stopped before their end; none where the table does not say."""
    return _among(table, NO)


def unknown(table: pd.DataFrame) -> Mask:
    """Rows (n,) that leave open whether their run had reached its end, in a table that says so of others."""
    return _among(table, BLANK)


def decaying(table: pd.DataFrame, runs: npt.NDArray[Any] | None, rates: npt.NDArray[np.float64] | None) -> bool:
    """Whether rows of one curve are checkpoints under a learning rate that decays, as a column tells.

    Args:
        table: the rows that are fitted, in order of x.
        runs: the run of each row (n,), if known: only within a run do rates tell; between runs they may be tuned.
        rates: the learning rate of each row (n,), if known.
    """
    if unannealed(table).any():
        return True
    if runs is None or rates is None:
        return False
    own = [rates[(runs == run) & np.isfinite(rates)] for run in np.unique(runs)]
    return any(len(rate) > 1 and rate[-1] < DECAYED * rate.max() for rate in own)


def bends_down(points: Points, metric: Metric) -> bool:
    """Whether a curve of checkpoints falls ever faster at its end, as under a learning rate that decays.

    The bend is the curvature of the log metric over log x, in the last two octaves. It is told from noise at three
    standard errors. A law of learning bends up there, unless the curve is at its flat beginning.
    """
    ordered = points.subset(points.order)
    u, z = np.log(ordered.x[:, 0]), metric.to_space(ordered.y, "log")
    last = u >= u[-1] - OCTAVES * np.log(2)
    n = max(int(last.sum()), BEND_POINTS)
    if len(u) < n or np.ptp(u[-n:]) == 0 or not np.isfinite(z).all():
        return False
    place = u[-n:] - u[-n:].mean()
    design = np.column_stack([np.ones(n), place, place**2])
    coefficients, _, rank, _ = np.linalg.lstsq(design, z[-n:], rcond=None)
    residual = z[-n:] - design @ coefficients
    if rank < design.shape[1]:
        return False
    error = np.sqrt(residual @ residual / (n - 3) * np.linalg.inv(design.T @ design)[2, 2])
    return bool(coefficients[2] < -BENT * error)


def _among(table: pd.DataFrame, words: set[str]) -> Mask:
    if COLUMN not in table:
        return np.zeros(len(table), dtype=bool)
    import pandas as pd

    codes, values = pd.factorize(table[COLUMN], use_na_sentinel=False)
    return np.array([str(value).strip().lower() in words for value in values], dtype=bool)[codes]


def notes(left_out: int, unsaid: int, unit: str, keep: str) -> list[str]:
    """What to say of runs that are left out, and of those that are kept although they do not say.

    Args:
        left_out: how many were left out.
        unsaid: how many do not say.
        unit: what is counted: runs, or rows of them.
        keep: the setting that keeps all.
    """
    said = []
    if left_out:
        reason = "training stopped before the learning rate had decayed"
        said.append(f"{left_out} {unit} left out: {reason} ({keep} keeps them)")
    if unsaid:
        said.append(f"{unsaid} {unit} do not say whether the learning rate had decayed, and are kept")
    return said
