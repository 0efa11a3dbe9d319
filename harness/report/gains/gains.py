"""What training adds: the recall of each trained cell less that of its own initialisation, on the same pairs.

A cell's own initialisation is the untrained cell of the same network and seed, whose weights are those before step 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.grid.cell import Cell
from harness.grid.cell_folder import PAIR_OUTCOMES
from harness.recipe.axes import END, axis_names
from harness.recipe.schema import Recipe
from harness.storage.pair_outcomes import read_outcomes

if TYPE_CHECKING:
    import pandas as pd

    from analysis.recall.gain import RecallGain
    from analysis.recall.outcomes import PairOutcomes

CONFIDENCE = 0.9
GAIN_COLUMNS = ("gain", "low", "high", "initial", "groups", "seeds")


@dataclass(frozen=True)
class Gains:
    """The gains of a study.

    Attributes:
        cells: a row per trained cell and source, as `points`, whose `recall` is that cell's gain, without an interval;
            cells with the same initialisation have one trunk, so that a law draws them together.
        means: a row per network, data set, end and source, over seeds, with GAIN_COLUMNS.
        missing: why other trained cells have none, in words.
    """

    cells: pd.DataFrame
    means: pd.DataFrame
    missing: tuple[str, ...]


def own_initialisation(cell: Cell) -> str:
    """The id of the untrained cell of the same network and seed."""
    return Cell("untrained", cell.model, cell.architecture, None, None, None, cell.seed).id


def gains(recipe: Recipe, grid: Sequence[Cell], points: pd.DataFrame) -> Gains:
    """The gains of all trained cells among the points (`harness.report.points.points`) of the grid."""
    import pandas as pd

    from analysis.fitting.annealing import TRUNK, unannealed

    trained, known = points[points["trained"].astype(bool)], _Outcomes(recipe, grid, points)
    by_cell, by_mean, missing = [], [], dict[str, int]()
    places = ["model", "dataset", *axis_names(recipe.grid), *([END] if END in trained else []), "annealed"]
    stopped_at = trained["crops"].where(unannealed(trained))  # runs that stopped elsewhere repeat no other
    for _, network in trained.groupby([*(trained[name] for name in places), stopped_at], sort=False, dropna=False):
        maps = {str(cell): known.read(str(cell)) for cell in network["cell"].unique()}  # of one network at a time
        for _, rows in network.groupby("source", sort=False):
            compared = _compare(rows, maps, known)
            by_cell += compared.cells
            by_mean += compared.means
            for reason, count in compared.missing.items():
                missing[reason] = missing.get(reason, 0) + count
    columns = list(points.columns)
    per_cell = pd.DataFrame(by_cell, columns=columns).astype(points.dtypes.to_dict())
    own = [own_initialisation(cell) for cell in map({cell.id: cell for cell in grid}.__getitem__, per_cell["cell"])]
    why = tuple(f"{count} recalls of trained cells: {reason}" for reason, count in missing.items())
    return Gains(
        per_cell.assign(**{TRUNK: own}),  # whose noise is in the gains of all cells that are compared with it
        pd.DataFrame(by_mean, columns=[*columns, *GAIN_COLUMNS]),
        why,
    )


@dataclass(frozen=True)
class _Compared:
    """The gains of one network and source: a row per seed, one over seeds, and how many have none, by the reason."""

    cells: list[dict[str, Any]]
    means: list[dict[str, Any]]
    missing: dict[str, int]


def _compare(rows: pd.DataFrame, maps: Mapping[str, Mapping[str, PairOutcomes]], known: _Outcomes) -> _Compared:
    """The gains of the rows of one network and source, whose outcomes are in `maps` by cell and source."""
    from analysis.recall.gain import recall_gain
    from analysis.recall.outcomes import aligned

    kept, both, missing = list[dict[str, Any]](), list[tuple["PairOutcomes", "PairOutcomes"]](), dict[str, int]()
    for row in rows.to_dict("records"):
        cell, source = str(row["cell"]), str(row["source"])
        reason, own = known.own(cell, source, maps[cell])
        if own is None:
            missing[reason] = missing.get(reason, 0) + 1
            continue
        kept.append({str(name): value for name, value in row.items()})
        both.append((maps[cell][source], own))
    if not kept:
        return _Compared([], [], missing)
    try:  # a list that changed between evaluations can leave nothing to compare
        recalls = [aligned(maps_of_seed).common().recalled.mean(axis=1) for maps_of_seed in both]
        found = recall_gain([one for one, _ in both], [own for _, own in both], CONFIDENCE)
    except ValueError as error:
        return _Compared([], [], missing | {str(error): len(kept)})
    cells = [
        row | {"recall": float(one - own), "recall_low": None, "recall_high": None}
        for row, (one, own) in zip(kept, recalls, strict=True)
    ]
    return _Compared(cells, [_over_seeds(kept) | _numbers(found)], missing)


def _over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first seed's row at the mean of all crops and computes."""
    crops, compute = (sum(row[name] for row in rows) / len(rows) for name in ("crops", "compute"))
    return rows[0] | {"crops": round(crops), "compute": compute}


