"""The outlook of runs that are training, from what a study has on disk: their own logs, and those of finished runs.

`status`, the report and the policy that stops runs (`stop.py`) share it. Needs no torch.

Losses are compared only between runs of one task: the same kind of network, patch, mask and crops, validated on the
same wells. The frontier is of such runs at no more compute. The curve of a sibling may be of other data, as only the
ratio of its final to its current loss counts, but it has the same schedule.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.compute.flops import compute
from analysis.forecast.live import Curve
from analysis.forecast.outlook import Frontier, Outlook, outlook
from analysis.forecast.rates import PLACES, Rates
from harness.grid.cell import Cell
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.models.architecture import cost_of
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import LedgerError, LedgerRow
from harness.storage.train_log import validations_and_last
from harness.train.schedule import run_schedule

VIRTUAL_STEPS = 1_000_000  # of a run that stands for one of any length: rates depend on the share of the run alone
MOST_SIBLINGS = 12  # the nearest in compute
SAME_COMPUTE = 1 + 1e-6


@dataclass(frozen=True)
class Likeness:
    """What a run shares with those that it is compared with.

    Attributes:
        task: with runs whose losses, as a share of what they began with, can be compared.
        wells: with runs that are validated on the same.
        schedule: with runs whose rates at the same share of the run are the same.
    """

    task: tuple[object, ...]
    wells: tuple[object, ...]
    schedule: str


@dataclass(frozen=True)
class FinishedRun:
    """A run that reached the end of its schedule."""

    cell: Cell
    likeness: Likeness
    steps: int
    compute: float  # in the recipe's convention
    loss: float


@dataclass(frozen=True)
class Reading:
    """A validation of a log."""

    step: int
    crops: float
    loss: float


@dataclass(frozen=True)
class StudyRuns:
    """A study's finished runs, read once, with their curves, which are read when they are needed."""

    recipe: Recipe
    finished: tuple[FinishedRun, ...]
    _alike: dict[tuple[object, ...], list[FinishedRun]] = field(default_factory=dict, repr=False, compare=False)
    _curves: dict[str, Curve | None] = field(default_factory=dict, repr=False, compare=False)
    _rates: dict[str, Rates] = field(default_factory=dict, repr=False, compare=False)

    def outlook(self, cell: Cell, steps: int | None = None) -> Outlook | None:
        """What is to be expected of a cell that is training; None before its first validation.

        Args:
            cell: a whole run, or a branch.
            steps: at which it ends; None: as its log says.
        """
        rows = _own_rows(self.recipe, cell)
        last = steps or _last_step(rows, _first_step(self.recipe, cell))
        readings = _readings(rows)
        curve = _curve(readings, last) if last else None
        if last is None or curve is None or cell.training is None or cell.architecture is None:
            return None
        crops = readings[-1].crops + (last - readings[-1].step) * cell.training.batch
        planned = compute(self.recipe.fit.convention, cost_of(cell.architecture), crops)
        own = likeness(self.recipe, cell)
        rivals = [run for run in self._of("wells", own.task, own.wells) if run.cell.id != cell.id]
        siblings = [run for run in self._of("schedule", own.task, own.schedule) if run.cell.id != cell.id]
        return outlook(curve, self._rates_of(cell, own), self._nearest(siblings, planned), _best(rivals, planned))

    def _of(self, *key: object) -> list[FinishedRun]:
        """The finished runs of a task with these wells, or with this schedule."""
        if not self._alike:
            for run in self.finished:
                same = run.likeness
                self._alike.setdefault(("wells", same.task, same.wells), []).append(run)
                self._alike.setdefault(("schedule", same.task, same.schedule), []).append(run)
        return self._alike.get(key, [])

    def _nearest(self, runs: Sequence[FinishedRun], planned: float) -> list[Curve]:
        """The complete curves of the runs that are nearest in compute."""
        nearest = heapq.nsmallest(MOST_SIBLINGS, runs, key=lambda run: abs(math.log(run.compute / planned)))
        return [curve for run in nearest if (curve := self.curve(run)) is not None]

    def _rates_of(self, cell: Cell, own: Likeness) -> Rates:
        if own.schedule not in self._rates:
            self._rates[own.schedule] = rates_of(cell)
        return self._rates[own.schedule]

    def curve(self, run: FinishedRun) -> Curve | None:
        """The readings of a finished run; None if its log has none."""
        if run.cell.id not in self._curves:
            self._curves[run.cell.id] = _curve(_readings(_own_rows(self.recipe, run.cell)), run.steps)
        return self._curves[run.cell.id]


