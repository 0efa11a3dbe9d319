"""Metric against learning rate: the runs of each size, the parabola through the best of them, and its optimum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from analysis.design.best_rate import to_minimise
from analysis.design.rate_table import Sweep
from analysis.figures.style import COLOURS, DARK, GREY, OTHER_COLOURS, LegendSection, outside_legend, styled
from analysis.laws.metric import Metric

LINE_POINTS = 60
BEYOND = 0.25  # of the distance to the neighbouring rate that a parabola is drawn beyond it
MARKERS = "osP^vD"


def metric_against_rate(sweeps: Sequence[Sweep], metric: Metric, *, rate: str, y: str) -> Figure:
    """One colour and marker per size; a bar on its parabola's optimum is the interval.

    Args:
        sweeps: of each size.
        metric: what kind of number they hold.
        rate: label of the rate.
        y: label of the metric.

    Raises:
        ValueError: no run has a finite metric.
    """
    if not any(np.isfinite(sweep.y).any() for sweep in sweeps):
        raise ValueError("no run with a finite metric to draw")
    colours = (*COLOURS.values(), *OTHER_COLOURS)
    with styled():
        figure = Figure(figsize=(6.3, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        entries = []
        for number, sweep in enumerate(sweeps):
            colour, marker = colours[number % len(colours)], MARKERS[number // len(colours) % len(MARKERS)]
            _runs(axes, sweep, colour, marker)
            _parabola(axes, sweep, metric, colour)
            entries.append(Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.2, label=sweep.size))
        axes.set_xlabel(rate, parse_math=False)
        axes.set_ylabel(y, parse_math=False)
        axes.xaxis.set_minor_formatter(NullFormatter())
        outside_legend(figure, [("Size", entries), *_legend(sweeps)])
    return figure


def _runs(axes: Axes, sweep: Sweep, colour: str, marker: str) -> None:
    """The runs; those that diverged are crosses at the top."""
    finite = np.isfinite(sweep.y)
    axes.scatter(sweep.rate[finite], sweep.y[finite], s=14, color=colour, marker=marker, linewidths=0.4,
                 edgecolors="white", zorder=3)  # fmt: skip
    lost = sweep.rate[~finite]
    top = np.full(len(lost), 0.98)
    axes.scatter(lost, top, s=22, color=colour, marker="x", transform=axes.get_xaxis_transform(), zorder=3)


def _parabola(axes: Axes, sweep: Sweep, metric: Metric, colour: str) -> None:
    """The parabola near the optimum, with the optimum and its interval; a dotted line joins means if there is none."""
    reading, finite = sweep.reading, np.isfinite(sweep.y)
    u, z = np.log(sweep.rate[finite]), to_minimise(sweep.y[finite], metric)
    places = np.unique(np.round(u, 9))
    if reading is None or reading.rate is None or reading.bend is None:
        means = [float(np.mean(z[np.isclose(u, place)])) for place in places]
        axes.plot(np.exp(places), _metric(np.array(means), metric), color=colour, linewidth=0.8, linestyle=":")
        return
    at = int(np.argmin(np.abs(places - np.log(reading.best_run))))
    low, high = places[at - 1], places[at + 1]
    near = (u >= low - 1e-6) & (u <= high + 1e-6)
    optimum, bend = np.log(reading.rate), reading.bend
    level = float(np.mean(z[near] - bend * (u[near] - optimum) ** 2))
    margin = BEYOND * (high - low) / 2
    grid = np.linspace(low - margin, high + margin, LINE_POINTS)
    axes.plot(np.exp(grid), _metric(level + bend * (grid - optimum) ** 2, metric), color=colour, linewidth=1.2)
    best = float(_metric(np.array([level]), metric)[0])
    ends = [max(reading.low, float(sweep.rate.min())), min(reading.high, float(sweep.rate.max()))]
    axes.plot(ends, [best, best], color=colour, linewidth=2.6, alpha=0.45, solid_capstyle="butt", zorder=2)
    axes.scatter([reading.rate], [best], s=46, facecolors="none", edgecolors=colour, linewidths=1.2, zorder=4)


def _metric(z: np.ndarray, metric: Metric) -> np.ndarray:
    """Back from what is least at the best rate."""
    return np.asarray(metric.from_space(-z, "linear") if metric.kind == "score" else metric.from_space(z, "log"))


def _legend(sweeps: Sequence[Sweep]) -> list[LegendSection]:
    marks = []
    if any(sweep.reading and sweep.reading.rate is not None for sweep in sweeps):
        marks.append(Line2D([], [], color=GREY, marker="o", markersize=6.5, markerfacecolor="none", linewidth=2.6,
                            label="optimum, interval"))  # fmt: skip
    if any(sweep.reading is None or sweep.reading.rate is None for sweep in sweeps):
        marks.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=":", label="no optimum shown"))
    if any((~np.isfinite(sweep.y)).any() for sweep in sweeps):
        marks.append(Line2D([], [], color=DARK, marker="x", markersize=4.5, linestyle="none", label="diverged"))
    return [("Parabola in log rate", marks)]
