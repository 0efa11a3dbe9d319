"""Figures of `benchmarks.parametrisation` and `benchmarks.coordinate_check`, for docs/parametrisation.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import COLOURS, GREY, OTHER_COLOURS, styled

if TYPE_CHECKING:
    from benchmarks.coordinate_check import Sizes
    from benchmarks.parametrisation import Best, Run

SHADES = ("#9ecae1", "#4292c6", "#08519c", "#08214a")  # small to large
NAMES = {"standard": "standard", "mup": "muP, CompleteP"}
PALETTE = (*COLOURS.values(), *OTHER_COLOURS)


def transfer_figure(runs: Sequence[Run], best: Sequence[Best], path: Path) -> None:
    """Loss against learning rate, a row per optimiser: over widths and over depths, standard beside mup."""
    optimisers = list(dict.fromkeys(run.optimiser for run in runs))
    base = _base(runs)
    panels = [(axis, kind) for axis in ("width", "depth") for kind in NAMES]
    with styled():
        figure = Figure(figsize=(7.2, 1.9 * len(optimisers) + 0.5), layout="constrained")
        grid = figure.subplots(len(optimisers), len(panels), sharey="row", squeeze=False)
        for row, optimiser in zip(grid, optimisers, strict=True):
            for axes, (axis, kind) in zip(row, panels, strict=True):
                other = {"width": "depth", "depth": "width"}[axis]
                own = [r for r in runs if (r.optimiser, r.parametrisation) == (optimiser, kind)]
                line = [r for r in own if getattr(r, other) == base[other]]
                marks = [b for b in best if (b.optimiser, b.parametrisation) == (optimiser, kind)]
                _losses(axes, line, [b for b in marks if getattr(b, other) == base[other]], axis)
                axes.set_title(f"{NAMES[kind]}, {axis}s" if optimiser == optimisers[0] else "")
            lowest = min(run.loss for run in runs if run.optimiser == optimiser)
            row[0].set_ylim(lowest - 0.02, lowest + 0.2)
            row[0].set_ylabel({"lion": "Lion", "adamw": "AdamW", "muon": "Muon"}[optimiser] + ": loss on unseen crops")
        figure.supxlabel("Learning rate")
        figure.savefig(path)


def _base(runs: Sequence[Run]) -> dict[str, int]:
    """The width of the shapes of several depths, and the depth of those of several widths."""
    shapes = sorted({(run.width, run.depth) for run in runs})
    count = {shape: sum(shape[0] == w or shape[1] == d for w, d in shapes) for shape in shapes}
    width, depth = max(shapes, key=lambda shape: count[shape])
    return {"width": width, "depth": depth}


def _losses(axes: Axes, line: Sequence[Run], marks: Sequence[Best], axis: str) -> None:
    sizes = sorted({getattr(run, axis) for run in line})
    for size, colour in zip(sizes, SHADES[-len(sizes) :], strict=True):
        known = [run for run in line if getattr(run, axis) == size and math.isfinite(run.loss)]
        own = sorted(known, key=lambda run: run.rate)
        axes.plot([run.rate for run in own], [run.loss for run in own], color=colour, label=str(size), linewidth=1)
        for mark in (mark for mark in marks if getattr(mark, axis) == size):
            axes.plot(2**mark.octave, mark.loss, "o", color="white" if mark.at_edge else colour, markeredgecolor=colour,
                      markersize=4)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.legend(title=axis, title_fontsize=7, handlelength=1.2, fontsize=6.5, loc="upper center", ncols=2)


def coordinate_figure(measured: Sequence[Sizes], path: Path) -> None:
    """The change of activations after a few steps over widths and depths, a row per optimiser."""
    optimisers = list(dict.fromkeys(entry.optimiser for entry in measured))
    names = list(measured[0].change)
    with styled():
        figure = Figure(figsize=(7.2, 1.9 * len(optimisers) + 0.8), layout="constrained")
        grid = figure.subplots(len(optimisers), 2, sharey="row", squeeze=False)
        for row, optimiser in zip(grid, optimisers, strict=True):
            for axes, axis in zip(row, ("width", "depth"), strict=True):
                for kind, style in (("standard", ":"), ("mup", "-")):
                    own = sorted(
                        (entry for entry in measured
                         if (entry.optimiser, entry.parametrisation, entry.axis) == (optimiser, kind, axis)),
                        key=lambda entry: entry.size,
                    )  # fmt: skip
                    for name, colour in zip(names, PALETTE, strict=False):
                        values = [entry.change[name] for entry in own]
                        label = name if kind == "mup" else None
                        sizes = [entry.size for entry in own]
                        axes.plot(sizes, values, style, color=colour, label=label, linewidth=1.2, marker=".")
                axes.set(xscale="log", yscale="log", xlabel=axis)
                axes.set_xticks([entry.size for entry in own], [str(entry.size) for entry in own], minor=False)
                axes.minorticks_off()
            row[0].set_ylabel({"lion": "Lion", "adamw": "AdamW", "muon": "Muon"}[optimiser] + ": RMS of the change")
        grid[0][1].plot([], [], ":", color=GREY, label="the same, standard")
        handles, labels = grid[0][1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        figure.savefig(path)
