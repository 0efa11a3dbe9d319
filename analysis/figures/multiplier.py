"""Compute multipliers of variants as a forest plot: one row per comparison, intervals on a logarithmic axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.figures.style import COLOURS, DARK, GREY, LegendSection, outside_legend, styled

ROW_HEIGHT = 0.42  # inches
OWN_ROWS = (0.24, 0.44)  # where the multipliers with an exponent each are drawn, in rows below the shared one
INK = next(iter(COLOURS.values()))
ROOM = 1.25  # factor around what is drawn
NARROWEST = 1.5  # factor from 1 that the axis shows at least on either side
WIDEST = 1e3  # factor from 1 beyond which intervals end in an arrow


def multiplier_forest(multipliers: pd.DataFrame, baseline: str) -> Figure:
    """Multipliers with intervals, one row per label, in the order of the table from the top.

    Args:
        multipliers: columns label, value, low, high, compute and extrapolated. The row of a label without compute
            (NaN) is the fit with a shared exponent; its rows with compute, with an exponent each, are drawn small below
            it, in order of compute. Ends of 0 or infinity are open, and drawn as arrows; a value of NaN is not drawn.
        baseline: what all are compared with, for the axis.

    Raises:
        ValueError: there is nothing to draw.
    """
    if multipliers.empty:
        raise ValueError("no multipliers to draw")
    labels = list(dict.fromkeys(multipliers["label"].astype(str)))
    with styled():
        figure = Figure(figsize=(6.3, 1.0 + ROW_HEIGHT * len(labels)), layout="constrained")
        axes = figure.subplots()
        left, right = _limits(multipliers)
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.axvline(1, color=GREY, linewidth=0.8, zorder=1)
        for height, label in enumerate(labels):
            rows = multipliers[multipliers["label"].astype(str) == label]
            _label_rows(axes, height, rows, (left, right))
        axes.set_ylim(len(labels) - 0.4, -0.5)
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _few_ticks(axes, right / left)
        axes.set_xlabel(f"Compute of {baseline} over compute of the variant, same metric", parse_math=False)
        outside_legend(figure, _legend(multipliers))
    return figure


def _label_rows(axes: Axes, height: float, rows: pd.DataFrame, limits: tuple[float, float]) -> None:
    """The multipliers of one label around a height."""
    own = rows["compute"].notna()
    for row in rows[~own].to_dict("records"):
        _interval(axes, height, row["low"], row["high"], limits, INK, 1.6)
        face = "white" if row["extrapolated"] else INK
        axes.scatter(row["value"], height, s=18, color=face, edgecolors=INK, linewidths=1.1, zorder=3)
    ordered = rows[own].sort_values("compute")
    for below, row in zip(np.linspace(*OWN_ROWS, len(ordered)), ordered.to_dict("records"), strict=True):
        _interval(axes, height + below, row["low"], row["high"], limits, GREY, 0.7)
        face = "white" if row["extrapolated"] else GREY
        axes.scatter(row["value"], height + below, s=7, color=face, edgecolors=GREY, linewidths=0.7, zorder=3)


def _interval(
    axes: Axes, height: float, low: float, high: float, limits: tuple[float, float], colour: str, width: float
) -> None:
    """A line from low to high, with an arrow at an end beyond the limits."""
    ends = max(low, limits[0]), min(high, limits[1])
    axes.plot(ends, [height, height], color=colour, linewidth=width, solid_capstyle="butt", zorder=2)
    for end, marker, beyond in ((ends[0], "<", low < limits[0]), (ends[1], ">", high > limits[1])):
        if beyond:
            axes.plot([end], [height], marker=marker, color=colour, markersize=3 + width, clip_on=False, zorder=2)


def _limits(multipliers: pd.DataFrame) -> tuple[float, float]:
    """The axis' ends: round all that is bounded, and 1, with room."""
    numbers = multipliers[["value", "low", "high"]].to_numpy(dtype=np.float64).ravel()
    inside = numbers[np.isfinite(numbers) & (numbers >= 1 / WIDEST) & (numbers <= WIDEST)]
    low, high = min([1 / NARROWEST, *inside / ROOM]), max([NARROWEST, *inside * ROOM])
    return float(low), float(high)


def _few_ticks(axes: Axes, span: float) -> None:
    """Plain numbers at 1, 2, 5; at powers of ten alone where the axis is long."""
    steps = (1.0,) if span > WIDEST else (1.0, 2.0, 5.0) if span > 4 else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 8.5)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(multipliers: pd.DataFrame) -> list[LegendSection]:
    """What the marks are, as far as they occur."""
    marks = [Line2D([], [], color=INK, marker="o", markersize=4.2, linewidth=1.6, label="shared exponent")]
    if multipliers["compute"].notna().any():
        own = "an exponent each,\nless to more compute"
        marks.append(Line2D([], [], color=GREY, marker="o", markersize=2.6, linewidth=0.7, label=own))
    if multipliers["extrapolated"].astype(bool).any():
        marks.append(
            Line2D([], [], color=DARK, marker="o", markersize=5, markerfacecolor="white", linestyle="none",
                   label="extrapolated")
        )  # fmt: skip
    return [("Multiplier", marks)]
