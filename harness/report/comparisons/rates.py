"""Best learning rates of a study: wherever its cells differ in learning rate alone, the optimum of each such sweep.

It does not matter how the grid varies the rate: along an axis, by model, or by variants. Cells whose identities differ
only in learning rate and seed are of one sweep. The metric is the validation loss at the end of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.grid.cell import Cell, fingerprint
from harness.recipe.axes import point_name
from harness.recipe.schema import Recipe
from harness.report.rows import annealed, log_path, train_values
from harness.storage.train_log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.design.rates.table import Sweep

FEWEST_RATES = 3
RATE, LOSS = "learning rate", "validation loss"


@dataclass(frozen=True)
class _Design:
    """The cells of one sweep."""

    label: str
    cells: tuple[Cell, ...]


def rate_sweeps(recipe: Recipe, grid: Sequence[Cell]) -> list[Sweep]:
    """The sweep of each design that the grid has at 3 learning rates or more, as far as its cells are trained.

    A cell whose training ended at a step that its recipe does not allow is a run that diverged. One that stopped before
    its learning rate had decayed counts only where the recipe says so, one that `launch.stop_when` ended not at all.
    """
    return [_sweep(recipe, design) for design in _designs(grid)]


def _designs(grid: Sequence[Cell]) -> list[_Design]:
    """Cells by all that they are but learning rate and seed, where there are enough rates; named by what differs."""
    by_identity: dict[str, list[Cell]] = {}
    for cell in grid:
        if cell.kind == "trained" and cell.training is not None and not cell.is_classifier:
            by_identity.setdefault(_without_rate(cell), []).append(cell)
    found = [cells for cells in by_identity.values() if len({_rate(cell) for cell in cells}) >= FEWEST_RATES]
    places = [_shared_place(cells) for cells in found]
    varying = [name for name in dict.fromkeys(n for place in places for n in place)
               if len({str(place.get(name)) for place in places}) > 1]  # fmt: skip
    several = len({cells[0].dataset for cells in found}) > 1
    designs = []
    for cells, place in zip(found, places, strict=True):
        dataset = f" on {cells[0].dataset}" if several else ""
        where = point_name({name: place[name] for name in varying if name in place})
        designs.append(_Design(f"{cells[0].model}{dataset}{', ' if where else ''}{where}", tuple(cells)))
    return designs


def _without_rate(cell: Cell) -> str:
    """A digest of a cell's identity without learning rate and seed, also of what its run continues."""
    identity: dict[str, Any] = cell.identity()
    training = {name: value for name, value in identity["training"].items() if name != "learning_rate"}
    before = _without_rate(cell.continued) if cell.continued is not None else None
    return fingerprint(identity | {"training": training, "seed": None, "continues": before})


def _rate(cell: Cell) -> float:
    assert cell.training is not None
    return cell.training.learning_rate


def _shared_place(cells: Sequence[Cell]) -> dict[str, Any]:
    """The coordinates that all cells of a sweep have in common."""
    first, *others = [cell.point.coordinates() for cell in cells]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _sweep(recipe: Recipe, design: _Design) -> Sweep:
    """The runs of a design so far, and what they say."""
    import numpy as np

    from analysis.design.rates.table import Sweep, sweeps
    from analysis.laws.metric import Metric

    runs = [(cell, loss) for cell in design.cells if (loss := _loss(recipe, cell)) is not None]
    if not runs:
        empty, why = np.array([]), f"{design.label}: none of its {len(design.cells)} cells is trained"
        return Sweep(design.label, empty, empty, (), None, why)
    (found,) = sweeps(
        [design.label] * len(runs), np.array([_rate(cell) for cell, _ in runs]), np.array([loss for _, loss in runs]),
        Metric("loss"), seeds=[cell.seed for cell, _ in runs],
    )  # fmt: skip
    return found


def _loss(recipe: Recipe, cell: Cell) -> float | None:
    """The final validation loss; NaN of a run that diverged, None where there is no run to count."""
    values = train_values(recipe, cell)
    if values is None:
        return float("nan") if diverged(recipe, cell) else None
    unfinished = annealed(cell, values) is False and not recipe.fit.include_unannealed
    if unfinished or values.stopped is not None:
        return None
    return values.validation_loss


def diverged(recipe: Recipe, cell: Cell) -> bool:
    """Whether a cell that has no row of training, or its trunk, ended at a step that its recipe does not allow, by its
    log."""
    if cell.start is not None and not cell.begins_run and train_values(recipe, cell.start) is None:
        return diverged(recipe, cell.start)
    try:
        rows = [row for row in read_log(log_path(recipe, cell)) if row.get("kind") in ("train", "bad_step", "resume")]
    except OSError:
        return False
    if not rows or rows[-1]["kind"] != "bad_step":
        return False
    skipped = sum(row["kind"] == "bad_step" and row.get("action") == "skip" for row in rows)
    return rows[-1].get("action") == "stop" or skipped > recipe.train.skip_limit


def figure(sweeps: Sequence[Sweep]) -> Figure | None:
    """Loss against learning rate; None if no run has ended."""
    from analysis.design.rates.table import rate_tables
    from analysis.figures.best_rate import metric_against_rate
    from analysis.laws.metric import Metric

    drawn = rate_tables(sweeps, Metric("loss"))
    if not drawn.runs["y"].notna().any():
        return None
    return metric_against_rate(drawn.runs, drawn.lines, drawn.optima, rate=RATE.capitalize(), y=LOSS.capitalize())


def lines(sweeps: Sequence[Sweep]) -> list[str]:
    """What the sweeps say, for a terminal; empty if there is none."""
    return [f"best {RATE} by final {LOSS}:", *(f"  {sweep.text}" for sweep in sweeps)] if sweeps else []
