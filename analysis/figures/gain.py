"""What training adds against compute, beside raw recall: two panels for each relationship source."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.recall import FACET, INTERVAL, draw_fit, draw_points
from analysis.figures.style import (
    DARK,
    GREY,
    MANY,
    Encoding,
    choose_encoding,
    compute_label,
    logarithmic_compute,
    mark_model,
    open_section,
    outside_legend,
    styled,
)
from analysis.fitting.annealing import unannealed
from analysis.fitting.trend import LogLinearFit

OWN = {"marker": "_", "color": DARK, "linewidths": 1.3}


def gain_versus_compute(
    points: pd.DataFrame, gains: pd.DataFrame, fits: Sequence[LogLinearFit], convention: str
) -> Figure:
    """For each source: recall with that of each network's own initialisation, and the gain with its interval.

    Args:
        points: trained cells, as `recall_versus_compute` takes them.
        gains: one row per network, data set and source, over seeds: columns of points, gain, low, high and initial.
        fits: laws of the gain, at most one per source.
        convention: name of the compute convention.

    Raises:
        ValueError: there is no gain to draw.
    """
    sources = list(dict.fromkeys(gains["source"]))
    if not sources:
        raise ValueError("no gains to draw")
    encoding, many = choose_encoding(points), len(points) > MANY
    with styled():
        figure = Figure(figsize=(7.4, 0.5 + 2.3 * len(sources)), layout="constrained")
        for (left, right), source in zip(figure.subplots(len(sources), 2, squeeze=False), sources, strict=True):
            of_source = gains[gains["source"] == source]
            left.set_title(source.replace(FACET, "\n", 1), loc="left", fontweight="bold", parse_math=False)
            draw_points(left, points[points["source"] == source], encoding, many=many)
            left.scatter(of_source["compute"], of_source["initial"], s=60, zorder=3, **OWN)
            left.set_ylabel("Recall")
            _draw_gains(right, of_source, encoding)
            for fit in fits:
                if fit.source == source:
                    draw_fit(right, fit)
            right.set_ylabel("Gain over own initialisation")
            for axes in (left, right):
                logarithmic_compute(axes)
        figure.supxlabel(compute_label(convention))
        lines: list[Artist] = [
            Line2D([], [], color=DARK, marker="_", linestyle="none", markersize=8, label="own initialisation")
        ]
        if fits:
            lines.append(Line2D([], [], color=DARK, linewidth=1.3, label="log-linear fit of the gain"))
            lines.append(Patch(label=f"{fits[0].slope.confidence:.0%} interval of the fit", **INTERVAL))
        marks = [*encoding.sections(), open_section(unannealed(points))]
        outside_legend(figure, [*marks, ("Lines", lines)])
    return figure


def _draw_gains(axes: Axes, gains: pd.DataFrame, encoding: Encoding) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    for row, is_open in zip(gains.to_dict("records"), unannealed(gains), strict=True):
        colour = encoding.colours[row["size"]]
        axes.vlines(row["compute"], row["low"], row["high"], color=colour, linewidth=0.9, alpha=0.7)
        mark_model(axes, row["compute"], row["gain"], row, encoding, is_open=is_open)