class _Outcomes:
    """Which pairs the cells recall; the file of each untrained cell is read once."""

    def __init__(self, recipe: Recipe, grid: Sequence[Cell], points: pd.DataFrame) -> None:
        self._folder, self._cells = recipe.output / "cells", {cell.id: cell for cell in grid}
        self._recalls = {
            str(cell): dict(zip(rows["source"].astype(str), rows["recall"].astype(float), strict=True))
            for cell, rows in points.groupby("cell", sort=False)
        }
        self._own = dict[str, dict[str, "PairOutcomes"]]()

    def own(self, cell: str, source: str, trained: Mapping[str, PairOutcomes]) -> tuple[str, PairOutcomes | None]:
        """The outcomes of a cell's own initialisation; else None, and why they cannot be compared."""
        own = own_initialisation(self._cells[cell])
        if own not in self._cells:
            return "their own initialisation is no cell of the grid (grid.untrained: true adds it)", None
        if own not in self._recalls:
            return "their own initialisation is not evaluated yet", None
        if source not in self._recalls[own]:
            return "their own initialisation was evaluated without this source: run again", None
        if own not in self._own:
            self._own[own] = self.read(own)
        if source not in trained or source not in self._own[own]:
            return "evaluated by an earlier version, which did not keep the pairs: run again", None
        return "", self._own[own][source]

    def read(self, cell: str) -> dict[str, PairOutcomes]:
        return read_outcomes(self._folder / cell / PAIR_OUTCOMES, self._recalls.get(cell, {}))


def _numbers(found: RecallGain) -> dict[str, Any]:
    return {
        "recall": found.recall, "recall_low": None, "recall_high": None, "gain": found.gain, "low": found.low,
        "high": found.high, "initial": found.initial, "groups": found.groups, "seeds": found.seeds,
        "pairs": found.pairs,
    }  # fmt: skip


def sentence(source: str, rows: pd.DataFrame, law: str) -> str:
    """What training adds to the recall of one source, at the largest compute, and how that grows."""
    last = rows.sort_values("compute").iloc[-1]
    over = f"{last['seeds']} seeds" if last["seeds"] > 1 else "1 seed, so that the interval does not cover seeds"
    where = f"{last['model']} on {last['dataset']}, the largest compute ({over})"
    interval = f"{CONFIDENCE:.0%} interval {last['low']:+.3f} to {last['high']:+.3f}"
    if last["groups"] < 2:
        said = "not enough to tell what training adds: the known pairs count as fewer than two complexes of equal size"
        return f"{source}: {said}, and more complexes would be."
    tells = last["low"] > 0 or last["high"] < 0
    adds = f"training adds {last['gain']:+.3f}" if tells else f"no gain can be told from zero: {last['gain']:+.3f}"
    share = f", where the same networks recall {last['initial']:.3f} before training"
    return f"{source}: {adds} ({interval}){share}; {where}.{law}"
