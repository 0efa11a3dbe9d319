"""What the report says of runs that stopped before their end, by themselves or by the policy `launch.stop_when`."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from analysis.fitting.annealing import unannealed
from harness.recipe.schema import Fit

if TYPE_CHECKING:
    import pandas as pd

STOPPED = "stopped"  # the state of a cell whose training the policy ended


def stopped_sentence(table: pd.DataFrame, fit: Fit, snapshots: Set[str], ended: int) -> str:
    """How many runs stopped before their learning rate had decayed, how many states are snapshots of runs, what laws
    make of them, and how many runs the policy `launch.stop_when` ended; empty if there is none."""
    of_policy = f"{censored(ended)}." if ended else ""
    open_cells = set(table[unannealed(table)]["cell"])
    runs, states = len(open_cells - snapshots), len(open_cells & snapshots)
    counted = [f"{runs} evaluated runs stopped before their learning rate had decayed"] if runs else []
    counted += [f"{states} points are snapshots of runs whose learning rate had not decayed"] if states else []
    if not counted:
        return of_policy
    fitted = (
        "laws include them" if fit.include_unannealed else "laws leave them out (fit.include_unannealed keeps them)"
    )
    return " ".join(filter(None, [f"{'; '.join(counted)}; {fitted}.", of_policy]))


def censored(ended: int) -> str:
    """What is said of runs that the policy ended: they were picked for their loss, so no law may count them."""
    runs = "1 run was" if ended == 1 else f"{ended} runs were"
    return f"{runs} stopped by launch.stop_when before the end: censored, and left out of every law"