def study_runs(recipe: Recipe, grid: Sequence[Cell]) -> StudyRuns:
    """The finished runs among the cells of a study; rows that cannot be read are left out, as the report says."""
    found = (_finished(recipe, cell) for cell in grid if is_forecast(cell))
    return StudyRuns(recipe, tuple(run for run in found if run is not None))


def is_forecast(cell: Cell) -> bool:
    """Whether a cell has a final loss to forecast: whole runs and branches have; segments end on their way."""
    return cell.kind == "trained" and cell.training is not None and cell.architecture is not None


def rates_of(cell: Cell) -> Rates:
    """The learning rates of a cell's run, by share of it."""
    assert cell.training is not None
    schedule = run_schedule(cell.training, VIRTUAL_STEPS)
    steps = np.linspace(0, schedule.last - 1, PLACES).round().astype(int)
    return Rates(np.array([schedule.rate(int(step), 1.0) for step in steps]))


def _finished(recipe: Recipe, cell: Cell) -> FinishedRun | None:
    try:
        row = ledger.read(recipe.output, cell.id, "train")
    except LedgerError:
        return None
    if row is None or not _is_complete(row) or not row.values.get("crops"):
        return None
    assert cell.architecture is not None
    values = row.values
    spent = compute(recipe.fit.convention, cost_of(cell.architecture), values["crops"])
    return FinishedRun(cell, likeness(recipe, cell), values["steps"], spent, values["validation_loss"])


def _is_complete(row: LedgerRow) -> bool:
    """Whether a run made all of its steps, its rate decayed, and has a loss."""
    values = row.values
    return (
        values.get("steps") is not None
        and values["steps"] == values.get("planned_steps")
        and values.get("annealed") is not False
        and row.stopped is None
        and (values.get("validation_loss") or 0) > 0
    )


def _own_rows(recipe: Recipe, cell: Cell) -> list[dict[str, Any]]:
    """The validations of a cell's log and its last row of training; lines that are no rows are left out."""
    try:
        return validations_and_last(cell_folder(recipe, cell) / TRAIN_LOG)
    except OSError:
        return []


def _first_step(recipe: Recipe, cell: Cell) -> int:
    """The step at which a cell begins; rows of its log up to that are the trunk's."""
    if cell.start is None or cell.begins_run:
        return 0
    try:
        row = ledger.read(recipe.output, cell.start.id, "train")
    except LedgerError:
        return 0
    return int(row.values.get("steps") or 0) if row is not None else 0


def _last_step(rows: Sequence[dict[str, Any]], first: int) -> int | None:
    """The step at which a run ends, as its last row of training after its first step says."""
    own = [row for row in rows if row.get("kind") == "train" and row.get("progress") and row["step"] > first]
    return round(own[-1]["step"] / own[-1]["progress"]) if own else None


def _readings(rows: Sequence[dict[str, Any]]) -> list[Reading]:
    """The validations of a log with a loss and a number of crops, in order of steps; of one step the last."""
    found = {}
    for row in rows:
        loss, crops = row.get("validation_loss"), row.get("crops")
        if row.get("kind") == "validation" and row["step"] > 0 and loss and crops:
            found[row["step"]] = Reading(row["step"], crops, loss)
    return [found[step] for step in sorted(found)]


def _curve(readings: Sequence[Reading], steps: int) -> Curve | None:
    """The readings of a log as a curve of a run of so many steps; None without any."""
    usable = [reading for reading in readings if reading.step <= steps]
    if not usable:
        return None
    return Curve(np.array([one.step / steps for one in usable]), np.array([one.loss for one in usable], dtype=float))


def _best(rivals: Sequence[FinishedRun], planned: float) -> Frontier | None:
    """The lowest loss of the finished runs of a cell's task and wells at no more compute than it will take."""
    same = [run for run in rivals if run.compute <= planned * SAME_COMPUTE]
    best = min(same, key=lambda run: run.loss, default=None)
    return None if best is None else Frontier(best.loss, best.cell.id, len(same))


def likeness(recipe: Recipe, cell: Cell) -> Likeness:
    """What a trained cell of a study is compared by."""
    assert cell.architecture is not None
    assert cell.training is not None
    assert cell.dataset is not None
    settings, model, mae = cell.training.settings, cell.architecture.model, cell.architecture.mae
    channels = tuple(mae.channel_names or ()) or mae.channels
    return Likeness(
        task=(model.kind, model.patch_size, mae.mask_ratio, mae.crop, channels, settings.validation_view),
        wells=(str(recipe.datasets[cell.dataset].shards), settings.validation_wells),
        schedule=f"{cell.training.schedule_json} {cell.continues is not None}",
    )
