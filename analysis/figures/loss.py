"""The figures room: loss and recall against compute (the paper's Figures 5 and 8), reconstructions (Figure 7).

Figures are plain matplotlib `Figure` objects without pyplot's global state, so that they can be drawn anywhere, and
files come out byte for byte the same when drawn twice.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.recall import recall_versus_compute
from analysis.figures.reconstructions import ReconstructionRow, reconstructions
from analysis.figures.style import (
    DARK,
    GREY,
    compute_label,
    encoding,
    logarithmic_compute,
    mark_model,
    outside_legend,
    styled,
)

__all__ = ["ReconstructionRow", "loss_versus_compute", "recall_versus_compute", "reconstructions", "save"]

METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, path: str | Path, formats: Sequence[str] = ("png", "svg")) -> tuple[Path, ...]:
    """Write the figure as PNG and SVG (or PDF) beside each other; `path` has no suffix. Returns the paths.

    Each file appears whole or not at all, and the same figure always gives the same bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in formats:
        target = path.with_name(f"{path.name}.{suffix}")
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        with styled():
            figure.savefig(temporary, format=suffix, metadata=METADATA[suffix])
        temporary.replace(target)
        written.append(target)
    return tuple(written)


def loss_versus_compute(curves: pd.DataFrame, finals: pd.DataFrame, convention: str) -> Figure:
    """Validation loss against compute: every run's course, its end, and the frontier below them all.

    Args:
        curves: one row per validation: cell, model, size, patch, dataset, crops, seed, compute, loss.
        finals: rows with cell and dataset_rank, at least one per cell; ends are the last rows of `curves`.
        convention: name of the compute convention.
    """
    ranks = finals[["cell", "dataset_rank"]].drop_duplicates("cell")
    courses = curves[curves["compute"] > 0].merge(ranks, on="cell", validate="many_to_one").sort_values("compute")
    look = encoding(courses)
    with styled():
        figure = Figure(figsize=(6.3, 3.9), layout="constrained")
        axes = figure.subplots()
        for _, course in courses.groupby("cell", sort=False):
            last = course.iloc[-1]
            colour = look.colours[last["size"]]
            axes.plot(course["compute"], course["loss"], color=colour, linewidth=0.6, alpha=0.45)
            mark_model(axes, last["compute"], last["loss"], last.to_dict(), look)
        frontier = lower_frontier(courses)
        axes.plot(frontier["compute"], frontier["loss"], color=DARK, linewidth=1.3, zorder=2.5)
        logarithmic_compute(axes)
        axes.set_xlabel(compute_label(convention))
        axes.set_ylabel("Validation loss")
        axes.margins(y=0.06)
        lines = [
            Line2D([], [], color=GREY, linewidth=0.8, label="course of a run"),
            Line2D([], [], color=DARK, linewidth=1.3, label="lower frontier"),
        ]
        outside_legend(figure, [*look.sections(), ("Lines", lines)])
    return figure


def lower_frontier(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows that no row of less or equal compute matches: the best loss that each compute has bought."""
    ordered = curves.sort_values(["compute", "loss"])
    best_before = ordered["loss"].cummin().shift(fill_value=np.inf)
    return ordered[ordered["loss"] < best_before]
