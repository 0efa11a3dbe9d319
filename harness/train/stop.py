"""The policy `launch.stop_when`: end a run that will hardly reach the frontier of the study's finished runs.

It decides whether a run is finished, not what a finished run gives: up to the stop, each step is that of a run without
the policy. So it is not part of a cell's identity. The row of a run that it ended says so, with the evidence, and its
training state is kept: without the policy, or with one that asks for more, the same command takes the run to its end.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.forecast.outlook import Outlook
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.schema import Recipe
from harness.train.outlook import is_forecast, study_runs


def is_stoppable(study: Recipe, cell: Cell) -> bool:
    """Whether the policy may end a cell: no other cell goes on from its final state."""
    return study.launch.stop_when is not None and is_forecast(cell) and not cell.heirs


def reason_to_stop(study: Recipe, cell: Cell, steps: int) -> Outlook | None:
    """The outlook of a run of so many steps if it is to end now; None if it is to go on."""
    policy = study.launch.stop_when
    if policy is None or not is_stoppable(study, cell):
        return None
    seen = study_runs(study, cells(study)).outlook(cell, steps)
    out_of_reach = seen is not None and seen.above is not None and seen.above >= policy.below_frontier
    return seen if out_of_reach and seen is not None and seen.share < 1 else None


def stop_values(seen: Outlook) -> dict[str, Any]:
    """What the ledger row and the log say of a stop."""
    assert seen.frontier is not None
    return {"probability": seen.above, **{k: v for k, v in asdict(seen).items() if k not in ("above", "verdict")}}
