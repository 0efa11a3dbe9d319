"""Metric against learning rate: the runs of each size, the parabola through the best of them, and its optimum."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from analysis.figures.style import COLOURS, DARK, GREY, OTHER_COLOURS, LegendSection, outside_legend, styled

MARKERS = "osP^vD"  # a further one for every seven sizes
TOP = 0.98  # height of runs that diverged, as a share of the axis


def metric_against_rate(runs: pd.DataFrame, lines: pd.DataFrame, optima: pd.DataFrame, *, rate: str, y: str) -> Figure:
    """One colour and marker per size; a bar at its parabola's optimum is the interval.

    Args:
        runs: columns size, rate and y; a y of NaN is a run that diverged, a cross at the top.
        lines: columns size, rate, y, and whether they are of a parabola; other lines are dotted.
        optima: columns size, rate, y, low and high.
        rate: label of the rate.
        y: label of the metric.

    Raises:
        ValueError: no run has a finite metric.
    """
    if not runs["y"].notna().any():
        raise ValueError("no run with a finite metric to draw")
    colours = (*COLOURS.values(), *OTHER_COLOURS)
    with styled():
        figure = Figure(figsize=(6.3, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        entries = []
        for number, size in enumerate(runs["size"].drop_duplicates()):
            colour, marker = colours[number % len(colours)], MARKERS[number // len(colours) % len(MARKERS)]
            own = [table[table["size"] == size] for table in (runs, lines, optima)]
            _size(axes, own[0], own[1], own[2], colour, marker)
            entries.append(Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.2, label=str(size)))
        axes.set_xlabel(rate, parse_math=False)
        axes.set_ylabel(y, parse_math=False)
        axes.xaxis.set_minor_formatter(NullFormatter())
        outside_legend(figure, [("Size", entries), *_legend(runs, lines, optima)])
    return figure


def _size(axes: Axes, runs: pd.DataFrame, lines: pd.DataFrame, optima: pd.DataFrame, colour: str, marker: str) -> None:
    """The runs, the line and the optimum of one size."""
    axes.scatter(runs["rate"], runs["y"], s=14, color=colour, marker=marker, linewidths=0.4, edgecolors="white",
                 zorder=3)  # fmt: skip
    lost = runs.loc[runs["y"].isna(), "rate"]
    axes.scatter(lost, [TOP] * len(lost), s=22, color=colour, marker="x", transform=axes.get_xaxis_transform(),
                 zorder=3)  # fmt: skip
    style, width = ("-", 1.2) if lines["parabola"].any() else (":", 0.8)
    axes.plot(lines["rate"], lines["y"], color=colour, linestyle=style, linewidth=width)
    for best in optima.to_dict("records"):
        ends, height = [best["low"], best["high"]], [best["y"], best["y"]]
        axes.plot(ends, height, color=colour, linewidth=2.6, alpha=0.45, solid_capstyle="butt", zorder=2)
        axes.scatter([best["rate"]], [best["y"]], s=46, facecolors="none", edgecolors=colour, linewidths=1.2, zorder=4)


def _legend(runs: pd.DataFrame, lines: pd.DataFrame, optima: pd.DataFrame) -> Sequence[LegendSection]:
    marks = []
    if len(optima):
        marks.append(Line2D([], [], color=GREY, marker="o", markersize=6.5, markerfacecolor="none", linewidth=2.6,
                            label="optimum, interval"))  # fmt: skip
    if not lines["parabola"].all():
        marks.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=":", label="no optimum shown"))
    if runs["y"].isna().any():
        marks.append(Line2D([], [], color=DARK, marker="x", markersize=4.5, linestyle="none", label="diverged"))
    return [("Parabola in log rate", marks)]
