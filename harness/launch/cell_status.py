"""The state of one grid cell, as `status` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.forecast.outlook import Outlook
from harness.storage.health.sessions import Spent

State = Literal["done", "queued", "running", "failed", "lost", "never", "cancelled", "stopped", "missing"]
WORST_FIRST: tuple[State, ...] = (
    "failed",
    "lost",
    "never",
    "cancelled",
    "stopped",
    "missing",
    "running",
    "queued",
    "done",
)
ORPHAN = "the recipe does not have this cell: cancel --orphans ends its job"
RESUMED = "; resume submits it again"


@dataclass(frozen=True)
class CellStatus:
    """One cell: its first missing stage and the state of that. `never`: a job that it depends on failed."""

    cell: str
    stage: str
    state: State
    job: str | None = None
    step: int | None = None
    steps: int | None = None
    crops_per_second: float | None = None
    eta_seconds: float | None = None
    restarts: int = 0
    reason: str = ""
    axes: str = ""  # where the cell is on the grid's axes
    outlook: Outlook | None = None  # of a cell that has begun to train
    spent: Spent | None = None  # the hours of its training so far
    orphan: bool = False  # a live job of a cell that the recipe does not have
    as_of: str | None = None  # when SLURM last answered, in ISO 8601; None: now
