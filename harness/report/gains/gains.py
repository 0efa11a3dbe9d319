"""What training adds: the recall of each trained cell less that of its own initialisation, on the same pairs.

A cell's own initialisation is the untrained cell of the same network and seed, whose weights are those before step 0.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        cells: a row per trained cell and source, as `points`, whose `recall` is that cell's gain, without an interval.
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

    trained, known = points[points["trained"].astype(bool)], _Outcomes(recipe, points)
    cells = {cell.id: cell for cell in grid}
    by_cell, by_mean, missing = [], [], dict[str, int]()
    same = ["model", "dataset", *axis_names(recipe.grid), *([END] if END in trained else []), "annealed", "source"]
    for _, rows in trained.groupby(same, sort=False, dropna=False):
        pairs: list[tuple[PairOutcomes, PairOutcomes]] = []
        kept: list[dict[str, Any]] = []
        for row in rows.to_dict("records"):
            reason, pair = known.pair(cells[row["cell"]], cells, str(row["source"]))
            if pair is None:
                missing[reason] = missing.get(reason, 0) + 1
                continue
            pairs.append(pair)
            kept.append({str(name): value for name, value in row.items()})
        if pairs:
            found = _gain(pairs)
            by_cell += [
                row | {"recall": one.recall - own.recall, "recall_low": None, "recall_high": None}
                for row, (one, own) in zip(kept, pairs, strict=True)
            ]
            by_mean.append(kept[0] | _numbers(found))
    columns = list(points.columns)
    why = tuple(f"{count} recalls of trained cells: {reason}" for reason, count in missing.items())
    return Gains(
        pd.DataFrame(by_cell, columns=columns).astype(points.dtypes.to_dict()),
        pd.DataFrame(by_mean, columns=[*columns, *GAIN_COLUMNS]),
        why,
    )


class _Outcomes:
    """Which pairs the cells recall, each cell's file read once."""

    def __init__(self, recipe: Recipe, points: pd.DataFrame) -> None:
        self._folder = recipe.output / "cells"
        self._recalls = {
            str(cell): dict(zip(rows["source"].astype(str), rows["recall"].astype(float), strict=True))
            for cell, rows in points.groupby("cell", sort=False)
        }
        self._read = dict[str, dict[str, "PairOutcomes"]]()

    def pair(
        self, cell: Cell, cells: dict[str, Cell], source: str
    ) -> tuple[str, tuple[PairOutcomes, PairOutcomes] | None]:
        """The outcomes of a cell and of its own initialisation; else None, and why."""
        own = own_initialisation(cell)
        if own not in cells:
            return "their own initialisation is no cell of the grid (grid.untrained: true adds it)", None
        found = [self._of(name).get(source) for name in (cell.id, own)]
        if own not in self._recalls:
            return "their own initialisation is not evaluated yet", None
        if found[0] is None or found[1] is None:
            return "evaluated by an earlier version, which did not keep the pairs: run again", None
        return "", (found[0], found[1])

    def _of(self, cell: str) -> dict[str, PairOutcomes]:
        if cell not in self._read:
            self._read[cell] = read_outcomes(self._folder / cell / PAIR_OUTCOMES, self._recalls.get(cell, {}))
        return self._read[cell]


def _gain(pairs: Sequence[tuple[PairOutcomes, PairOutcomes]]) -> RecallGain:
    from analysis.recall.gain import recall_gain

    return recall_gain([one for one, _ in pairs], [own for _, own in pairs], CONFIDENCE)


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
        said = "not enough to tell what training adds: all known pairs are of one complex, and more complexes would be"
        return f"{source}: {said}."
    tells = last["low"] > 0 or last["high"] < 0
    adds = f"training adds {last['gain']:+.3f}" if tells else f"no gain can be told from zero: {last['gain']:+.3f}"
    share = f", where the same networks recall {last['initial']:.3f} before training"
    return f"{source}: {adds} ({interval}){share}; {where}.{law}"
