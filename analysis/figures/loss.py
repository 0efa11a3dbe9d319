"""Figure of validation loss against compute.

Figures of this folder are plain matplotlib `Figure` objects without pyplot's global state, so that they can be drawn
anywhere, and their files are byte-identical when drawn twice.
"""

from collections.abc import Set
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arrays import Floats
from analysis.figures.style import (
    DARK,
    GREY,
    MANY,
    Encoding,
    Mark,
    choose_encoding,
    compute_label,
    logarithmic_compute,
    mark_models,
    open_section,
    outside_legend,
    styled,
)
from analysis.fitting.annealing import unannealed

MOST_READINGS = 40  # of a curve, in a figure of many


def loss_versus_compute(curves: pd.DataFrame, finals: pd.DataFrame, convention: str) -> Figure:
    """Validation loss against compute: every run's curve, its last point, and the frontier below them all.

    Args:
        curves: one row per validation: cell, model, size, patch, dataset, crops, seed, compute, loss and, if there are
            several panels, facet.
        finals: rows with cell, dataset_rank and, if known, annealed, at least one per cell; ends are the last rows of
            `curves`, and open where the run was not annealed.
        convention: name of the compute convention.
    """
    ranks = finals[["cell", "dataset_rank"]].drop_duplicates("cell")
    is_open = unannealed(finals)
    open_cells = set(finals.loc[is_open, "cell"])
    many = curves["cell"].nunique() > MANY
    joined = curves[curves["compute"] > 0].merge(ranks, on="cell", validate="many_to_one").sort_values("compute")
    names = list(dict.fromkeys(curves["facet"])) if "facet" in curves else [""]
    encoding = choose_encoding(joined)
    with styled():
        figure, panels = _panels(len(names))
        for axes, name in zip(panels, names, strict=True):
            axes.set_title(name, loc="left", fontweight="bold", parse_math=False)
            _draw(axes, joined[joined["facet"] == name] if name else joined, encoding, open_cells, many=many)
        thinned = f"\n({MOST_READINGS} of its readings)" if many and longest(curves) > MOST_READINGS else ""
        labelled = panels[0] if len(panels) == 1 else None
        (labelled.set_xlabel if labelled else figure.supxlabel)(compute_label(convention))
        (labelled.set_ylabel if labelled else figure.supylabel)("Validation loss")
        lines = [
            Line2D([], [], color=GREY, linewidth=0.8, label=f"validation curve of a run{thinned}"),
            Line2D([], [], color=DARK, linewidth=1.3, label="lower frontier"),
        ]
        outside_legend(figure, [*encoding.sections(), open_section(is_open), ("Lines", lines)])
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.4 + (4.9 if count == 1 else 3.1 * columns), 0.4 + 3.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]


def _draw(axes: Axes, curves: pd.DataFrame, encoding: Encoding, open_cells: Set[str], *, many: bool) -> None:
    """The curves of one panel and their frontier."""
    look: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.45}
    marks, lines = [], dict[str, list[Floats]]()
    for cell, curve in curves.groupby("cell", sort=False):
        last = curve.iloc[-1].to_dict()
        marks.append(Mark(last["compute"], last["loss"], last, cell in open_cells))
        colour = encoding.colours[last["size"]]
        if many:
            drawn = curve[["compute", "loss"]].to_numpy(float)
            lines.setdefault(colour, []).append(drawn[spread(len(drawn))])
        else:
            axes.plot(curve["compute"], curve["loss"], color=colour, **look)
    for colour, same in lines.items():
        axes.add_collection(LineCollection(same, colors=colour, zorder=2, **look))
    mark_models(axes, marks, encoding, many=many)
    frontier = lower_frontier(curves)
    axes.plot(frontier["compute"], frontier["loss"], color=DARK, linewidth=1.3, zorder=2.5)
    logarithmic_compute(axes)
    axes.margins(y=0.06)


def longest(curves: pd.DataFrame) -> int:
    """The readings of the curve that has most of them."""
    return int(curves.groupby("cell").size().max())


def spread(count: int) -> npt.NDArray[np.int64]:
    """Which of the readings of a curve are drawn where there are many curves: the first, the last, and those between.

    They are even in number, which is nearly even in compute, and `MOST_READINGS` at most.
    """
    return np.unique(np.linspace(0, count - 1, min(count, MOST_READINGS)).round().astype(np.int64))


def lower_frontier(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows with less loss than every row of less or equal compute: the best loss at each compute."""
    ordered = curves.sort_values(["compute", "loss"])
    best_before = ordered["loss"].cummin().shift(fill_value=np.inf)
    return ordered[ordered["loss"] < best_before]
